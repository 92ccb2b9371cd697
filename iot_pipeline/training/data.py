"""Data of a training: the rows of each step, its forward passes, padded or packed, and their loss."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.models.last_layer import hidden_at
from iot_pipeline.models.tokenizer import LabelFinder, pad_id
from iot_pipeline.sft.tensors import IGNORED, Tensors

# A forward pass takes rows of similar length: as many as keep its share of padding within this limit.
MOST_PADDING = 0.05


@dataclass(frozen=True)
class Plan:
    """Row plan: the rows of each step, equal for any number of processes at equal effective batch."""

    lengths: np.ndarray  # tokens of each row
    per_step: int
    steps: int
    seed: int

    def rows_of(self, step: int) -> np.ndarray:
        """Return the row numbers of a step, repeats included; epochs follow each other without a break."""
        rows = len(self.lengths)
        places = range(step * self.per_step, (step + 1) * self.per_step)
        return np.array([_order(rows, self.seed, place // rows)[place % rows] for place in places])

    def tokens(self, steps: int) -> int:
        """Count the tokens of the first `steps` steps, repeats included."""
        rows = len(self.lengths)
        passes, rest = divmod(steps * self.per_step, rows)
        return passes * int(self.lengths.sum()) + int(self.lengths[_order(rows, self.seed, passes)[:rest]].sum())


@lru_cache(maxsize=2)  # a step may span the end of one epoch and the beginning of the next
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the row order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


@dataclass(frozen=True)
class Draws:
    """Draws of class rows: the rows of each step, and the tokens that they cost."""

    rows: np.ndarray  # of all steps, one after the other
    per_step: int
    lengths: np.ndarray  # tokens of each row

    def rows_of(self, step: int) -> np.ndarray:
        """Return the row numbers of a step, repeats included."""
        return self.rows[step * self.per_step : (step + 1) * self.per_step]

    def tokens(self, steps: int) -> int:
        """Count the tokens of the first `steps` steps, repeats included."""
        return int(self.lengths[self.rows[: steps * self.per_step]].sum())


def make_draws(tensors: Tensors, per_step: int, steps: int, seed: int) -> Draws:
    """Draw class rows for all steps, each as often as its share says, evenly over the training.

    A row of share p comes every 1 / p draws, from a random start on, so that at any time it was drawn p times the draws
    so far, give or take one. The draws of fewer steps are the beginning of those of more: runs of equal tokens compare.

    Args:
        tensors: Class rows, with `draw`.
        per_step: Class rows of a step.
        steps: Steps of the training.
        seed: Seed of the draws.

    Raises:
        UserError: The tensors are none of class rows.
    """
    if tensors.draw is None:
        raise UserError("class rows have no draw probabilities; make training_split again")
    share, total = tensors.draw / tensors.draw.sum(), per_step * steps
    start = np.random.default_rng([seed, 7]).random(len(share))
    # Rows come independently of each other, so their number by a time differs from it by half the root of the rows.
    counts = np.ceil(share * (total + 4 * len(share) ** 0.5 + 4)).astype(np.int64)
    rows = np.repeat(np.arange(len(share), dtype=np.int32), counts)
    turn = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    times = (turn + start[rows]) / share[rows]
    return Draws(rows[np.argsort(times, kind="stable")[:total]], per_step, tensors.lengths)


def make_plan(
    lengths: np.ndarray,
    per_step: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
    max_tokens: int | None = None,
    draws: Callable[[int], Draws] | None = None,
) -> Plan:
    """Build a plan; the last step takes its remaining rows from the next epoch.

    Args:
        lengths: Tokens of each row.
        per_step: Rows of a step.
        epochs: Passes over the rows.
        max_steps: Number of steps in place of `epochs`.
        seed: Seed of the rows' order.
        max_tokens: Most tokens to read (at least one step is taken), so that runs of equal tokens compare.
        draws: Draws of class rows for a number of steps, which count as tokens too.
    """
    steps = max_steps or max(1, int(np.ceil(len(lengths) * epochs / per_step - 1e-9)))
    plan = Plan(lengths, per_step, steps, seed)
    if max_tokens is None:
        return plan
    beside = draws(steps) if draws is not None else None

    def read(steps: int) -> int:
        return plan.tokens(steps) + (beside.tokens(steps) if beside is not None else 0)

    fitting = bisect_right(range(1, steps + 1), max_tokens, key=read)
    return Plan(lengths, per_step, max(1, fitting), seed)


class Batch(NamedTuple):
    """Arrays of one forward pass, on the device, each [rows, width]; `positions` only if rows are packed.

    Of class rows, `tokens` and `targets` [supervised, choices] replace the labels of the supervised positions.
    """

    ids: Any
    labels: Any
    weights: Any
    positions: Any | None
    tokens: Any | None = None
    targets: Any | None = None


def share_of(rows: np.ndarray, same_as: np.ndarray, lengths: np.ndarray, rank: int, world: int) -> Any:
    """Return the rows of this process in a step, shortest first, and their multiplicities.

    Identical rows are computed once and weighted by their count: the gradient is the same. Rows a b a c of 5, 9, 5
    and 4 tokens in two processes:

        process 0   c x 1   b x 1
        process 1   a x 2

    Args:
        rows: Rows of the step, over all processes.
        same_as: First identical row of each row.
        lengths: Tokens of each row.
        rank: Number of this process.
        world: Number of processes.
    """
    chosen, counts = np.unique(same_as[rows], return_counts=True)
    order = np.lexsort((chosen, lengths[chosen]))[rank::world]
    return chosen[order], counts[order]


def by_length(lengths: np.ndarray, most_rows: int) -> list[np.ndarray]:
    """Group rows of ascending `lengths` into batches of at most `most_rows` and MOST_PADDING padding, longest first.

    Lengths [40, 58, 59, 97, 99, 100] give the rows [3, 4, 5], [1, 2], [0]: with row 2 the first would be 11 % padding.
    """
    batches: list[np.ndarray] = []
    stop = len(lengths)
    while stop > 0:
        start, real = stop - 1, int(lengths[stop - 1])
        longest = real
        while start > 0 and stop - start < most_rows:
            grown = real + int(lengths[start - 1])
            if grown < (1 - MOST_PADDING) * longest * (stop - start + 1):
                break
            start, real = start - 1, grown
        batches.append(np.arange(start, stop))
        stop = start
    return batches


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack rows of these lengths into at most `capacity` tokens each: best fit, longest first, O(n log n).

    Lengths [5, 3, 4, 2, 6] and capacity 8 give the row numbers [[4, 3], [0, 1], [2]]:

        |6 6 6 6 6 6|2 2|
        |5 5 5 5 5|3 3 3|
        |4 4 4 4|. . . .|

    No row is split or dropped: one longer than `capacity` gets its own pack. The same lengths give the same packs.
    Best fit decreasing needs at most 11/9 of the least number of packs (Johnson 1973).
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for place in order:
        at = bisect_left(room, (lengths[place], -1))
        if at < len(room):
            left, pack = room.pop(at)
            packs[pack].append(place)
        else:
            left, pack = capacity, len(packs)
            packs.append([place])
        if left > lengths[place]:
            insort(room, (left - lengths[place], pack))
    return packs


def padded(rows: Sequence[np.ndarray], fill: float, dtype: Any = np.int64) -> np.ndarray:
    """Pad rows on the right with `fill`: [rows, longest]."""
    out = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=dtype)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


class Batches:
    """Batches of a tensor file for one process, and counts of padding and merged rows.

        padded  a a a a      packed     a a a a b b c c c
                b b - -      positions  0 1 2 3 0 1 0 1 2
                c c c -

    `micro`: most rows of a forward pass. `pack_tokens`: pack rows up to so many tokens instead, one pack a forward
    pass; positions restart with every row, which keeps attention within it. `label_weight`: weight of the label's
    tokens in the loss. `even`: every process makes equally many passes, idle ones with weight 0, because all processes
    gather sharded weights at once.
    """

    def __init__(
        self,
        tensors: Tensors,
        tokenizer: Any,
        micro: int,
        label_weight: float = 1.0,
        pack_tokens: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: Any = "cpu",
        even: bool = False,
    ) -> None:
        self.tensors, self.micro, self.pack_tokens = tensors, micro, pack_tokens
        self.rank, self.world, self.device, self.even = rank, world, device, even
        self.lengths = tensors.lengths
        first: dict[bytes, int] = {}  # a row's digest -> the first row that has it
        self.same_as = np.array([first.setdefault(tensors.digest(row), row) for row in range(len(tensors))])
        self.pad = pad_id(tokenizer)
        self.label_weight = label_weight
        self.labelled = _label_spans(tensors, self.same_as, tokenizer) if label_weight != 1.0 else None
        self.supervised = np.diff(tensors.supervised)
        self.halvings = 0
        self.real = self.filled = self.asked = self.computed = 0

    def weight_total(self, rows: np.ndarray) -> float:
        """Sum the token weights of a step over all processes: the divisor of its loss."""
        total = float(self.supervised[rows].sum())
        if self.labelled is not None:
            spans = self.labelled[self.same_as[rows]]
            total += (self.label_weight - 1.0) * float((spans[:, 1] - spans[:, 0]).sum())
        return total

    def of(self, rows: np.ndarray) -> Iterator[Batch]:
        """Yield the forward passes of this process in a step that reads `rows`."""
        import torch

        chosen, counts = share_of(rows, self.same_as, self.lengths, self.rank, self.world)
        self.asked += int(counts.sum())
        self.computed += len(chosen)
        passes = [(chosen[places], counts[places]) for places in self._passes(self.lengths[chosen])]
        for some, often in [*passes, *self._idle(rows, len(passes))]:
            arrays = *self._arrays(some, often), *self._targets(some)
            yield Batch(*(None if a is None else torch.from_numpy(a).to(self.device) for a in arrays))

    def _idle(self, rows: np.ndarray, own: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the zero-weight passes that bring this process up to the largest number of passes."""
        if not self.even:
            return []
        shares = [share_of(rows, self.same_as, self.lengths, rank, self.world)[0] for rank in range(self.world)]
        most = max(len(self._passes(self.lengths[share])) for share in shares)
        return [(rows[:1], np.zeros(1, dtype=np.int64))] * (most - own)

    def shrink(self) -> bool:
        """Halve the limit of a forward pass; return False if it cannot be smaller."""
        if self.pack_tokens is not None and self.pack_tokens > int(self.lengths.max()):
            self.pack_tokens = max(self.pack_tokens // 2, int(self.lengths.max()))
        elif self.pack_tokens is None and self.micro > 1:
            self.micro //= 2
        else:
            return False
        self.halvings += 1
        return True

    def most(self) -> str:
        """Return the limit of a forward pass in words."""
        return f"{self.micro} rows" if self.pack_tokens is None else f"{self.pack_tokens} tokens"

    def _passes(self, lengths: np.ndarray) -> list[np.ndarray]:
        if self.pack_tokens is None:
            return by_length(lengths, self.micro)
        return [np.array(pack) for pack in best_fit(lengths.tolist(), self.pack_tokens)]

    def _arrays(self, rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        pairs = [self.tensors.row(int(row)) for row in rows]
        weights = [np.full(len(ids), count, dtype=np.float32) for (ids, _), count in zip(pairs, counts, strict=True)]
        if self.labelled is not None:
            for weight, (start, stop) in zip(weights, self.labelled[self.same_as[rows]], strict=True):
                weight[start:stop] *= self.label_weight
        self.real += int(self.lengths[rows].sum())
        if self.pack_tokens is None:
            ids = padded([pair[0] for pair in pairs], self.pad)
            self.filled += ids.size
            return ids, padded([pair[1] for pair in pairs], IGNORED), padded(weights, 0.0, np.float32), None
        ids = np.concatenate([pair[0] for pair in pairs]).astype(np.int64)[None]
        labels = np.concatenate([pair[1] for pair in pairs]).astype(np.int64)[None]
        labels[0, np.cumsum([0, *(len(pair[0]) for pair in pairs[:-1])])] = IGNORED  # no row predicts the next
        positions = np.concatenate([np.arange(len(pair[0])) for pair in pairs])[None]
        self.filled += ids.size
        return ids, labels, np.concatenate(weights)[None], positions

    def _targets(self, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return choices and shares of class rows' supervised tokens, in the order of the rows."""
        if self.tensors.tokens is None or self.tensors.targets is None:
            return None, None
        places = np.r_[tuple(self.tensors.answers_of(int(row)) for row in rows)]
        return self.tensors.tokens[places].astype(np.int64), self.tensors.targets[places]

    def padding_share(self) -> float:
        """Return the share of padding in the computed positions."""
        return 1 - self.real / self.filled if self.filled else 0.0

    def merged_share(self) -> float:
        """Return the share of rows that were merged with an identical one."""
        return 1 - self.computed / self.asked if self.asked else 0.0


def _label_spans(tensors: Tensors, same_as: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Return the label's token span in each distinct row, int64 [rows, 2]; (0, 0) without a label."""
    finder = LabelFinder(tokenizer)
    spans = np.zeros((len(tensors), 2), dtype=np.int64)
    for row in np.unique(same_as):
        ids, labels = tensors.row(int(row))
        answer = int(np.argmax(labels != IGNORED))
        if found := finder.span(ids[answer:].tolist()):
            spans[row] = answer + found[0], answer + found[1]
    return spans


def causal_loss(
    model: Any,
    ids: Any,
    labels: Any,
    weights: Any | None = None,
    positions: Any | None = None,
    tokens: Any | None = None,
    targets: Any | None = None,
) -> Any:
    """Sum the token losses of right-padded `ids` and `labels`, both int64 [rows, width].

    There is no attention mask: with padding on the right, causality alone hides it from real tokens, and the attention
    kernel stays the fast one. The vocabulary projection runs on supervised positions only.
    Positions of packed rows restart at 0 with each row; without a mask and without a cache transformers takes this as
    the border that attention does not cross (flash attention by sequence lengths, sdpa by a block mask).

    Args:
        model: Causal language model, with or without an adapter.
        ids: Token ids.
        labels: Token ids to predict, IGNORED where there is no loss.
        weights: Weight of each token's loss, float, broadcast to [rows, width].
        positions: Positions of packed rows.
        tokens: Tokens [supervised, choices] that each supervised position may have, in place of its label.
        targets: Their probabilities, float [supervised, choices].
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(inner, inner.base_model_prefix)
    following = labels[:, 1:]
    chosen = following != IGNORED
    read = torch.nn.functional.pad(chosen, (0, 1))
    logits = inner.get_output_embeddings()(hidden_at(body, ids, read, positions)).float()
    if targets is None:
        losses = torch.nn.functional.cross_entropy(logits, following[chosen], reduction="none")
    else:
        losses = -(targets * logits.log_softmax(-1).gather(1, tokens)).sum(1)
    if weights is not None:
        losses = losses * weights.expand(labels.shape)[:, 1:][chosen]
    return losses.sum()
