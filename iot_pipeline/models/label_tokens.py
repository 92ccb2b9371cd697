"""Label tokens: the span of the class in an answer, for any tokeniser and any position of its line."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from iot_pipeline.models.tokenizer import control_tokens

LABEL_LINE = "CLASSIFICATION:"
LINE = re.compile(rf"^{LABEL_LINE}", re.MULTILINE)


class LabelFinder:
    """Label finder that knows the text of every token.

    Searching for fixed token ids would fail: a newline may be merged with the text after it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.pieces: list[str] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.controls = frozenset(control_tokens(tokenizer).values())

    def span(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """Return the token span [start, stop) of the class after `CLASSIFICATION:`, None if there is no class."""
        pieces = [self.pieces[token] for token in ids]
        text = "".join(pieces)
        line = LINE.search(text)
        if line is None:
            return None
        starts = [0, *accumulate(len(piece) for piece in pieces)]
        begin, newline = line.end(), text.find("\n", line.end())
        turns = [start for start, token in zip(starts, ids, strict=False) if token in self.controls and start >= begin]
        end = min([*turns, len(text) if newline < 0 else newline])
        if not text[begin:end].strip():
            return None
        return bisect_right(starts, begin) - 1, bisect_right(starts, end - 1)
