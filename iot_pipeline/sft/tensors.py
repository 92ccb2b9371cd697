"""Training tensors from chat rows: tokenised, answer-only labels, nothing cut, one file."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.models.tokenizer import (
    LABEL_LINE,
    LabelFinder,
    chat_texts,
    encode,
    end_of_turn,
    line_apart,
    template_controls,
)

IGNORED = -100
NAMED = 5  # over-long rows listed in an error
_CHUNK = 2000


@dataclass(frozen=True)
class TensorStats:
    """Statistics of a tensor file; check.py recomputes each one from the file."""

    rows: int
    tokens: int
    supervised_tokens: int
    longest: int
    rows_label_and_end_supervised: int
    rows_cut: int
    distinct_rows: int

    def plain(self) -> dict[str, Any]:
        """Return JSON values, with the supervised share."""
        share = round(self.supervised_tokens / self.tokens, 6) if self.tokens else 0.0
        return {**asdict(self), "supervised_share": share}


@dataclass(frozen=True)
class Tensors:
    """Flat arrays of a tensor file: row i is `[offsets[i], offsets[i+1])` of `input_ids` and `labels` (int32).

    offsets    0       3           8
    input_ids  p p a   p p p a a        p: prompt, a: answer
    labels     - - a   - - - a a        -: IGNORED

    Class rows (class_rows.py) have a distribution in place of each supervised token, one after the other: `targets`
    float32 [supervised, choices] are the shares of `tokens` int32 [supervised, choices]. `draw`, float64 [rows], is the
    probability that a row is drawn.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray | None = None
    targets: np.ndarray | None = None
    draw: np.ndarray | None = None

    @classmethod
    def of(cls, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Self:
        """Lay (input_ids, labels) of each row end to end."""
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])]).astype(np.int64)
        ids, labels = (np.concatenate([row[part] for row in rows]).astype(np.int32) for part in (0, 1))
        return cls(ids, labels, offsets)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with replacing(path) as temporary:
            save_file({name: array for name, array in arrays.items() if array is not None}, temporary)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (input_ids, labels) of one row."""
        span = slice(int(self.offsets[place]), int(self.offsets[place + 1]))
        return self.input_ids[span], self.labels[span]

    def digest(self, place: int) -> bytes:
        """Return the sha256 of a row; rows that are token for token the same share it."""
        ids, labels = self.row(place)
        answer = labels.tobytes() if self.targets is None else self.targets[self.answers_of(place)].tobytes()
        return hashlib.sha256(ids.tobytes() + b"|" + answer).digest()

    def answers_of(self, place: int) -> slice:
        """Return the places of a row's supervised tokens among those of all rows."""
        return slice(int(self.supervised[place]), int(self.supervised[place + 1]))

    @cached_property
    def supervised(self) -> np.ndarray:
        """Number of supervised tokens before each row, and of all, int64 [rows + 1]."""
        return np.concatenate([[0], np.cumsum(self.labels != IGNORED)])[self.offsets]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.offsets)


def build_tensors(
    messages: Iterable[dict[str, Any]],
    tokenizer: Any,
    max_length: int,
    out: Path,
    log: Callable[[str], None] | None = None,
) -> TensorStats:
    """Tokenise chat rows (`{"messages": [user, assistant]}`) into the safetensors file `out`.

    The prompt is the chat template's text up to where the assistant begins. Supervised are the answer and exactly one
    end of turn, not what the template writes after it. Repeated texts are tokenised once.

    Args:
        messages: Chat rows.
        tokenizer: Tokeniser of the base.
        max_length: Most tokens of a row.
        out: File to write.
        log: Called with progress messages.

    Raises:
        UserError: A row is malformed, or longer than `max_length`: nothing is ever cut.
    """
    end = end_of_turn(tokenizer)
    template_controls(tokenizer)  # raises for a template without an end of turn
    known: dict[tuple[str, str], int] = {}  # (flow, answer) -> its place among the distinct ones
    numbers: list[int] = []  # first row of each
    order: list[int] = []
    for number, row in enumerate(messages):
        pair = _pair(row, number)
        if pair not in known:
            numbers.append(number)
        order.append(known.setdefault(pair, len(known)))
    if not order:
        raise UserError("no training rows: the track's messages file is empty")
    pairs = list(known)
    encoded: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(pairs), _CHUNK):
        encoded += _tokenise(pairs[start : start + _CHUNK], tokenizer, end)
        if log:
            log(f"tokenised {len(encoded)} distinct rows of {len(pairs)}, {len(order)} with repeats")
    if longer := [(numbers[place], len(ids)) for place, (ids, _) in enumerate(encoded) if len(ids) > max_length]:
        named = ", ".join(f"{number} ({tokens} tokens)" for number, tokens in longer[:NAMED])
        more = f" and {len(longer) - NAMED} more" if len(longer) > NAMED else ""
        raise UserError(
            f"{len(longer)} distinct training rows are longer than IOT_MAX_LENGTH={max_length}: {named}{more}; "
            f"raise it to at least {max(tokens for _, tokens in longer)}: no row is ever cut"
        )
    tensors = Tensors.of([encoded[place] for place in order])
    tensors.save(out)
    return statistics(tensors, LabelFinder(tokenizer), end)


def load_tensors(path: Path) -> Tensors:
    """Read the arrays of a tensor file into memory (8 bytes a token); UserError if it is not one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        return Tensors(**arrays)
    except (OSError, SafetensorError, TypeError) as error:
        raise UserError(f"{path}: not a readable tensor file ({error}); make training_split again") from error


def statistics(tensors: Tensors, finder: LabelFinder, end: int) -> TensorStats:
    """Compute the statistics of the arrays; `end` is the id of the end of turn."""
    good = cut = 0
    seen: dict[bytes, tuple[bool, bool]] = {}
    for place in range(len(tensors)):
        ids, labels = tensors.row(place)
        key = tensors.digest(place)
        if key not in seen:
            seen[key] = (_supervises(ids, labels, finder, end), int(ids[-1]) != end)
        good += seen[key][0]
        cut += seen[key][1]
    return TensorStats(
        rows=len(tensors),
        tokens=len(tensors.input_ids),
        supervised_tokens=int((tensors.labels != IGNORED).sum()),
        longest=int(tensors.lengths.max()),
        rows_label_and_end_supervised=good,
        rows_cut=cut,
        distinct_rows=len(seen),
    )


def _supervises(ids: np.ndarray, labels: np.ndarray, finder: LabelFinder, end: int) -> bool:
    """True if the label's tokens and exactly one end of turn are supervised, with labels equal to the row's ids."""
    chosen = labels != IGNORED
    answer = labels[chosen]
    if not np.array_equal(answer, ids[chosen]) or int((answer == end).sum()) != 1 or int(answer[-1]) != end:
        return False
    return finder.span(answer.tolist()) is not None


def _pair(row: dict[str, Any], number: int) -> tuple[str, str]:
    turns = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(turns, list) or [turn.get("role") for turn in turns] != ["user", "assistant"]:
        raise UserError(f"training row {number}: `messages` must be one user and one assistant turn")
    answer = str(turns[1]["content"])
    if LABEL_LINE not in answer:
        raise UserError(f"training row {number}: the answer has no {LABEL_LINE} line")
    return str(turns[0]["content"]), answer


def _tokenise(pairs: list[tuple[str, str]], tokenizer: Any, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids up to the end of turn, labels) of each pair, tokenised in one batch.

    Prompt and answer are tokenised separately, as at inference, where there is no answer yet: together, a tokeniser may
    merge the prompt's last newline with the answer's first word.
    """
    texts = [chat_texts(tokenizer, user, answer) for user, answer in pairs]
    head_ids = encode(tokenizer, [head for head, _tail in texts])
    tail_ids = encode(tokenizer, [line_apart(tokenizer, tail) for _head, tail in texts])
    for before, after in zip(head_ids, tail_ids, strict=True):
        last = len(after) - 1 - after[::-1].index(end)
        ids = np.array([*before, *after[: last + 1]], dtype=np.int32)
        labels = ids.copy()
        labels[: len(before)] = IGNORED
        yield ids, labels
