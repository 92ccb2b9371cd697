"""Finding the class in the tokens of an answer, whatever tokenizer made them and wherever the line stands.

Belongs here: which tokens are the label's. Does not belong here: what is done with them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

LABEL_LINE = "CLASSIFICATION:"
LINE = re.compile(rf"^{LABEL_LINE}", re.MULTILINE)


class LabelFinder:
    """Knows the text of every token. A marker of ids would not do: a newline may be one token with what follows it."""

    def __init__(self, tokenizer: Any) -> None:
        self.pieces: list[str] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])

    def span(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """Places [start, stop) of the tokens that hold the class behind `CLASSIFICATION:`; None where there is none."""
        pieces = [self.pieces[token] for token in ids]
        text = "".join(pieces)
        line = LINE.search(text)
        if line is None:
            return None
        begin = line.end()
        rest = text[begin:]
        end = begin + min((place for mark in ("\n", "<|") if (place := rest.find(mark)) >= 0), default=len(rest))
        if not text[begin:end].strip():
            return None
        starts = [0, *accumulate(len(piece) for piece in pieces)]
        return bisect_right(starts, begin) - 1, bisect_right(starts, end - 1)
