"""Quality of explanations by rule, for student and teacher alike: every claim is held against its own flow.

Belongs here: checks that need only flow text, answer and scored label. Does not belong here: what a teacher's
answer must fulfil before it is kept (augmentation), judgement of usefulness (people).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import RankTable, parse_text

SECTIONS = ("CLASSIFICATION", "ANALYSIS", "KEY_INDICATORS")
HEADING = re.compile(r"^(CLASSIFICATION|ANALYSIS|KEY_INDICATORS):[ \t]*", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)(?!\.\d)")
PERCENTILE = re.compile(r"\bp(\d{1,3})\b|\b(\d{1,3})(?:st|nd|rd|th) percentile")
NAME = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:\.[a-z]+)?\b")
DIRECTION = re.compile(r"\b(above|higher|high|over|below|lower|low|under)\b")
UP = {"above", "higher", "high", "over"}


def explanation_quality(
    flow_texts: Sequence[str],
    answers: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    ended: Sequence[bool] | None = None,
    ranks: RankTable | None = None,
) -> dict[str, Any]:
    """Score answers [n] to flow texts [n] whose scored (or given) classes are `labels` [n].

    Directions are true when the percentile is above or below 50: that in the flow text, else that of `ranks`,
    else, without either, the sign of the value (right for z-scores only). `ended`: whether the answer
    ended with end-of-text. Returns {items: [...], aggregate: {...}}; a share with nothing to measure is None.
    """
    if not len(flow_texts) == len(answers) == len(labels) or (
        ended is not None and len(ended) != len(answers)
    ):
        raise UserError("explanations need one flow text, one answer and one label each")
    items = [
        judge(text, answer, label, classes, ranks)
        for text, answer, label in zip(flow_texts, answers, labels, strict=True)
    ]
    if ended is not None:
        for item, done in zip(items, ended, strict=True):
            item["ended"] = bool(done)
    return {"items": items, "aggregate": aggregate(items)}


def judge(
    flow_text: str, answer: str, label: str, classes: Sequence[str], ranks: RankTable | None = None
) -> dict[str, Any]:
    """All checks of one answer; counts are pairs (how many there are, how many are right)."""
    flow = {name: (value, percentile) for name, value, percentile in parse_text(flow_text)}
    parts = split_sections(answer)
    prose = "\n".join(parts.get(name, "") for name in ("ANALYSIS", "KEY_INDICATORS")).replace("\u2212", "-")
    numbers = _numbers(prose, flow)
    names = _names(prose, flow, classes)
    cited, directed = _indicators(parts.get("KEY_INDICATORS", "").replace("\u2212", "-"), flow, ranks)
    said = parts.get("CLASSIFICATION", "").strip()
    return {
        "schema": sorted(parts) == sorted(SECTIONS) and all(text.strip() for text in parts.values()),
        "label": said if said in classes else None,
        "label_matches": said == label,
        "numbers": len(numbers),
        "numbers_grounded": sum(grounded for _, grounded in numbers),
        "ungrounded": sorted({number for number, grounded in numbers if not grounded}),
        "features": len(names),
        "features_real": sum(name in flow for name in names),
        "unknown_features": sorted({name for name in names if name not in flow}),
        "cited_features": sorted({name for name, _ in cited}),
        "values_cited": len(cited),
        "values_true": sum(right for _, right in cited),
        "directions": len(directed),
        "directions_true": sum(right for _, right in directed),
        "false_directions": sorted({name for name, right in directed if not right}),
        "words": len(prose.split()),
    }


def split_sections(answer: str) -> dict[str, str]:
    """Text under each heading; a heading that occurs twice makes the answer malformed, so {} is returned."""
    found = list(HEADING.finditer(answer))
    if len({match[1] for match in found}) != len(found):
        return {}
    ends = [match.start() for match in found[1:]] + [len(answer)] * bool(found)
    return {match[1]: answer[match.end() : end].strip() for match, end in zip(found, ends, strict=True)}


def aggregate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all items; those of numbers, features and directions are over all mentions."""

    def of(part: str, whole: str) -> float | None:
        total = sum(item[whole] for item in items)
        return sum(item[part] for item in items) / total if total else None

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "explained": len(items),
        "schema_valid": mean([float(item["schema"]) for item in items]),
        "label_matches": mean([float(item["label_matches"]) for item in items]),
        "numbers_grounded": of("numbers_grounded", "numbers"),
        "fully_grounded": mean(
            [float(item["numbers_grounded"] == item["numbers"]) for item in items if item["numbers"]]
        ),
        "features_real": of("features_real", "features"),
        "values_true": of("values_true", "values_cited"),
        "directions_true": of("directions_true", "directions"),
        "features_cited_mean": mean([float(len(item["cited_features"])) for item in items]),
        "words_mean": mean([float(item["words"]) for item in items]),
        "ended": mean([float(item["ended"]) for item in items if "ended" in item]),
    }


def _numbers(prose: str, flow: dict[str, tuple[str, int | None]]) -> list[tuple[str, bool]]:
    """Each number and whether it stands in the flow, at the printed precision; percentiles count as
    numbers."""
    values = {value for value, _ in flow.values()}
    percentiles = {percentile for _, percentile in flow.values() if percentile is not None}
    found = [(match[0], int(match[1] or match[2]) in percentiles) for match in PERCENTILE.finditer(prose)]
    rest = PERCENTILE.sub(" ", prose)
    return found + [(match[0], match[0].removeprefix("+") in values) for match in NUMBER.finditer(rest)]


def _names(prose: str, flow: dict[str, tuple[str, int | None]], classes: Sequence[str]) -> list[str]:
    """Mentions of features: every known name, and every other word that is built like one."""
    other = {name.lower() for name in classes}
    known = re.compile(
        "|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in sorted(flow, key=len, reverse=True))
    )
    found = known.findall(prose)
    rest = known.sub(" ", prose)
    return found + [name for name in NAME.findall(rest) if name not in other]


def _indicators(
    text: str, flow: dict[str, tuple[str, int | None]], ranks: RankTable | None
) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """(feature, value as in the flow?) and (feature, direction true?) of each `feature value ...`
    indicator."""
    cited: list[tuple[str, bool]] = []
    directed: list[tuple[str, bool]] = []
    for part in re.split(r"[;\n]", text):
        words = part.split()
        name = next((word.rstrip(":,=") for word in words if word.rstrip(":,=") in flow), None)
        if name is None:
            continue
        value, percentile = flow[name]
        rest = part.split(name, 1)[1]
        number = NUMBER.search(PERCENTILE.sub(" ", rest))
        if number is not None:
            cited.append((name, number[0].removeprefix("+") == value))
        word = DIRECTION.search(rest)
        if word is not None:
            if percentile is None and ranks is not None:
                percentile = ranks.percentile(name, value)
            side = float(value) if percentile is None else percentile - 50
            directed.append((name, side > 0 if word[1] in UP else side < 0))
    return cited, directed
