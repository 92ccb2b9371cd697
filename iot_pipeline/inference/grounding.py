"""Grounded decoding: a number in an answer is one that the flow has, of the feature named before it where one is.

A number that was held to its flow is true by construction: it says nothing of whether the student can copy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iot_pipeline.augmentation.answers import BETWEEN, Facts, facts_of, plain_minus
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import NUMBER, parse_text, plain_number
from iot_pipeline.models.label_tokens import LABEL_LINE, LabelFinder

if TYPE_CHECKING:
    import torch

# As augmentation/answers.py finds numbers, and the same while one is still being written at the end of a text.
NUMERAL = re.compile(rf"\bp\d+|(?<![\w.]){NUMBER}")
OPEN = re.compile(r"(?:\bp\d*|(?<![\w.])(?:[-+]?(?:\d+(?:\.\d*)?|\.\d*)(?:[eE][-+]?\d*)?|[-+]))$")
NUMERIC = frozenset("0123456789.eE+-p")  # what an open number may end with
SIGNS = "0123456789.e+-p"  # what any number of a flow can be written with
DIGIT = re.compile(r"[0-9]")
WORD = re.compile(r"[\w.]$")
ORDINAL = re.compile(r"st|nd|rd|th")
REFERENCE = re.compile(r"\b(?:above|below)\s*$", re.IGNORECASE)
SENTENCE_BREAK = re.compile(r"[.!?]\s")


class NotGroundable(UserError):
    """A tokenizer whose numbers cannot be held to a flow."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no grounded decoding: {reason}; with IOT_DECODING=free students write numbers freely")


class NumberTokens:
    """What each token of a vocabulary writes."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        """`width`: scores that the model gives for one token; those beyond the tokenizer's own write nothing.

        NotGroundable for a tokenizer that lacks a digit or sign, or whose tokens, read one by one, are not the text.
        """
        pieces = [plain_minus(piece) for piece in LabelFinder(tokenizer).pieces]
        self.pieces = pieces + [""] * (width - len(pieces))
        self.by_piece: dict[str, list[int]] = defaultdict(list)
        for token, piece in enumerate(self.pieces):
            self.by_piece[piece].append(token)
        self.free = np.array([NUMERAL.search(piece) is None for piece in self.pieces])  # writes no number
        self.ordinal = np.array([ORDINAL.match(piece) is not None for piece in self.pieces])
        if missing := [sign for sign in SIGNS if sign not in self.by_piece]:
            raise NotGroundable(f"the base's tokenizer has no token for {' '.join(missing)}")
        sample = "orig_pkts is -0.068, p97"
        joined = "".join(self.pieces[token] for token in tokenizer(sample, add_special_tokens=False)["input_ids"])
        if joined != sample:  # SentencePiece drops the space before a token that is decoded by itself
            raise NotGroundable(f"the tokens of the base's tokenizer, read one by one, make {joined!r} of {sample!r}")

    def beginnings(self, texts: set[str]) -> list[int]:
        """Tokens that write the beginning of one of `texts`, or all of it."""
        starts = {text[:end] for text in texts for end in range(1, len(text) + 1)}
        return [token for start in starts if start in self.by_piece for token in self.by_piece[start]]


@dataclass
class _Row:
    """One answer in the making: its last line, its flow's facts, and which kind of number it has still to begin."""

    line: str
    facts: Facts
    values: dict[str, set[str]]
    ended: bool = False
    owes: bool | None = None  # a percentile (True) or a value (False) that has no digit yet


class GroundedNumbers:
    """A logits processor of transformers for greedy generation: bars tokens that write a number the flow lacks.

    Where the student would begin a number, it has to begin one that may stand there (`numbers_for`); a number that is
    begun has to become one. The line of the class is left alone. Ordinals ("94th") are barred. Only the likeliest
    token is looked at before a number is begun, so the scores are not fit for sampling. A number that the limit of
    tokens cuts off stays cut off.
    """

    def __init__(self, tokens: NumberTokens, flows: Sequence[str], heads: Sequence[str], end: int) -> None:
        """`flows`: one flow text a row; `heads`: what each answer begins with; `end`: token that ends an answer."""
        self._tokens, self._end, self._begun = tokens, end, False
        self._rows = [
            _Row(_last_line(plain_minus(head)), facts_of(flow), spellings(flow))
            for flow, head in zip(flows, heads, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary] with -inf where a token may not follow `input_ids` [rows, tokens]."""
        import torch

        written = input_ids[:, -1].tolist() if self._begun else [None] * len(self._rows)
        self._begun = True
        for place, (row, last, best) in enumerate(zip(self._rows, written, scores.argmax(-1).tolist(), strict=True)):
            if last is not None:
                row.ended |= last == self._end
                row.line = _last_line(row.line + self._tokens.pieces[last])
            may = None if row.ended else self._may(row, best)
            if may is not None:
                scores[place] = scores[place].masked_fill(torch.from_numpy(~may).to(scores.device), -torch.inf)
        return scores

    def _may(self, row: _Row, best: int) -> np.ndarray | None:
        """bool [vocabulary]: tokens that may go on with `row`; None where `best` is sure to be one."""
        tokens, piece = self._tokens, self._tokens.pieces[best]
        number = _open_number(row.line)
        digits = DIGIT.search(number) is not None
        if row.line.startswith(LABEL_LINE):
            return None
        if not digits and row.owes is None and (tokens.free[best] or (not number and _of_word(row, piece))):
            return None
        number = _open_number(row.facts.names.sub(" feature ", row.line))  # a minus behind a name is a sign
        goes_on = number != "" and (digits or row.owes is not None or NUMERAL.match(piece) is not None)
        may = self._going_on(row, number) if goes_on else self._beginning(row, piece)
        if not may.any():  # the flow has no such number
            row.owes, may = None, tokens.free
        return may

    def _going_on(self, row: _Row, number: str) -> np.ndarray:
        """bool [vocabulary]: tokens that may follow the `number` that the line ends with; a whole one may also end."""
        tokens = self._tokens
        percentile, digits = number.startswith("p"), DIGIT.search(number) is not None
        fitting = numbers_for(row.line[: len(row.line) - len(number)], row.facts, row.values, percentile)
        row.owes = None if digits else percentile
        head = re.match(NUMBER, number)
        whole = number in fitting or (head is not None and head[0] in fitting)
        may = tokens.free & ~tokens.ordinal if whole else np.zeros_like(tokens.free)
        may[tokens.beginnings({option[len(number) :] for option in fitting if option.startswith(number)})] = True
        return may

    def _beginning(self, row: _Row, piece: str) -> np.ndarray:
        """bool [vocabulary]: tokens that begin a number in place of `piece`, behind what stands before its own."""
        wanted = NUMERAL.search(piece)
        lead = piece[: wanted.start()] if wanted is not None and row.owes is None else ""
        if not lead and WORD.search(row.line):
            lead = " "
        if row.owes is None:
            row.owes = wanted is not None and wanted[0].startswith("p")
        fitting = numbers_for(row.line + lead, row.facts, row.values, row.owes)
        may = np.zeros_like(self._tokens.free)
        may[self._tokens.beginnings({lead + option for option in fitting})] = True
        return may


def spellings(flow: str) -> dict[str, set[str]]:
    """How the value of each feature may be written: as it stands in the flow text, and with a zero before its point."""
    return {name: {value, plain_number(value)} for name, value, _ in parse_text(flow)}


def numbers_for(before: str, facts: Facts, values: dict[str, set[str]], percentile: bool) -> set[str]:
    """The numbers that may follow `before` (the line so far): spellings of `values`, or percentiles ("p97").

    Directly behind a feature's name its own; else those of the features that the sentence has named since its last
    number of that kind; behind a value, percentiles of features that have it; where none was named, any of the flow.
    """
    sentence = before[max((match.end() for match in SENTENCE_BREAK.finditer(before)), default=0) :]
    last = {match[0].startswith("p"): match for match in NUMERAL.finditer(sentence)}
    since = last[percentile].end() if percentile in last else 0
    mentions = [match for match in facts.names.finditer(sentence) if match.start() >= since]
    named = {match[0] for match in mentions}
    if percentile and REFERENCE.search(before):
        return {"p50"} if facts.percentiles else set()
    if percentile and False in last and last[False].start() >= since:
        having = {name for name, written in values.items() if last[False][0] in written}
        named = named & having or having
    elif mentions and re.fullmatch(BETWEEN, sentence[mentions[-1].end() :]):
        named = {mentions[-1][0]}
    chosen = named or values.keys()
    if percentile:
        return {facts.percentiles[name] for name in chosen if name in facts.percentiles}
    return {written for name in chosen for written in values[name]}


def _open_number(line: str) -> str:
    begun = OPEN.search(line) if line[-1:] in NUMERIC else None
    return begun[0] if begun is not None else ""


def _of_word(row: _Row, piece: str) -> bool:
    """Whether the digits of `piece` belong to the word that the line ends with; no feature's name takes others."""
    if not WORD.search(row.line) or NUMERAL.search(f"x{piece}") is not None:
        return False
    whole = [name for name in row.values if row.line.endswith(name)]
    return not whole or any(other.startswith(name + piece) for name in whole for other in row.values)


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]
