"""Prose as a string of one symbol a word, so that rules speak of kinds of words and not of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

OWN, OTHER, FEATURE = "\x01", "\x02", "|"
TOKEN = re.compile(r"p\d+|(?:high|low|short|long|large|small|half|heavy|empty)-(?!end)[a-z]+|[a-z]+(?:'[a-z]+)?|[\x01\x02]|\|+|(?<![\w.])[-+]?[\d.]*\d\w*|[,;:()\[\].!?\u2013\u2014=]|--")
MARKS = {
    ",": ",", ".": ".", "!": ".", "?": ".", FEATURE: FEATURE, OWN: "C", OTHER: "O",
    ";": ";", ":": ";", "(": ";", ")": ";", "[": ";", "]": ";", "\u2013": ";", "\u2014": ";", "--": ";", "=": ";",
}  # fmt: skip
UNKNOWN, NUMBER = "x", "#"


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
        if word[0] == FEATURE or word[-1].isdigit() or word[0].isdigit():  # too many to keep
            return FEATURE if word[0] == FEATURE else NUMBER
        found = next((self._stems[word[:size]] for size in range(len(word), 1, -1) if word[:size] in self._stems), "")
        found = found or next((symbol for end, symbol in self._endings.items() if word.endswith(end)), UNKNOWN)
        if len(self) < 50_000:  # a teacher's words are open-ended
            self[word] = found
        return found

    def of(self, words: Iterable[str]) -> str:
        """Return the symbols of words."""
        return "".join(map(self.__getitem__, words))


def sentences(symbols: str) -> Iterable[tuple[int, int]]:
    """Yield the start and end of each sentence."""
    start = 0
    while start < len(symbols):
        end = symbols.find(".", start)
        end = len(symbols) if end < 0 else end
        if end > start:
            yield start, end
        start = end + 1
