"""Mentions of features in a text: where a name stands, and is meant as the feature's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from iot_pipeline.augmentation.degree_words import DEGREES
from iot_pipeline.augmentation.prose_words import PROSE_WORDS
from iot_pipeline.flows.serialise import NUMBER

BETWEEN = r"\s*(?:(?:\(|=|:|of|at|is|reads|stands at)\s*)?"  # between a feature and its value
A_NUMBER = rf"(?<![\w.])(?:{NUMBER}|p\d{{1,3}})(?!\w)"
# A number in the clause before or behind a word that is a name as well; "looking at rate, we find 12" is the longest.
BEHIND = re.compile(rf"(?:(?!\.\s)[^;!?\n]){{0,30}}?{A_NUMBER}")
BEFORE = re.compile(rf"{A_NUMBER}\)?,?\s+(?:(?:puts|places|leaves|sets|makes|brings|for|in|of|as)\s+)?$")
ITS_NUMBER = re.compile(rf"`?{BETWEEN}{A_NUMBER}")
NEAR = 30  # characters before a name that decide
# The word is a subject of which something is said: "rate is far above the usual".
SAYS = re.compile(
    r",?\s+(?:is|are|was|were|lies?|stands?|sits?|has|have|shows?|reaches|remains?|stays?|falls?|comes?|seems?|looks?)"
    r"((?:\s+\w+){1,4})"
)
ARTICLES = ("a", "i", "s", "t")  # and what an apostrophe parts: the client's, it isn't
NO_NAME = re.compile(r"\b(?:an?|per|no)\s+$", re.IGNORECASE)  # a name has no article


class CitedNames:
    """Pattern of feature names some of which are words of prose as well: such a word is a name where it is cited.

    Example, with a feature `rate`: "rate (12) is high" and "the rate lies above" cite it, "at a high rate" does not.
    Searches as `re.Pattern` does.
    """

    def __init__(self, pattern: re.Pattern[str], words: frozenset[str]) -> None:
        self._pattern, self._words = pattern, words

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the match of each mention."""
        every = list(self._pattern.finditer(text))
        ends = [0, *(found.end() for found in every)]
        starts = [*(found.start() for found in every[1:]), len(text)]
        for found, begin, end in zip(every, ends, starts, strict=False):
            if found[0] not in self._words or is_cited(found, begin, end):
                yield found

    def findall(self, text: str) -> list[str]:
        """Return the names that a text mentions."""
        return [found[0] for found in self.finditer(text)]

    def sub(self, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
        """Replace each mention."""
        parts, end = [], 0
        for found in self.finditer(text):
            parts += [text[end : found.start()], replacement if isinstance(replacement, str) else replacement(found)]
            end = found.end()
        return "".join(parts) + text[end:]

    def certain(self, text: str) -> list[str]:
        """Return the mentions of names that are no words of prose."""
        return [name for name in self._pattern.findall(text) if name not in self._words]


NamesPattern = re.Pattern[str] | CitedNames


def is_cited(found: re.Match[str], begin: int, end: int) -> bool:
    """Return True if a word of prose that is a feature's name as well is meant as the name where it stands.

    Args:
        found: The word.
        begin: End of the name before it in the text.
        end: Start of the name behind it.
    """
    text = found.string
    before, behind = text[max(begin, found.start() - NEAR) : found.start()], text[found.end() : end]
    if NO_NAME.search(text[: found.start()][-NEAR:]):
        return False
    if before[-1:] in ("`", '"') or ITS_NUMBER.match(behind):
        return True
    if found[0] in ARTICLES:
        return False
    if BEHIND.match(behind):
        return True
    if BEFORE.search(before) and not (begin and ITS_NUMBER.match(text[begin:])):
        return True
    said = SAYS.match(behind)
    return said is not None and any(
        word in ("above", "below") or DEGREES[word] in "HL" for word in said[1].lower().split()
    )


def mentions_before_number(names: NamesPattern, text: str) -> list[re.Match[str]]:
    """Return the mentions in a text behind which a number is about to be written."""
    if not isinstance(names, CitedNames):
        return list(names.finditer(text))
    gap = " " if text[-1:].isalnum() else ""
    return [found for found in names.finditer(f"{text}{gap}0") if found.end() <= len(text)]


def certain_mentions(names: NamesPattern, text: str) -> list[str]:
    """Return the mentions in a text of names that are no words of prose."""
    return names.certain(text) if isinstance(names, CitedNames) else names.findall(text)


@lru_cache(maxsize=16)
def names_pattern(names: tuple[str, ...], categories: frozenset[str] = frozenset()) -> NamesPattern:
    """Return the pattern of the mentions of features in a text; the longest name that stands in a place is meant.

    No number stands beside a category's name, so it is found wherever it stands.
    """
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.])(?:{alternatives})(?!\w|\.\w)")
    words = frozenset(name for name in names if name.lower() in PROSE_WORDS or name in ARTICLES) - categories
    return CitedNames(pattern, words) if words else pattern
