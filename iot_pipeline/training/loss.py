"""Batches without waste and the loss on supervised positions only.

Belongs here: batching, padding, cross-entropy. Does not belong here: which model, which optimiser, which files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

IGNORED = -100


def padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """int64 [rows, longest]: rows of ids, filled on the right."""
    width = max(len(row) for row in rows)
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def causal_loss(model: Any, ids: Any, labels: Any, weights: Any | None = None) -> tuple[Any, int]:
    """(sum of token losses, supervised tokens) of right-padded `ids` and `labels`, both int64 [rows, width].

    No attention mask: with padding on the right, causality alone keeps real tokens from seeing it, and the
    attention kernel stays the fast one. The vocabulary projection runs on supervised positions only.
    `weights` (float [rows, width]) multiplies each token's loss.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    logits = inner.lm_head(hidden[:, :-1][chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    if weights is not None:
        losses = losses * weights[:, 1:][chosen]
    return losses.sum(), int(chosen.sum())
