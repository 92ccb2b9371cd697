"""Words of degree in prose, each bound to the feature that it is said of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from iot_pipeline.augmentation.degree_words import DEGREES
from iot_pipeline.augmentation.symbols import sentences

SAYS = {"H": "above", "L": "below", "R": "above", "r": "below", "E": "above", "e": "below"}
DEGREE = re.compile("[HLRrEe]")
NEAR = 14  # words between a word of degree and its feature
# Larger than the usual, over the norm; "larger than orig_pkts" compares two features.
BESIDE = re.compile("T?[btaxv]{0,3}=")
EXCEEDS = re.compile("[btaxvsrR]{0,5}=|[.,;]|$")
OF_ARGUMENT = re.compile("[ta]?x?n")  # a high importance, a small hint
FOLLOWS = re.compile(r"[bvaHL]{0,5}\|")
DENIED = re.compile("N[ba]{0,2}$")
BINDS = re.compile(r"[btavN,HLRrEe=]*")
ONCE = re.compile(r"[btavN,]*x[btavN]*")  # with one word that is in no list, if nothing follows
ENDS = re.compile("[.,;b=]|$")


def stated_degrees(words: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (feature, word, direction, denied) for each word such as `elevated` or `minimal` said of a feature.

    Args:
        words: Words of an analysis (`prose.words_of`).
        names: Its features, in order.
    """
    symbols = DEGREES.of(words)
    seen = 0
    for start, end in sentences(symbols):
        said = symbols[start:end]
        if "|" in said:
            for place, feature, denied in _in_sentence(said):
                yield names[seen + feature], words[start + place], SAYS[said[place]], denied
            seen += said.count("|")


def _in_sentence(said: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (place, number of the feature in the sentence, denied) for each word of degree that is bound."""
    for found in DEGREE.finditer(said):
        place, kind = found.start(), found[0]
        after = said[place + 1 :]
        if (kind in "Rr" and not BESIDE.match(after)) or (kind in "Ee" and not EXCEEDS.match(after)):
            continue
        if (after[:1] == "T" and not BESIDE.match(after)) or OF_ARGUMENT.match(after):
            continue
        if after[:1] in ("H", "L") and after[0] != kind:  # a big fall
            continue
        if FOLLOWS.match(after):
            yield place, said.count("|", 0, place), DENIED.search(said, max(0, place - 4), place) is not None
            continue
        feature = said.rfind("|", 0, place)
        if feature < 0 or place - feature > NEAR or re.search("n[bt]{0,2}$", said[:feature]):
            continue
        between = said[feature + 1 : place]
        if after[:1] == "x" and said[place - 1] == "b" and said[place - 2 : place] != "||":  # a small difference
            continue
        if BINDS.fullmatch(between) or (ONCE.fullmatch(between) and ENDS.match(after)):
            yield place, said.count("|", 0, place) - 1, between.count("N") % 2 == 1
