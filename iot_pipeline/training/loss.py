"""Loss on supervised positions only."""

from __future__ import annotations

from typing import Any

from iot_pipeline.sft.tensors import IGNORED


def causal_loss(model: Any, ids: Any, labels: Any, weights: Any | None = None, positions: Any | None = None) -> Any:
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
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(inner, inner.base_model_prefix)
    hidden = body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    logits = inner.get_output_embeddings()(hidden[:, :-1][chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    if weights is not None:
        losses = losses * weights.expand(labels.shape)[:, 1:][chosen]
    return losses.sum()
