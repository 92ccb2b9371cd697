"""Grounded decoding: a number in an answer is one of the flow's, of the feature named before it if there is one.

Such a number is true by construction: it says nothing about the student's ability to copy.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.augmentation.answers import Facts, facts_of, plain_minus
from iot_pipeline.augmentation.mentions import BETWEEN, mentions_before_number
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import NUMBER, parse_text, plain_number
from iot_pipeline.models.tokenizer import LABEL_LINE, LabelFinder

# Numbers as augmentation/answers.py finds them, and a number that is still being written at the end of a text.
NUMERAL = re.compile(rf"\bp\d+|(?<![\w.]){NUMBER}")
OPEN = re.compile(r"(?:\bp\d*|(?<![\w.])[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d*)?|\.)|(?<![\w.])[-+])$")
NUMERIC = frozenset("0123456789.eE+-p")  # last characters of an open number
SIGNS = "0123456789.e+-p"  # characters of any number of a flow
DIGIT = re.compile(r"[0-9]")
WORD = re.compile(r"[\w.]$")
CITED = re.compile(r"(?:^KEY_INDICATORS:|;) ([^\s;]+)((?: [^\s;(]*)?)$")  # a feature and the beginning of its value
GLUED = re.compile(r"[\w%/.-]")
ORDINAL = re.compile(r"st|nd|rd|th")
REFERENCE = re.compile(r"\b(?:above|below)\s*$", re.IGNORECASE)
SENTENCE_BREAK = re.compile(r"[.!?]\s")


class NotGroundable(UserError):
    """Error for a tokeniser that grounded decoding cannot use."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no grounded decoding: {reason}; with IOT_DECODING=free students write numbers freely")


class NumberTokens:
    """Text of each token of a vocabulary."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        """Decode every token; `width` is the length of the model's scores, ids beyond the tokeniser's write nothing.

        NotGroundable if the tokeniser lacks a digit or sign, or its tokens, decoded one by one, do not give the text.
        """
        pieces = [plain_minus(piece) for piece in LabelFinder(tokenizer).pieces]
        self.pieces = pieces + [""] * (width - len(pieces))
        self.by_piece: dict[str, list[int]] = defaultdict(list)
        for token, piece in enumerate(self.pieces):
            self.by_piece[piece].append(token)
        self.free = np.array([NUMERAL.search(piece) is None for piece in self.pieces])  # writes no number
        self.glued = np.array([GLUED.match(piece) is not None for piece in self.pieces])  # goes on with a word
        self.ordinal = np.array([ORDINAL.match(piece) is not None for piece in self.pieces])
        if missing := [sign for sign in SIGNS if sign not in self.by_piece]:
            raise NotGroundable(f"the base's tokenizer has no token for {' '.join(missing)}")
        sample = "orig_pkts is -0.068, p97"
        joined = "".join(self.pieces[token] for token in tokenizer(sample, add_special_tokens=False)["input_ids"])
        if joined != sample:  # SentencePiece drops the space before a token that is decoded alone
            raise NotGroundable(f"the tokens of the base's tokenizer, read one by one, make {joined!r} of {sample!r}")

    def beginnings(self, texts: set[str]) -> list[int]:
        """Return the tokens that write the beginning of one of `texts`, or all of it."""
        starts = {text[:end] for text in texts for end in range(1, len(text) + 1)}
        return [token for start in starts if start in self.by_piece for token in self.by_piece[start]]


@dataclass
class _Row:
    """One answer in progress: its last line, its flow's facts, and the kind of number that it must still begin."""

    line: str
    facts: Facts
    values: dict[str, set[str]]
    ended: bool = False
    owes: bool | None = None  # a percentile (True) or a value (False) that has no digit yet


class GroundedNumbers:
    """Logits processor of transformers for greedy generation: bars tokens that write a number the flow lacks.

    Behind a category's name in KEY_INDICATORS its value must follow; prose may say other words.
    Where the student would begin a number, it must begin one that is allowed there (`numbers_for`), and a number once
    begun must be completed. The class line is left alone. Ordinals ("94th") are barred. Only the likeliest token is
    examined before a number begins, so the scores are not fit for sampling. A number that the token limit truncates
    stays truncated.
    """

    def __init__(self, tokens: NumberTokens, flows: Sequence[str], heads: Sequence[str], end: int) -> None:
        """Prepare one answer a row: `flows` are flow texts, `heads` the answers' beginnings, `end` the end of turn."""
        self._tokens, self._end, self._begun = tokens, end, False
        self._rows = [
            _Row(_last_line(plain_minus(head)), facts_of(flow), spellings(flow))
            for flow, head in zip(flows, heads, strict=True)
        ]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Set scores [rows, vocabulary] to -inf where a token may not follow `input_ids` [rows, tokens]."""
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
        """Return the tokens that may continue `row`, bool [vocabulary]; None if `best` is certainly one."""
        tokens, piece = self._tokens, self._tokens.pieces[best]
        number = _open_number(row.line)
        number = number and _open_number(_unnamed(row))
        digits = DIGIT.search(number) is not None
        if row.line.startswith(LABEL_LINE):
            return None
        if row.facts.shares and (may_follow := self._category(row, piece)) is not None:
            return may_follow
        if not digits and row.owes is None and (tokens.free[best] or (not number and _of_word(row, piece))):
            return None
        number = _open_number(row.facts.names.sub(" feature ", row.line))  # a minus after a name is a sign
        goes_on = number != "" and (digits or row.owes is not None or NUMERAL.match(piece) is not None)
        may = self._going_on(row, number) if goes_on else self._beginning(row, piece)
        if not may.any():  # the flow has no such number
            row.owes, may = None, tokens.free
        return may

    def _category(self, row: _Row, piece: str) -> np.ndarray | None:
        """Return the tokens that may continue a category cited in KEY_INDICATORS; None if none is open at the end."""
        open_item = CITED.search(row.line)
        if open_item is None or open_item[1] not in row.facts.shares:
            return None
        value, begun = row.facts.values[open_item[1]], open_item[2]
        if not begun and not piece.startswith(" "):  # the name may go on
            return None
        rest = f" {value}"[len(begun) :] if f" {value}".startswith(begun) else ""
        if rest:
            may = np.zeros_like(self._tokens.free)
            may[self._tokens.beginnings({rest})] = True
            return may
        return ~self._tokens.glued if begun == f" {value}" and GLUED.match(piece) else None

    def _going_on(self, row: _Row, number: str) -> np.ndarray:
        """Return the tokens that may follow the open `number`, bool [vocabulary]; a complete number may also end."""
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
        """Return tokens that begin an allowed number for `piece`, bool [vocabulary]; text before the number stays."""
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
    """Return the spellings of each feature's value: as in the flow text, and with a zero before its point.

    Of a category these are its value if it is a number, and its share, whose sign no number has: 83.
    """
    return {
        name: {part for part in (value, place.rstrip("%")) if re.fullmatch(NUMBER, part)}
        if isinstance(place, str)
        else {value, plain_number(value)}
        for name, value, place in parse_text(flow)
    }


def numbers_for(before: str, facts: Facts, values: dict[str, set[str]], percentile: bool) -> set[str]:
    """Return the numbers that may come next in a line: spellings of values, or percentiles ("p97").

    The first rule that applies:
        percentile after "above" or "below": p50;
        percentile after a value: those of the features that have this value, of the named ones if any;
        directly after a feature's name: that feature's own;
        after names in this sentence, since its last number of the kind: theirs;
        otherwise: any of the flow.

    Args:
        before: The line so far.
        facts: Facts of the flow.
        values: `spellings` of the flow.
        percentile: True for percentiles.
    """
    sentence = before[max((match.end() for match in SENTENCE_BREAK.finditer(before)), default=0) :]
    last = {match[0].startswith("p"): match for match in NUMERAL.finditer(sentence)}
    since = last[percentile].end() if percentile in last else 0
    mentions = [match for match in mentions_before_number(facts.names, sentence) if match.start() >= since]
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
    """True if the digits of `piece` belong to the word at the line's end; a feature's name admits no others."""
    if any(name.startswith(begun + piece) for name, begun in _begun_names(row)):
        return True
    if not WORD.search(row.line) or NUMERAL.search(f"x{piece}") is not None:
        return False
    whole = [name for name in row.values if row.line.endswith(name)]
    return not whole or any(other.startswith(name + piece) for name in whole for other in row.values)


def _unnamed(row: _Row) -> str:
    """Return the line with its names masked, and with that which is begun at its end, where it holds a number."""
    line = row.facts.names.sub(" feature ", row.line)
    begun = max((begun for _, begun in _begun_names(row)), key=len, default="")
    return f"{line.removesuffix(begun)} feature " if DIGIT.search(begun) and line.endswith(begun) else line


def _begun_names(row: _Row) -> Iterator[tuple[str, str]]:
    """Yield (name, its beginning at the line's end) of each name that has a number in it, such as `len<0_count`."""
    for name in row.values:
        if NUMERAL.search(name):
            for size in range(len(name) - 1, 0, -1):
                start = len(row.line) - size
                if row.line.endswith(name[:size]) and not WORD.search(row.line[:start]):
                    yield name, name[:size]
                    break


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]
