"""Prose as a string of one symbol a word, so that rules speak of kinds of words and not of words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

OWN, OTHER, FEATURE = "\x01", "\x02", "|"
TOKEN = re.compile(r"[a-z]+(?:'[a-z]+|\d+)?|[\x01\x02]|\|+|\.(?!\d)|[,;:()\[\]!?\u2013\u2014=]|--")
MARKS = {
    ",": ",", ".": ".", "!": ".", "?": ".", FEATURE: FEATURE, OWN: "C", OTHER: "O",
    ";": ";", ":": ";", "(": ";", ")": ";", "[": ";", "]": ";", "\u2013": ";", "\u2014": ";", "--": ";", "=": ";",
}  # fmt: skip
UNKNOWN = "x"


class Alphabet(dict[str, str]):
    """Symbols of words: of a listed word, of its longest listed stem (`scan*`), of its ending, else UNKNOWN."""

    def __init__(self, lists: Mapping[str, str]) -> None:
        """Keep lists of words, separated by blanks, by symbol: `scan` is a word, `scan*` a stem, `*ly` an ending.

        The first list that has a word decides its symbol.
        """
        super().__init__(MARKS)
        self._stems: dict[str, str] = {}
        self._endings: dict[str, str] = {}
        for symbol, words in lists.items():
            for word in words.split():
                known = self._stems if word[-1] == "*" else self._endings if word[0] == "*" else self
                known.setdefault(word.strip("*"), symbol)

    def __missing__(self, word: str) -> str:
        if word[0] == FEATURE:
            self[word] = FEATURE
            return FEATURE
        found = next((self._stems[word[:size]] for size in range(len(word), 1, -1) if word[:size] in self._stems), "")
        found = found or next((symbol for end, symbol in self._endings.items() if word.endswith(end)), UNKNOWN)
        if len(self) < 50_000:  # a teacher's words are open-ended
            self[word] = found
        return found

    def of(self, words: Iterable[str]) -> str:
        """Return the symbols of words."""
        return "".join(map(self.__getitem__, words))


class Phrases:
    """Fixed phrases, each replaced by the one word that it means.

    The patterns are compiled at first use: it takes as long as loading the rest of the package.
    """

    def __init__(self, lists: Mapping[str, str]) -> None:
        """Keep patterns of phrases by the word that they mean; ` ; ` stands between two."""
        self._options = {word: [one.strip() for one in phrases.split(";")] for word, phrases in lists.items()}
        self._known: dict[str, str] = {}

    @cached_property
    def _any(self) -> re.Pattern[str]:
        begun = [part for options in self._options.values() for option in options for part in _begun(option)]
        return re.compile(rf"\b(?:{_grouped(begun)})(?![\w-])")

    @cached_property
    def _kinds(self) -> list[tuple[str, re.Pattern[str]]]:
        return [(word, re.compile("|".join(options))) for word, options in self._options.items()]

    def replaced(self, text: str) -> str:
        """Return a text with its phrases replaced."""
        return self._any.sub(self._word, text)

    def _word(self, found: re.Match[str]) -> str:
        said = found[0]
        if said not in self._known:
            fits = (
                word
                for word, phrases in self._kinds
                if phrases.fullmatch(said) or phrases.match(found.string, found.start())
            )
            self._known[said] = next(fits)
        return self._known[said]


def _begun(option: str) -> list[str]:
    """Return the forms of a pattern that begin with a letter: (?:a|b)c -> ac, bc. They are searched much faster."""
    if not option.startswith("(?:"):
        return [option]
    depth, places = 0, [2]
    for place, mark in enumerate(option):
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if (mark == "|" and depth == 1) or (mark == ")" and depth == 0):
            places.append(place)
        if place and depth == 0:
            break
    rest = option[places[-1] + 1 :]
    if rest.startswith("?"):
        return [f"{option[start + 1 : end]}{rest[1:]}" for start, end in itertools.pairwise(places)] + _begun(
            rest[1:].lstrip()
        )
    return [part for start, end in itertools.pairwise(places) for part in _begun(option[start + 1 : end] + rest)]


def _grouped(options: Sequence[str]) -> str:
    """Return patterns as one, put together by their first two letters: one comparison rules out all of a group."""
    groups: dict[str, list[str]] = {}
    for option in options:
        groups.setdefault(option[:2] if option[:3].isalpha() else option[:1], []).append(option)
    return "|".join(f"{begin}(?:{'|'.join(one[len(begin) :] for one in group)})" for begin, group in groups.items())


def sentences(symbols: str) -> Iterable[tuple[int, int]]:
    """Yield the start and end of each sentence."""
    start = 0
    while start < len(symbols):
        end = symbols.find(".", start)
        end = len(symbols) if end < 0 else end
        if end > start:
            yield start, end
        start = end + 1
