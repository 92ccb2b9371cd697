"""Last decoder layer at chosen positions only: what else it would compute, nobody reads.

A class row of 103 tokens is read at one position, an explained row of 192 at 91 (means of 700 simulated flows). The
other positions give the last layer their keys and values, a twelfth of its weights; its queries, output projection and
MLP run on the chosen positions alone. The tiny base has 3 layers, so a training step takes a fifth less time
(benchmarks/last_layer.py); the gradients are the same within 1.5e-6.
"""

from functools import partial
from typing import Any

# Above this number of layers the last one is less than an eighth of the work.
MOST_LAYERS = 8


def chosen_places(chosen: Any) -> tuple[Any, Any]:
    """Return the places of the true cells of each row, int64 [rows, most], and which of them are real, bool.

    chosen      places  real
    . x . x     1 3     x x
    . . x .     2 0     x .
    """
    import torch

    counts = chosen.sum(dim=1)
    most = max(1, int(counts.max()))
    places = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, torch.arange(most, device=chosen.device) < counts[:, None]


def hidden_at(body: Any, ids: Any, chosen: Any, positions: Any | None = None) -> Any:
    """Return the last hidden states at the chosen places, row after row: [number chosen, hidden size].

    Args:
        body: Decoder without its head.
        ids: Token ids, int64 [rows, width], padded on the right: there is no attention mask.
        chosen: Places to read, bool [rows, width].
        positions: Positions of packed rows; None if each row is one sequence.
    """
    if positions is not None or not fits(body):
        return body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[chosen]
    places, real = chosen_places(chosen)
    if 2 * places.shape[1] > ids.shape[1]:  # a mask costs more than half of the positions save
        return body(input_ids=ids, use_cache=False).last_hidden_state[chosen]
    last = body.layers[-1]
    last.forward = partial(layer_at_places, last, places)
    try:
        return body(input_ids=ids, use_cache=False).last_hidden_state[real]
    finally:
        del last.forward


def fits(body: Any) -> bool:
    """True if the model is a Qwen2 of few layers, whose last layer attends to all positions before a place."""
    layers = getattr(body, "layers", None)
    if not layers or len(layers) > MOST_LAYERS or type(layers[-1]).__name__ != "Qwen2DecoderLayer":
        return False
    return layers[-1].self_attn.sliding_window is None and not getattr(body, "gradient_checkpointing", False)


def layer_at_places(layer: Any, places: Any, hidden: Any, *, position_embeddings: Any, **_unused: Any) -> Any:
    """Compute a Qwen2 layer at `places` [rows, most] of `hidden` [rows, width, size]; return [rows, most, size].

    Args:
        layer: The decoder layer.
        places: Places to compute.
        hidden: Output of the layer before.
        position_embeddings: Cosines and sines of all positions, each [1, width, head size].
    """
    import torch
    from transformers.models.qwen2.modeling_qwen2 import rotate_half

    def at(states: Any) -> Any:
        return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[-1]))

    def heads(states: Any) -> Any:
        return states.view(*states.shape[:-1], -1, attention.head_dim).transpose(1, 2)

    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        heads(attention.q_proj(at(normed))), heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
    )  # fmt: skip
    cos, sin = position_embeddings
    key = key * cos[:, None] + rotate_half(key) * sin[:, None]
    cos, sin = cos[0][places][:, None], sin[0][places][:, None]
    query = query * cos + rotate_half(query) * sin
    before = torch.arange(hidden.shape[1], device=hidden.device) <= places[:, :, None]
    read = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=before[:, None], scale=attention.scaling, enable_gqa=True
    )
    middle = at(hidden) + attention.o_proj(read.transpose(1, 2).flatten(2))
    return middle + layer.mlp(layer.post_attention_layernorm(middle))
