"""Numbers and words of degree in prose, each bound to the feature that it is said of."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache

from iot_pipeline.augmentation.answers import NUMBER, Facts
from iot_pipeline.augmentation.lexicon import HIGH_WORDS, LOW_WORDS, NO_DEGREE_OF, REFERENCE, RELATIVE, listed

SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
CLAUSE_END = re.compile(r";|[\u2013\u2014]|,\s+(?:and|while|whereas|but|yet|so)\b|\s(?:while|whereas)\b")
WORDS = re.compile(r"[a-z]+(?:['-][a-z]+)*")
RUNS = re.compile(r"F+N+|N+F+")
ENDING = re.compile(r"(?<=[a-z]{3})(?:ing|ed|es|er|est|en|s|e|y|ies|ied|ier)$")
UPWARD = frozenset({"up", "down"})
FAR = re.compile(r"\b(?:well|way|far|much|sharply|strongly|markedly|clearly)\s+$")
NEAR = 90  # characters between a word of degree and its feature
# Words between a feature and what is said of its size, and between a word of degree and the feature that follows.
AFTER = listed(
    "is are was were has have had be been being at of the a an its value values reading readings level levels figure"
    " count stands reads lies sits comes shows showing show reaches remains stays looks seems appears becomes which"
    " that it this here very quite rather far well much too so still also notably even in out on as to with by"
    " for flow record not no never n't hardly barely measured recorded given and more all again both itself there"
    " above below median mean p goes through well over under most extra such kept runs gets turns grows under"
    " came taken amounts equals indeed next close near almost but side what one might call"
)
BEFORE = listed("in of for the a an its value values reading readings level levels figure figures count counts by at")
NEGATIONS = listed("not no never n't hardly barely neither nor without isn't aren't wasn't")


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
    names = [(mention.start(), True, mention[0]) for mention in mentions]
    for ranked, true in ((False, facts.values), (True, facts.percentiles)):
        spots = [(place, False, number) for place, number in numbers if (number[:1] == "p") is ranked]
        for said, number in _bound(masked, sorted(names + spots)):
            yield said, number, number == "p50" or any(true.get(name) == number for name in said)


Spot = tuple[int, bool, str]  # place, True for a feature, the feature's name or the number


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


def stated_degrees(masked: str, mentions: Sequence[re.Match[str]]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (feature, word, direction, denied) for each word such as `elevated` or `minimal` said of a feature."""
    if not mentions:
        return
    text = masked.lower()
    starts, ends = [mention.start() for mention in mentions], [mention.end() for mention in mentions]
    for word in WORDS.finditer(text):
        said = degree(word[0])
        if not said or text[word.end() : word.end() + 1] == "-":
            continue
        after = text[word.end() : word.end() + NEAR]
        # "larger than orig_pkts" compares two features, "larger than usual" and "over the norm" say that it is above.
        compared = re.match(r"\s+than\b", after)
        beside = REFERENCE.match(after, compared.end() if compared else 0) is not None
        if word[0] in UPWARD:
            beside = beside or FAR.search(text[: word.start()][-12:]) is not None
        if (compared or word[0] in RELATIVE) and not beside:
            continue
        if NO_DEGREE_OF.match(after) or text[word.start() - 3 : word.end()] == "no longer":
            continue
        index = bisect_left(starts, word.start())
        if index < len(starts) and _glued(text[word.end() : starts[index]], BEFORE, "|"):
            denied = re.search(r"\b(?:not|no|never|hardly|without)(?:\s+an?)?\s+$", text[: word.start()][-20:])
            yield mentions[index][0], word[0], said, denied is not None
        elif index and _glued(text[ends[index - 1] : word.start()], AFTER, "|;"):
            between = WORDS.findall(text[ends[index - 1] : word.start()])
            yield mentions[index - 1][0], word[0], said, not NEGATIONS.isdisjoint(between)


def _glued(between: str, words: frozenset[str], stops: str) -> bool:
    """Return True if nothing stands between but words that bind; a comma binds only what follows a feature."""
    if len(between) > NEAR or any(stop in between for stop in stops) or SENTENCE_END.search(between):
        return False
    if words is BEFORE and "," in between:
        return False
    told = WORDS.findall(NUMBER.sub(" ", between))
    return all(word in words or word.endswith("ly") for word in told)


@lru_cache(maxsize=8192)
def degree(word: str) -> str:
    """Return `above` or `below` for a word of degree in any of its forms, "" for another word."""
    stem = _stem(word)
    if word in RELATIVE:
        return RELATIVE[word]
    return "above" if stem in _stems(HIGH_WORDS) else "below" if stem in _stems(LOW_WORDS) else ""


@lru_cache(maxsize=2)
def _stems(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


def _stem(word: str) -> str:
    """Return a word without its endings: elevated, elevates -> elevat; dropped, drops -> drop; towering -> tow."""
    while (stem := ENDING.sub("", word)) != word:
        word = stem
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
