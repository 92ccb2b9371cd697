"""Batches without waste and the loss on supervised positions only.

Belongs here: which rows a step reads, padding, cross-entropy. Does not belong here: optimiser, files, processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.sft.tensors import IGNORED, Tensors


@dataclass(frozen=True)
class Plan:
    """Which rows each optimiser step reads; the same for any number of processes at equal effective batch."""

    rows: int
    per_step: int
    steps: int
    seed: int

    def rows_of(self, step: int) -> np.ndarray:
        """Row numbers of a step, repeats included; epochs follow each other without a break."""
        first = step * self.per_step
        wanted = range(first, first + self.per_step)
        epochs = sorted({place // self.rows for place in wanted})
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(self.rows) for epoch in epochs}
        return np.array([orders[place // self.rows][place % self.rows] for place in wanted])


def make_plan(rows: int, per_step: int, epochs: float, max_steps: int | None, seed: int) -> Plan:
    """A plan of `epochs` passes in steps of `per_step` rows; the last step takes its rest from the next pass."""
    steps = max_steps or max(1, int(np.ceil(rows * epochs / per_step - 1e-9)))
    return Plan(rows, per_step, steps, seed)


def distinct_numbers(tensors: Tensors) -> np.ndarray:
    """int64 [rows]: the first row that is token for token the same."""
    first: dict[bytes, int] = {}
    numbers = np.empty(len(tensors), dtype=np.int64)
    for place in range(len(tensors)):
        ids, labels = tensors.row(place)
        numbers[place] = first.setdefault(ids.tobytes() + b"|" + labels.tobytes(), place)
    return numbers


def micro_batches(
    rows: np.ndarray, same_as: np.ndarray, lengths: np.ndarray, micro: int, rank: int, world: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, multiplicities) of each forward pass of this process.

    Rows of a step that are token for token the same are computed once and counted as often as they occur: the
    gradient is the same. The rest is sorted by length, so that a batch is padded little.
    """
    chosen, counts = np.unique(same_as[rows], return_counts=True)
    order = np.lexsort((chosen, lengths[chosen]))[rank::world]
    chosen, counts = chosen[order], counts[order]
    parts = max(1, int(np.ceil(len(chosen) / micro)))
    return [
        pair for pair in zip(np.array_split(chosen, parts), np.array_split(counts, parts), strict=True) if len(pair[0])
    ]


def padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """int64 [rows, longest]: rows of ids, filled on the right."""
    width = max(len(row) for row in rows)
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def label_weights(tensors: Tensors, rows: np.ndarray, marker: Sequence[int], breaks: np.ndarray, weight: float) -> Any:
    """float32 [rows, longest]: `weight` on the label's tokens (behind `marker`, up to a line break), 1 elsewhere."""
    out = np.ones((len(rows), int(tensors.lengths[rows].max())), dtype=np.float32)
    for place, row in enumerate(rows):
        _ids, labels = tensors.row(int(row))
        listed = labels.tolist()
        for at in range(len(listed) - len(marker)):
            if listed[at : at + len(marker)] == list(marker):
                begin = stop = at + len(marker)
                while stop < len(listed) and not breaks[listed[stop]]:
                    stop += 1
                out[place, begin:stop] = weight
                break
    return out


def causal_loss(model: Any, ids: Any, labels: Any, weights: Any | None = None) -> Any:
    """Sum of the token losses of right-padded `ids` and `labels`, both int64 [rows, width].

    No attention mask: with padding on the right, causality alone keeps real tokens from seeing it, and the
    attention kernel stays the fast one. The vocabulary projection runs on supervised positions only.
    `weights` (float, broadcast to [rows, width]) multiplies each token's loss.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(inner, inner.base_model_prefix)
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    logits = inner.get_output_embeddings()(hidden[:, :-1][chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    if weights is not None:
        losses = losses * weights.expand(labels.shape)[:, 1:][chosen]
    return losses.sum()
