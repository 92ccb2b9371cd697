"""Numbers in prose, each bound to the feature that it is said of."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from iot_pipeline.augmentation.answers import Facts

SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
CLAUSE_END = re.compile(r";|[\u2013\u2014]|,\s+(?:and|while|whereas|but|yet|so)\b|\s(?:while|whereas)\b")
RUNS = re.compile(r"F+N+|N+F+")

Spot = tuple[int, bool, str]  # place, True for a feature, the feature's name or the number


def bound_numbers(
    masked: str, mentions: Sequence[re.Match[str]], numbers: Sequence[tuple[int, str]], facts: Facts
) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Yield (features, number, true) for each number of the prose that is said of a feature, or of one of several.

    Args:
        masked: Analysis with feature names masked.
        mentions: Matches of the feature names.
        numbers: Numbers by place, percentiles as `p97`.
        facts: Facts of the flow.
    """
    # A category has no number but its share, so that it claims none where no share is said.
    shares = any(number.endswith("%") for _, number in numbers)
    named = [mention for mention in mentions if shares or mention[0] not in facts.shares]
    names = [(mention.start(), True, mention[0]) for mention in named]
    values = facts.values | facts.shares if facts.shares else facts.values
    for ranked, true in ((False, values), (True, facts.percentiles)):
        spots = [(place, False, number) for place, number in numbers if (number[:1] == "p") is ranked]
        ordered = sorted(names + spots)
        behind = [pair for pair in zip([(0, False, ""), *ordered], ordered, strict=False) if not pair[1][1]]
        if all(_beside(masked, feature, number, true) for feature, number in behind):
            yield from (((feature[2],), number[2], True) for feature, number in behind)
            continue
        for said, number in _bound(masked, ordered):
            yield said, number, number == "p50" or any(true.get(name) == number for name in said)


def _beside(masked: str, feature: Spot, number: Spot, true: dict[str, str]) -> bool:
    """Return True if a number stands behind its own feature in one clause: then every way of binding finds it true."""
    between = masked[feature[0] : number[0]]
    return (
        feature[1]
        and number[2] in ("p50", true.get(feature[2]))
        and not CLAUSE_END.search(between)
        and not SENTENCE_END.search(between)
    )


def _bound(masked: str, spots: list[Spot]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each number with the features that it may belong to; a number that no feature claims is left out."""
    for sentence in _parts(spots, [end.start() for end in SENTENCE_END.finditer(masked)]):
        shape = _shape(sentence)
        if shape.count("F") == shape.count("N") > 1 and RUNS.fullmatch(shape):  # a and b are 1 and 2
            yield from _paired(sentence)
            continue
        ends = [end.start() for end in CLAUSE_END.finditer(masked, sentence[0][0], sentence[-1][0])]
        for clause in _parts(sentence, ends):
            yield from _in_clause(clause, _shape(clause))


def _in_clause(clause: list[Spot], shape: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if shape.count("F") == shape.count("N") and RUNS.fullmatch(shape):
        yield from _paired(clause)
    elif shape[0] == "N" and "FF" in shape:  # at 1, a is low, just as b (2) and c (3)
        cut = shape.index("FF") + 1
        yield from _in_clause(clause[:cut], shape[:cut])
        yield from _in_clause(clause[cut:], shape[cut:])
    elif shape[0] == "N":  # with 1, a is above the mean
        for (_, named, number), (_, follows, name) in zip(clause, clause[1:], strict=False):
            if follows and not named:
                yield (name,), number
    else:
        since: list[str] = []
        for (_, named, text), before in zip(clause, f" {shape}", strict=False):
            if named:
                since = [*since, text] if before == "F" else [text]
            elif before == "F":
                yield tuple(since), text


def _paired(spots: list[Spot]) -> Iterator[tuple[tuple[str, ...], str]]:
    names = [text for _, named, text in spots if named]
    numbers = [text for _, named, text in spots if not named]
    yield from (((name,), number) for name, number in zip(names, numbers, strict=True))


def _shape(spots: list[Spot]) -> str:
    return "".join("F" if named else "N" for _, named, _ in spots)


def _parts(spots: list[Spot], ends: list[int]) -> Iterator[list[Spot]]:
    """Split spots at the given places; parts without a spot are left out."""
    part: list[Spot] = []
    index = 0
    for spot in spots:
        if index < len(ends) and ends[index] < spot[0]:
            if part:
                yield part
            part, index = [], bisect_left(ends, spot[0])
        part.append(spot)
    if part:
        yield part
