"""Form of flow texts: printed values, the serialisations `values`, `ranked`, `compact`, and their parsing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.spec import DatasetSpec, Format
from iot_pipeline.flows.sql import identifier, literal

# values: `name: value` per line; ranked: `name: value pNN`; compact: one family per line, see `leads`. A category is
# `name = value` on a line of its own in each, in ranked with its share of the train pool: `name = value 83%`.
SERIALISATIONS = ("values", "ranked", "compact")
# A number in any serialisation, or as an answer may write it.
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_LINE = re.compile(rf"([^\s:]+): ({NUMBER})(?: p(\d{{1,3}}))?")
_CATEGORY = re.compile(rf"([^\s:]+) = ({VALUE})(?: (\d{{1,3}}%))?")
_FAMILY = re.compile(rf"[^\s:]+(?: [^\s:]+ {NUMBER}){{2,}}|[^\s:]+ {NUMBER}(?: [^\s:]+ {NUMBER})*")
# Feature, printed value, and place in the train pool: a percentile (97) or None; of a category its share (83%) or "".
Parsed = tuple[str, str, int | str | None]
# Above this, fixed decimals would print up to hundreds of digits; no capture has such a value.
HUGE = 1e15


def printed(form: Format, value: float) -> str:
    """Format one value as in every flow text; zero has no sign."""
    if form.significant is not None:
        text = f"{value:.{form.significant}g}"
    elif abs(value) >= HUGE:
        text = f"{value:.6e}"
    else:
        text = f"{value:.{form.decimals}f}"
    return text[1:] if text.startswith("-") and float(text) == 0.0 else text


def printer(spec: DatasetSpec) -> Callable[[str, Any], str]:
    """Return a formatter (feature, value) -> the value as texts show it; a category's value is a text already.

    With a scaling fitted on the train pool, the printed value is scaled and printed again, so all rows of a flow group
    have the same text.
    """
    scales = spec.fitted_scales

    def number(name: str, value: float) -> str:
        text = printed(spec.format, value)
        return printed(spec.format, scales[name].from_raw(float(text))) if scales else text

    categories = frozenset(spec.category_names)
    return (lambda name, value: value if name in categories else number(name, value)) if categories else number


def group_id(text: str) -> str:
    """Return the flow group of a `values` text: its SHA-256, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def printed_sql(form: Format, expression: str) -> str:
    """Return SQL that formats a DOUBLE expression exactly as `printed` does."""
    if form.significant is not None:
        text = f"printf('%.{form.significant}g', {expression})"
        return f"CASE WHEN {expression} = 0 THEN '0' ELSE {text} END"
    text = f"printf('%.{form.decimals}f', {expression})"
    zero = f"{0:.{form.decimals}f}"
    huge = f"printf('%.6e', {expression})"
    return f"CASE WHEN abs({expression}) >= {HUGE!r} THEN {huge} WHEN {text} = '-{zero}' THEN '{zero}' ELSE {text} END"


def values_text_sql(spec: DatasetSpec) -> str:
    """Return SQL for the `values` text without fitted scales, over columns named like the features."""
    lines = []
    for feature, lead in zip(spec.features, leads(spec.feature_names, "values", spec.category_names), strict=True):
        column = identifier(feature.name)
        cell = column if feature.is_category else printed_sql(spec.format, column)
        lines.append(f"{literal(lead.removeprefix(chr(10)))} || ({cell})")
    return " || chr(10) || ".join(lines)


def shortened(text: str) -> str:
    """Shorten a printed number: -0.117 -> -.117, 1.500 -> 1.5, 8.809e+05 -> 880900, 2.5e-05 -> 2.5e-5.

    The value never changes, so two printed numbers with different values stay different.
    """
    mantissa, mark, exponent = text.partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    short = re.sub(r"^(-?)0\.", r"\1.", mantissa)
    if not mark:
        return short
    short += f"e{int(exponent)}"
    digits = f"{Decimal(text):f}"
    return digits if "." not in digits and len(digits) <= len(short) else short


def plain_number(text: str) -> str:
    """Normalise the spelling of a number: a zero before the point, no plus sign (-.117 -> -0.117)."""
    text = text.removeprefix("+")
    return re.sub(r"^(-?)\.", r"\g<1>0.", text) if text.startswith((".", "-.")) else text


def _stem(name: str) -> str:
    """Return a name without its last word (`fwd_iat.tot` -> `fwd_iat.`); empty if it has only one word."""
    match = re.fullmatch(r"(.*[._])[^._]+", name)
    return match[1] if match is not None else ""


def leads(names: Sequence[str], serialisation: str, categories: Collection[str] = ()) -> tuple[str, ...]:
    """Return the text before each feature's value; a flow text is lead, value, lead, value, ...

    `compact` writes a family of neighbouring features on one line. A family shares all but the last word of its first
    name; a shared part that ends in a point is written once, in front:

        values               compact
        fwd_iat.tot: -0.117  fwd_iat tot -.117 avg -.199
        fwd_iat.avg: -0.199  orig_pkts 1 ip_bytes 2
        orig_pkts: 1
        orig_ip_bytes: 2

    A category always stands on a line of its own, as `name = value`, so that lines are read without knowing features.
    Raises UserError for an unknown serialisation.
    """
    if serialisation not in SERIALISATIONS:
        raise UserError(f"unknown serialisation {serialisation!r}; use one of {', '.join(SERIALISATIONS)}.")
    lines = (
        _families(names, categories)
        if serialisation == "compact"
        else [[f"{name} = " if name in categories else f"{name}: "] for name in names]
    )
    return tuple(
        lead if place or not number else f"\n{lead}"
        for number, line in enumerate(lines)
        for place, lead in enumerate(line)
    )


def _families(names: Sequence[str], categories: Collection[str]) -> list[list[str]]:
    """Return the text before each value, for each line of `compact`."""
    lines: list[list[str]] = []
    stem = ""
    for name in names:
        if name in categories:
            lines.append([f"{name} = "])
            stem = ""
        elif stem and name.startswith(stem) and name != stem:
            if len(lines[-1]) == 1 and stem.endswith("."):
                lines[-1][0] = f"{stem[:-1]} {lines[-1][0].removeprefix(stem)}"
            lines[-1].append(f" {name.removeprefix(stem)} ")
        else:
            lines.append([f"{name} "])
            stem = _stem(name)
    return lines


def serialisation_of(text: str) -> str:
    """Detect the serialisation of a flow text; feature names never contain a colon."""
    lines = text.split("\n")
    if any(": " not in line and " = " not in line for line in lines):
        return "compact"
    return "ranked" if re.search(r"(?::| =) \S+ (?:p\d{1,3}|\d{1,3}%)$", lines[0]) else "values"


def parse_line(line: str) -> list[Parsed]:
    """Parse one line of a flow text into (name, printed value, its place); [] if it does not match."""
    match = _LINE.fullmatch(line)
    if match is not None:
        return [(match[1], match[2], int(match[3]) if match[3] else None)]
    match = _CATEGORY.fullmatch(line)
    if match is not None:
        return [(match[1], match[2], match[3] or "")]
    if _FAMILY.fullmatch(line) is None:
        return []
    words = line.split(" ")
    if len(words) % 2:
        stem, first = f"{words[0]}.", f"{words[0]}.{words.pop(1)}"
        words[0] = first
    else:
        stem = _stem(words[0])
    names = [words[0], *(stem + word for word in words[2::2])]
    return [(name, value, None) for name, value in zip(names, words[1::2], strict=True)]


def placed(value: str, place: int | str | None) -> str:
    """Return a cell of a flow text: a printed value and its place, as `parse_text` gives them."""
    if not place and place != 0:
        return value
    return f"{value} {place}" if isinstance(place, str) else f"{value} p{place}"


def parse_text(text: str) -> list[Parsed]:
    """Parse a flow text of any serialisation into (name, printed value, its place) for each feature.

    Raises UserError naming the first line that does not match.
    """
    found: list[Parsed] = []
    for number, line in enumerate(text.split("\n"), start=1):
        values = parse_line(line)
        if not values:
            raise UserError(f"line {number} of the flow text is not `feature: value`: {line[:80]!r}.")
        found += values
    return found
