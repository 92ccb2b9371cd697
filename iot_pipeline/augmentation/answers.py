"""Answers as text: reading them, writing them in one form, and checking them against the flow they explain.

Belongs here: the answer's grammar and every rule an answer must keep. Does not belong here: asking for answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import parse_text

# Named in every request, so it changes the request key: raise it when prompts ask for another shape of answer.
ANSWER_SCHEMA = "answer-1"
ORDERS = ("label_first", "explanation_first")
# A paraphrase whose masked word pairs overlap more than this with those of its source is a copy.
COPY = 0.8

NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_SECTION = r"CLASSIFICATION|ANALYSIS|KEY[ _-]?INDICATORS"
_HEADER = re.compile(
    rf"^[ \t>*#_-]*(?i:({_SECTION}))(?:[ \t*_]*:[ \t*_]*|[ \t*_]*$)|(?<!\S)({_SECTION}):[ \t]*", re.MULTILINE
)
_BULLET = re.compile(r"^\s*(?:[-*•]\s+|\d+[.)]\s+)", re.MULTILINE)
_SPLIT = re.compile(r";|\n|,\s+(?=[`*]*[A-Za-z]\w*_[\w.]+[`*]*[\s:=]+[-+]?\d)")
_INDICATOR = re.compile(
    rf"^[`*\"']*([A-Za-z_][\w.]*\w)[`*\"']*\s*(?:[:=(]|of\b|is\b|at\b)?\s*[`*]*({NUMBER})?[`*]*\s*(.*)$", re.DOTALL
)
_NUMBER = re.compile(rf"(?<![\w.])({NUMBER})")
_PERCENTILE = re.compile(r"(?<![\w.])p(\d{1,3})\b|(?<![\w.])(\d{1,3})(?:st|nd|rd|th)\b|\bpercentile (\d{1,3})\b")
_MIDDLE = r"(?:median|average|mean|middle|centre|center|typical|usual|norm\w*)"
_DIRECTION = re.compile(
    r"\b(?:(above|higher|high|exceed\w*|elevated|greater)|(below|lower|low|reduced|smaller)"
    rf"|((?:at|equal to|near) (?:the |its )?{_MIDDLE}))\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:not|no|neither|nor|never|without|rather than|unlike|if)\b|n't", re.IGNORECASE)
# Something written like a feature: lower case, joined by underscores.
_FEATURE_LIKE = re.compile(r"(?<![\w.])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:\.[a-z]+)?(?!\w)")
_TOKEN = re.compile(r"[a-z]+|§")
_MINUS = str.maketrans({"−": "-", "–": "-", "‑": "-", "\r": None})


@dataclass(frozen=True)
class Indicator:
    """One cited feature: its value as written ("" if none), and what stands behind it (direction, percentile)."""

    feature: str
    value: str
    note: str = ""

    @property
    def direction(self) -> str | None:
        """`above`, `below`, `at`, or None where no direction is claimed."""
        return direction_of(self.note)

    def __str__(self) -> str:
        return " ".join(part for part in (self.feature, self.value, f"({self.note})" if self.note else "") if part)


@dataclass(frozen=True)
class ParsedAnswer:
    """The three parts of an answer; a missing part is empty. `sections` are the headers found, in order."""

    label: str
    analysis: str
    indicators: tuple[Indicator, ...]
    sections: tuple[str, ...] = ()


def parse_answer(text: str) -> ParsedAnswer:
    """Read an answer in either order, with or without Markdown; never raises, a missing part is empty."""
    text = text.translate(_MINUS)
    found = list(_HEADER.finditer(text))
    sections: list[str] = []
    parts: dict[str, str] = {}
    for match, following in zip(found, [*found[1:], None], strict=True):
        name = re.sub(r"[ -]", "_", (match[1] or match[2]).upper()).replace("KEYINDICATORS", "KEY_INDICATORS")
        sections.append(name)
        parts.setdefault(name, text[match.end() : following.start() if following else len(text)].strip())
    label = parts.get("CLASSIFICATION", "").strip().split("\n")[0]
    analysis = "\n".join(
        line for raw in parts.get("ANALYSIS", "").split("\n") if (line := " ".join(raw.split()))
    )
    return ParsedAnswer(
        label=label.strip(" \t*`\"'._[]<>"),
        analysis=analysis,
        indicators=tuple(_indicators(parts.get("KEY_INDICATORS", ""))),
        sections=tuple(sections),
    )


def _indicators(text: str) -> list[Indicator]:
    found = []
    for piece in _SPLIT.split(_BULLET.sub("", text)):
        match = _INDICATOR.match(piece.strip().rstrip("."))
        if match:
            note = " ".join(match[3].strip(" ()[],:-").split())
            found.append(Indicator(match[1], match[2] or "", note))
    return found


def format_answer(parsed: ParsedAnswer, order: str) -> str:
    """The canonical text of an answer: `label_first` or `explanation_first`. UserError for another order."""
    label = f"CLASSIFICATION: {parsed.label}"
    explanation = f"ANALYSIS: {parsed.analysis}\nKEY_INDICATORS: {'; '.join(map(str, parsed.indicators))}"
    if order not in ORDERS:
        raise UserError(f"unknown answer order {order!r}; use one of {', '.join(ORDERS)}.")
    return f"{label}\n{explanation}" if order == "label_first" else f"{explanation}\n{label}"


def direction_of(words: str) -> str | None:
    """The first direction claimed in a few words; None where there is none or it is denied."""
    match = _DIRECTION.search(words)
    if match is None or _NEGATED.search(words[: match.start()]):
        return None
    return "above" if match[1] else "below" if match[2] else "at"


def true_direction(value: str, percentile: int | None, standardised: bool) -> str | None:
    """Where a printed value really lies: by its percentile, else by its sign where values are standardised."""
    if percentile is None and not standardised:
        return None
    distance = percentile - 50 if percentile is not None else float(value)
    return "above" if distance > 0 else "below" if distance < 0 else "at"


def is_standardised(lines: Sequence[tuple[str, str, int | None]]) -> bool:
    """Whether a flow's values are standardised: in raw units nothing but a difference is ever negative."""
    return any(value.startswith("-") and "difference" not in name for name, value, _ in lines)


@lru_cache(maxsize=64)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """Matches one whole name; longer names first."""
    ordered = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<![\w.])(?:{ordered})(?!\w|\.\w)" if names else r"(?!)")


@lru_cache(maxsize=64)
def _stated(names: tuple[str, ...]) -> re.Pattern[str]:
    """`feature of 0.4`, `feature (0.4`, `feature = 0.4`: a number said to be the feature's."""
    filler = r"(?:of|is|at|was|reads|equals|stands|value|has|a|the|=|:|\()"
    return re.compile(rf"({_any_of(names).pattern})\s*(?:{filler}\s*){{1,4}}({NUMBER})")


def check_answer(
    text: str, flow_text: str, label: str, classes: Sequence[str], standardised: bool | None = None
) -> list[str]:
    """What is wrong with an answer to a flow that bears `label`; empty if nothing is.

    Each problem begins with its kind: malformed, mislabelled, unknown feature, ungrounded number, wrong value,
    wrong direction. standardised: whether signs tell directions; None = see `is_standardised`.
    """
    lines = parse_text(flow_text)
    known = {name: (value, percentile) for name, value, percentile in lines}
    if standardised is None:
        standardised = is_standardised(lines)
    parsed = parse_answer(text)
    problems = _check_form(parsed)
    if parsed.label and parsed.label != label:
        problems.append(f"mislabelled: the answer says {parsed.label}, the flow is {label}")
    for indicator in parsed.indicators:
        if indicator.feature not in known:
            problems.append(f"unknown feature: {indicator.feature}")
            continue
        value, percentile = known[indicator.feature]
        if indicator.value != value:
            problems.append(f"wrong value: {indicator.feature} is {value}, not {indicator.value or 'left out'}")
        true = true_direction(value, percentile, standardised)
        if indicator.direction and indicator.direction != true:
            problems.append(f"wrong direction: {indicator.feature} is {true or 'without one'}, not {indicator.direction}")
        cited = [int(next(filter(None, found))) for found in _PERCENTILE.findall(indicator.note)]
        if any(number != percentile for number in cited):
            problems.append(f"wrong value: the percentile of {indicator.feature} is {percentile}, not {cited[0]}")
    return list(dict.fromkeys([*problems, *_check_prose(parsed, known, classes, standardised)]))


def _check_form(parsed: ParsedAnswer) -> list[str]:
    missing = [
        name
        for name, part in (
            ("CLASSIFICATION", parsed.label), ("ANALYSIS", parsed.analysis), ("KEY_INDICATORS", parsed.indicators)
        )
        if not part
    ]
    twice = [name for name, count in Counter(parsed.sections).items() if count > 1]
    return [f"malformed: no {name}" for name in missing] + [f"malformed: {name} stands twice" for name in twice]


def _check_prose(
    parsed: ParsedAnswer, known: dict[str, tuple[str, int | None]], classes: Sequence[str], standardised: bool
) -> list[str]:
    """Numbers, features and directions of ANALYSIS, and numbers in the notes of KEY_INDICATORS."""
    problems = []
    names = tuple(known)
    features = _any_of(names)
    prose = _BULLET.sub("", parsed.analysis)
    notes = " ; ".join(indicator.note for indicator in parsed.indicators)
    values = {value for value, _ in known.values()}
    ranks = {str(percentile) for _, percentile in known.values() if percentile is not None}
    bare = _any_of(tuple(classes)).sub(" ", features.sub(" ", f"{prose} ; {notes}"))
    for found in _FEATURE_LIKE.findall(bare):
        problems.append(f"unknown feature: {found}")
    for one, two, three in _PERCENTILE.findall(bare):
        if (one or two or three) not in ranks:
            problems.append(f"ungrounded number: percentile {one or two or three}")
    for number in _NUMBER.findall(_PERCENTILE.sub(" ", bare)):
        if number not in values:
            problems.append(f"ungrounded number: {number}")
    for feature, number in _stated(names).findall(prose):
        if number != known[feature][0]:
            problems.append(f"wrong value: {feature} is {known[feature][0]}, not {number}")
    for feature, claim in _claims(prose, features):
        true = true_direction(*known[feature], standardised)
        if claim != true and true is not None:
            problems.append(f"wrong direction: {feature} is {true}, not {claim}")
    return problems


def _claims(prose: str, features: re.Pattern[str]) -> list[tuple[str, str]]:
    """(feature, direction) where prose sets a feature above, below or at a middle, in one clause after its name."""
    found = []
    matches = list(features.finditer(prose))
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        clause = re.split(r";|[.!?](?:\s|$)", prose[match.end() : following.start() if following else None])[0][:60]
        claim = re.search(rf"\b(above|below|at) (?:the |its |their )?{_MIDDLE}\b", clause)
        if claim and not _NEGATED.search(clause[: claim.start()]):
            found.append((match[0], claim[1]))
    return found


def numbers_of(text: str) -> Counter[str]:
    """Multiset of the numbers in an answer's explanation, percentiles as `p97`."""
    parsed = parse_answer(text)
    whole = f"{_BULLET.sub('', parsed.analysis)} ; {' ; '.join(map(str, parsed.indicators))}"
    ranks = Counter(f"p{one or two or three}" for one, two, three in _PERCENTILE.findall(whole))
    return ranks + Counter(_NUMBER.findall(_PERCENTILE.sub(" ", whole)))


def masked(text: str, names: Sequence[str], classes: Sequence[str] = ()) -> str:
    """An answer's ANALYSIS in lower case with every number, feature and class as `§`: its wording alone."""
    prose = _any_of(tuple(names)).sub("§", parse_answer(text).analysis)
    prose = _any_of(tuple(classes)).sub("§", prose)
    return _NUMBER.sub("§", _PERCENTILE.sub("§", prose)).lower()


def similarity(one: str, other: str) -> float:
    """Jaccard similarity (0..1) of the word pairs of two masked texts."""
    first, second = _pairs(one), _pairs(other)
    return len(first & second) / max(1, len(first | second))


def _pairs(text: str) -> set[tuple[str, str]]:
    tokens = ["", *_TOKEN.findall(text), ""]
    return set(zip(tokens, tokens[1:], strict=False))


def check_paraphrase(
    text: str,
    source_answer: str,
    flow_text: str,
    label: str,
    classes: Sequence[str],
    standardised: bool | None = None,
) -> list[str]:
    """What is wrong with a paraphrase of `source_answer`: all of `check_answer`, and what must have stayed the same.

    Further kinds: changed number, changed feature, changed direction, copy.
    """
    problems = check_answer(text, flow_text, label, classes, standardised)
    names = tuple(name for name, _, _ in parse_text(flow_text))
    before, after = numbers_of(source_answer), numbers_of(text)
    if before != after:
        lost, new = sorted((before - after).elements()), sorted((after - before).elements())
        problems.append(f"changed number: lost {', '.join(lost) or 'none'}; new {', '.join(new) or 'none'}")
    source, result = parse_answer(source_answer), parse_answer(text)
    cited = [_cited(parsed, names) for parsed in (source, result)]
    if cited[0] != cited[1]:
        problems.append(f"changed feature: {', '.join(sorted(cited[0] ^ cited[1]))}")
    directions = [{i.feature: i.direction for i in parsed.indicators} for parsed in (source, result)]
    if turned := sorted(name for name in directions[0] if directions[0][name] != directions[1].get(name)):
        problems.append(f"changed direction: {', '.join(turned)}")
    alike = similarity(masked(source_answer, names, classes), masked(text, names, classes))
    if alike > COPY:
        problems.append(f"copy: {alike:.2f} of its word pairs are those of its source")
    return problems


def _cited(parsed: ParsedAnswer, names: tuple[str, ...]) -> set[str]:
    return {indicator.feature for indicator in parsed.indicators} | set(_any_of(names).findall(parsed.analysis))
