"""Grounded decoding: a number in an answer is one that the flow has, of the feature named before it where one is.

Belongs here: which numbers may stand at a place of an answer, and which tokens write them. Does not belong here:
generation (student.py), what makes an explanation good (augmentation/answers.py).

A number that was held to its flow is true by construction: it says nothing of whether the student can copy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iot_pipeline.augmentation.answers import Facts, facts_of
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import NUMBER
from iot_pipeline.sft.label import LABEL_LINE, LabelFinder

if TYPE_CHECKING:
    import torch

# As augmentation/answers.py finds numbers, and the same while they are still being written, at the end of a text.
NUMERAL = re.compile(rf"\bp\d+|(?<![\w.]){NUMBER}")
OPEN = re.compile(r"(?:\bp\d*|(?<![\w.])(?:[-+]?(?:\d+(?:\.\d*)?|\.\d*)(?:[eE][-+]?\d*)?|[-+]))$")
NUMERIC = frozenset("0123456789.eE+-p")  # what an open number may end with
SIGNS = "0123456789.e+-"  # what any number of a flow can be written with
REFERENCE = re.compile(r"\b(?:above|below)\s*$", re.IGNORECASE)
BETWEEN = re.compile(r"\s*(?:\(|=|:|of|at|is|reads|stands at)?\s*")  # a feature and its value
SENTENCE_BREAK = re.compile(r"[.!?]\s")
DIGIT = re.compile(r"[0-9]")
ORDINAL = re.compile(r"st|nd|rd|th")
IN_WORD = re.compile(r"[\w.]$")


class NumberTokens:
    """What each token of a vocabulary writes, looked up by the numbers that it may begin, continue or end."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        """`width`: scores that the model gives for one token; those beyond the tokenizer's own write nothing."""
        pieces = [_minus(piece) for piece in LabelFinder(tokenizer).pieces]
        self.pieces = pieces + [""] * (width - len(pieces))
        self.free = np.ones(width, dtype=bool)  # writes no numeral
        self.ordinal = np.zeros(width, dtype=bool)
        self.in_word = np.zeros(width, dtype=bool)  # its digits are a name's where they follow a letter
        self.joined = np.zeros(width, dtype=bool)  # begins with a numeral
        self.percentile = np.zeros(width, dtype=bool)
        self.exact: dict[str, list[int]] = defaultdict(list)
        self.led: dict[str, list[int]] = defaultdict(list)  # behind a space or bracket, by what follows it
        for token, piece in enumerate(self.pieces):
            self.exact[piece].append(token)
            self.ordinal[token] = ORDINAL.match(piece) is not None
            if DIGIT.search(piece) is None or NUMERAL.search(piece) is None:
                self.free[token] = True
                continue
            self.free[token] = False
            self.joined[token] = NUMERAL.match(piece) is not None
            self.in_word[token] = NUMERAL.search(f"x{piece}") is None
            numeral = OPEN.search(piece)
            self.percentile[token] = numeral is not None and numeral[0].startswith("p")
            if numeral is not None and numeral.start() and NUMERAL.search(piece[: numeral.start()]) is None:
                self.led[numeral[0]].append(token)
        missing = sorted(sign for sign in SIGNS if sign not in self.exact)
        if missing:
            raise UserError(f"IOT_DECODING=grounded: the base's tokenizer has no token for {', '.join(missing)}")

    @staticmethod
    def beginnings(numbers: Iterable[str], by: dict[str, list[int]]) -> list[int]:
        """Tokens of `by` that write the beginning of one of `numbers`, or all of it."""
        starts = {number[:end] for number in numbers for end in range(1, len(number) + 1)}
        return [token for start in starts if start in by for token in by[start]]


class GroundedNumbers:
    """A logits processor of transformers for greedy generation: bars tokens that write a number the flow lacks.

    It holds each row's answer to the row's flow text. Directly behind a feature's name, or in a sentence that has
    named features since its last number, only their values (percentiles) may stand; behind a value
    only a percentile of a feature with that value; elsewhere any number of the flow. The line of the class is left
    alone. Ordinals ("94th") are barred. Only the likeliest token is looked at before a number is begun, so scores
    are not fit for sampling. A number that the limit of tokens cuts off stays cut off.
    """

    def __init__(self, tokens: NumberTokens, flows: Sequence[str], heads: Sequence[str], end: int) -> None:
        """`flows`: one flow text a row; `heads`: what each answer begins with; `end`: token that ends an answer."""
        self._tokens, self._end = tokens, end
        self._facts = [facts_of(flow) for flow in flows]
        self._lines = [_last_line(_minus(head)) for head in heads]
        self._ended = [False] * len(flows)
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary] with -inf where a token may not follow `input_ids` [rows, tokens]."""
        import torch

        if self._begun:
            self._read(input_ids[:, -1].tolist())
        self._begun = True
        for place, best in enumerate(scores.argmax(dim=-1).tolist()):
            barred = None if self._ended[place] else self._barred(self._lines[place], self._facts[place], best)
            if barred is not None:
                scores[place] = scores[place].masked_fill(torch.from_numpy(barred).to(scores.device), -torch.inf)
        return scores

    def _read(self, written: list[int]) -> None:
        for place, token in enumerate(written):
            self._ended[place] |= token == self._end
            self._lines[place] = _last_line(self._lines[place] + self._tokens.pieces[token])

    def _barred(self, line: str, facts: Facts, best: int) -> np.ndarray | None:
        """bool [vocabulary]: tokens that may not follow `line`; None where `best` is sure not to be one."""
        tokens = self._tokens
        begun = OPEN.search(line) if line[-1:] in NUMERIC else None
        number = begun[0] if begun else ""
        writing = DIGIT.search(number) is not None
        of_a_name = not number and tokens.in_word[best] and IN_WORD.search(line)
        if line.startswith(LABEL_LINE) or (not writing and (tokens.free[best] or of_a_name)):
            return None
        # Where the student would write a number it has to write one: words in its place would break its sentence.
        goes_on = writing or (number and tokens.joined[best])
        may = self._going_on(line, number, facts) if goes_on else self._beginning(line, number, facts, best)
        return ~(may if may.any() else tokens.free)

    def _going_on(self, line: str, number: str, facts: Facts) -> np.ndarray:
        """bool [vocabulary]: tokens that may follow the `number` that `line` ends with; a whole one may also end."""
        tokens = self._tokens
        fitting = numbers_for(line[: len(line) - len(number)], facts, number.startswith("p"))
        head = re.match(NUMBER, number)
        whole = number in fitting or (head is not None and head[0] in fitting)
        may = tokens.free & ~tokens.ordinal if whole else np.zeros_like(tokens.free)
        rests = [option[len(number) :] for option in fitting if option.startswith(number)]
        may[tokens.beginnings(rests, tokens.exact)] = True
        return may

    def _beginning(self, line: str, number: str, facts: Facts, best: int) -> np.ndarray:
        """bool [vocabulary]: tokens that begin a number which may stand behind `line`."""
        tokens, may = self._tokens, np.zeros_like(self._tokens.free)
        fitting = numbers_for(line, facts, bool(tokens.percentile[best]))
        may[tokens.beginnings(fitting, tokens.led)] = True
        if not number and not IN_WORD.search(line):
            may[tokens.beginnings(fitting, tokens.exact)] = True
        return may


def numbers_for(before: str, facts: Facts, percentile: bool) -> set[str]:
    """The numbers that may follow `before` (the line so far): values in every spelling, or percentiles ("p97")."""
    sentence = before[max((match.end() for match in SENTENCE_BREAK.finditer(before)), default=0) :]
    kinds: dict[bool, re.Match[str]] = {match[0].startswith("p"): match for match in NUMERAL.finditer(sentence)}
    last, value = kinds.get(percentile), kinds.get(False)
    since = last.end() if last else 0
    mentions = [match for match in facts.names.finditer(sentence) if match.start() >= since]
    named = {match[0] for match in mentions}
    if percentile and facts.percentiles and REFERENCE.search(before):
        return {"p50"}
    if percentile and value is not None and value.start() >= since:
        having = {name for name, number in facts.values.items() if value[0] in _spellings(number)}
        named = named & having or having
    elif mentions and BETWEEN.fullmatch(sentence, mentions[-1].end()):
        named = {mentions[-1][0]}
    held = facts.percentiles if percentile else facts.values
    chosen = [held[name] for name in named or held if name in held]
    return set(chosen) if percentile else {spelling for number in chosen for spelling in _spellings(number)}


def _spellings(number: str) -> tuple[str, ...]:
    """A value with and without the zero before its point."""
    return (number, re.sub(r"^(-?)0\.", r"\1.", number))


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]


def _minus(text: str) -> str:
    """As answers are read: every sign of minus is the plain one."""
    return text.replace("\u2212", "-").replace("\u2011", "-")
