"""Checks of a teacher's answer against its flow: the parts, the numbers, the directions and the argument."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from iot_pipeline.augmentation.answers import (
    MOST_REASONS,
    NAME_LIKE,
    NOTHING_KNOWN,
    NUMBER,
    STATED,
    Facts,
    Indicator,
    Known,
    ParsedAnswer,
    bare_label,
    facts_of,
    masked_names,
    numbers_at,
    numbers_in,
    parse_answer,
    plain_label,
)
from iot_pipeline.augmentation.binding import SENTENCE_END, bound_numbers
from iot_pipeline.augmentation.degrees import stated_degrees
from iot_pipeline.augmentation.given import given_faults
from iot_pipeline.augmentation.marks import mark_faults
from iot_pipeline.augmentation.mentions import certain_mentions
from iot_pipeline.augmentation.prose import words_of
from iot_pipeline.augmentation.verdicts import verdict_faults
from iot_pipeline.augmentation.wording import similarity
from iot_pipeline.flows.serialise import plain_number

MIN_INDICATORS = 3
# A paraphrase that shares more of its words and bigrams with the original is a copy: 99.9 % of originals with sentences
# moved and a tenth of the words exchanged do, and none of the analyst's paraphrases (benchmarks/answer_gates.py).
COPY_WORDS, COPY_BIGRAMS = 0.775, 0.6
# Words of an analysis: at least this many, and between these multiples of the words that were asked for.
LEAST_WORDS, LEAST_SHARE, MOST_SHARE = 8, 0.4, 2.5
OWN_SHARE = re.compile(r"[`'\"]?\s*\(?(\d{1,3})\s?%")  # right behind a category's value
DIRECTION = re.compile(r"\b(above|below)\b(?!-)", re.IGNORECASE)


def check_answer(
    text: str,
    flow_text: str,
    label: str,
    classes: Sequence[str],
    standardised: frozenset[str] = frozenset(),
    original_text: str = "",
    words: int = 0,
    marked: bool = False,
    known: Known = NOTHING_KNOWN,
) -> list[str]:
    """Return the reasons against an answer, [] if it is good; each begins with its kind and a colon.

    Kinds: malformed, mislabelled, length, ungrounded number, ungrounded value (of a category), unknown feature, wrong
    direction (a category has none, so any is wrong), other verdict, label given; where facts must be marked also
    unmarked fact and false fact. A paraphrase must have the original's numbers (as often), features and directions, and
    be no copy; further kinds: changed numbers, changed features, changed direction, copy.

    Args:
        text: The answer.
        flow_text: Text of its flow.
        label: Class of the flow.
        classes: Classes of the data set.
        standardised: Features whose sign is a direction (`facts_of`).
        original_text: Answer that this one paraphrases, if any.
        words: Words that were asked for; 0 if unknown.
        marked: True if features must be cited as marked facts.
        known: Values of categories in the train pool (`DatasetSpec.known_values`).
    """
    parsed = parse_answer(text)
    if parsed.problems:
        return [f"malformed: {problem}" for problem in parsed.problems[:MOST_REASONS]]
    facts = facts_of(flow_text, standardised, known)
    reading = _read(parsed.analysis, facts, tuple(classes))
    reasons = []
    if len(parsed.indicators) < min(MIN_INDICATORS, len(facts.values)):
        reasons.append(f"malformed: {len(parsed.indicators)} indicators")
    if plain_label(parsed.label) != plain_label(label) and parsed.label != bare_label(label):
        reasons.append(f"mislabelled: {parsed.label[:40]} in place of {label}")
    reasons += _check_length(parsed.analysis, words)
    reasons += _check_indicators(parsed.indicators, facts)
    reasons += _check_analysis(parsed.analysis, reading, facts, label, tuple(classes))
    if marked:
        reasons += mark_faults(parsed.analysis, facts)
    reasons = reasons[:MOST_REASONS]
    if not original_text:
        return reasons
    return reasons + _check_paraphrase(parsed, reading, original_text, facts, tuple(classes))


def _check_length(analysis: str, words: int) -> list[str]:
    written = len(analysis.split())
    least = max(LEAST_WORDS, int(words * LEAST_SHARE))
    if written < least:
        return [f"length: ANALYSIS has {written} words, {least} at least"]
    if words and written > words * MOST_SHARE:
        return [f"length: ANALYSIS has {written} words, {int(words * MOST_SHARE)} at most"]
    return []


def _check_indicators(indicators: Sequence[Indicator], facts: Facts) -> list[str]:
    reasons = []
    for item in indicators:
        if item.feature not in facts.values:
            reasons.append(f"unknown feature: {item.feature[:40]}")
            continue
        if facts.says(item) != facts.values[item.feature]:
            what = "value" if item.feature in facts.shares else "number"
            reasons.append(f"ungrounded {what}: {item.feature} {item.value}, not {facts.values[item.feature]}")
        true = facts.directions[item.feature]
        usual = f"{true} the median, {facts.percentiles.get(item.feature)}"
        if true and item.note in (usual, f"{true} the mean"):  # most notes, and a third of the time of a check
            continue
        for number in numbers_in(item.note, facts):
            if number not in (facts.percentiles.get(item.feature), facts.shares.get(item.feature), "p50"):
                reasons.append(f"ungrounded number: {number} in the note of {item.feature}")
        said = item.note.split(" ", 1)[0].lower().strip(",;")
        if said in ("above", "below", "at") and said != facts.directions[item.feature]:
            reasons.append(_wrong(item.feature, said, facts))
    return reasons


Reading = tuple[str, list[re.Match[str]], list[tuple[int, str]]]  # masked analysis, its features, its numbers


def _read(analysis: str, facts: Facts, classes: tuple[str, ...]) -> Reading:
    masked, mentions = masked_names(analysis, facts)
    named = _numbered(classes)
    without = named.sub(lambda name: "|" * len(name[0]), masked) if named else masked
    return masked, mentions, numbers_at(without, facts)


def _check_analysis(analysis: str, reading: Reading, facts: Facts, label: str, classes: tuple[str, ...]) -> list[str]:
    masked, mentions, numbers = reading
    reasons = []
    known = class_words(classes)
    for name in NAME_LIKE.findall(masked) if "_" in masked else ():
        if plain_label(name) in known:
            continue
        if not any(feature.startswith(f"{name}.") for feature in facts.values):  # `fwd_iat` abbreviates `fwd_iat.tot`
            reasons.append(f"unknown feature: {name[:40]}")
    reasons += [f"ungrounded number: {number}" for _, number in numbers if number not in facts.numbers]
    for index, mention in enumerate(mentions):
        end = mentions[index + 1].start() if index + 1 < len(mentions) else len(analysis)
        segment = analysis[mention.end() : end]
        stop = SENTENCE_END.search(segment)
        if stop is not None:
            segment = segment[: stop.start()]
        said = DIRECTION.search(segment)
        if said is not None and said[1].lower() != facts.directions[mention[0]]:
            reasons.append(_wrong(mention[0], said[1].lower(), facts))
        if mention[0] in facts.shares:
            reasons += _category_faults(mention[0], segment, facts)
            continue
        stated = STATED.match(segment)
        if stated is not None and plain_number(stated[1]) != facts.values[mention[0]]:
            reasons.append(f"ungrounded number: {mention[0]} {stated[1]}, not {facts.values[mention[0]]}")
    for names, number, true in bound_numbers(masked, mentions, numbers, facts):
        if not true and number in facts.numbers:
            reasons.append(f"ungrounded number: {number} is not of {' or '.join(names[:3])}")
    words = words_of(masked, label, classes)
    for name, word, height, denied in stated_degrees(words, [mention[0] for mention in mentions]):
        if (height == facts.directions[name]) == denied:
            reasons.append(_wrong(name, f"{'not ' if denied else ''}{word}", facts))
    reasons += verdict_faults(words, label) + given_faults(words, label)
    return list(dict.fromkeys(reasons))


@lru_cache(maxsize=64)
def class_words(classes: tuple[str, ...]) -> frozenset[str]:
    """Return what of class names reads like a feature's name: whole, or behind a hyphen (DDoS-ACK_Fragmentation)."""
    return frozenset(plain_label(part) for name in classes for part in (name, *NAME_LIKE.findall(name)))


@lru_cache(maxsize=64)
def _numbered(classes: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a pattern of the class names that have a number in them (`Type 2`), longest first; None without any."""
    names = sorted((name for name in classes if NUMBER.search(name)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)), re.IGNORECASE) if names else None


def _category_faults(name: str, segment: str, facts: Facts) -> list[str]:
    """Return the faults of what a segment states of the category named before it: its value and its share."""
    stated = facts.stated(name, segment, 0)
    if stated is None:
        return []
    if stated[3].casefold() != facts.values[name].casefold():
        return [f"ungrounded value: {name} {stated[3]}, not {facts.values[name]}"]
    share = OWN_SHARE.match(segment, stated.end())
    said = f"{share[1]}%" if share is not None else facts.shares[name]
    return [] if said == facts.shares[name] else [f"ungrounded number: {said} is not of {name}"]


def _wrong(feature: str, said: str, facts: Facts) -> str:
    true = facts.directions[feature]
    if feature in facts.shares:
        return f"wrong direction: {feature} {said}, but a category has no direction"
    return f"wrong direction: {feature} {said}, " + (f"it is {true}" if true else "but no reference is known")


def _check_paraphrase(
    parsed: ParsedAnswer, reading: Reading, original_text: str, facts: Facts, classes: tuple[str, ...]
) -> list[str]:
    original = parse_answer(original_text)
    both = ((parsed, reading), (original, _read(original.analysis, facts, classes)))
    counted, meant = [_all_numbers(one, read, facts) for one, read in both]
    reasons = []
    if counted != meant:
        reasons.append("changed numbers: they are not those of the original, each as often")
    features = [
        {found[0] for found in read[1]}.intersection(certain_mentions(facts.names, one.analysis))
        | {item.feature for item in one.indicators}
        for one, read in both
    ]
    if features[0] != features[1]:
        reasons.append("changed features: they are not those of the original")
    directions = [
        {item.feature: item.note.split(" ", 1)[0].lower() for item in one.indicators} for one in (parsed, original)
    ]
    if directions[0] != directions[1]:
        reasons.append("changed direction: KEY_INDICATORS differ from the original")
    words, bigrams = similarity(parsed.analysis, original.analysis)
    if words > COPY_WORDS and bigrams > COPY_BIGRAMS:
        reasons.append("copy: ANALYSIS is almost the original")
    return reasons


def _all_numbers(parsed: ParsedAnswer, reading: Reading, facts: Facts) -> Counter[str]:
    """Count the numbers of ANALYSIS and KEY_INDICATORS."""
    found = Counter(number for _, number in reading[2])
    for item in parsed.indicators:
        found.update([facts.says(item), *numbers_in(item.note, facts)])
    return found
