"""Greedy decoding by OpenVINO on CPUs: a student as a graph whose cache of keys and values is its state.

Inputs are input_ids, attention_mask, position_ids and beam_idx, the output is logits: the layout that OpenVINO GenAI
reads too. A second call reads its tokens behind those of the first, until the state is reset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError

INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
ROWS, READ, NEW = 2, 3, 5  # of the example by which a model is traced; its shapes stay free
# Some CPUs would compute in bf16, and keys and values would be kept in 8 bits.
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "PERFORMANCE_HINT": "LATENCY"}
Processor = Callable[[Any, Any], Any]


class WindowedAttention(UserError):
    """Error for a base whose layers attend to a window, which a growing cache does not."""


@dataclass(frozen=True)
class CacheShape:
    """Shape of the cache: layers, heads of keys and values, dimensions of a head."""

    layers: int
    heads: int
    size: int

    @classmethod
    def of(cls, config: Any) -> CacheShape:
        """Read it from a model's config; WindowedAttention if a layer attends to a window."""
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
            raise WindowedAttention(
                "the base has layers that attend to a window, which OpenVINO's cache does not cover"
            )
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, config.num_key_value_heads, size)

    @property
    def names(self) -> list[str]:
        """Names of the states, two a layer."""
        return [f"past_key_values.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")]


def stateful_graph(openvino: Any, model: Any) -> Any:
    """Convert a model in fp32 on the CPU into a graph whose cache is its state.

    Raises WindowedAttention, and whatever OpenVINO's converter raises for a base that it cannot convert.
    """
    shape = CacheShape.of(model.config)
    return _with_states(openvino, _converted(openvino, model, shape), shape)


def _converted(openvino: Any, model: Any, shape: CacheShape) -> Any:
    """Convert a model into a graph whose cache goes in and out."""
    import torch
    from transformers import DynamicCache
    from transformers.utils import logging

    class Decoder(torch.nn.Module):
        """One step: new tokens [rows, new] behind cached ones [rows, read] to logits and the longer cache."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            input_ids, attention_mask, position_ids, beam_idx, *past = given
            states = [state.index_select(0, beam_idx) for state in past]
            queries = torch.arange(input_ids.shape[1])[:, None] + states[0].shape[2]
            before = torch.arange(attention_mask.shape[1])[None, :] <= queries
            allowed = before[None, None] & (attention_mask[:, None, None, :] > 0)
            mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
            cache: Any = DynamicCache(config=model.config)
            for layer, key, value in zip(cache.layers, states[::2], states[1::2], strict=True):
                layer.lazy_initialization(key, value)
                layer.keys, layer.values = key, value
            made = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            return (made.logits, *(state for layer in cache.layers for state in (layer.keys, layer.values)))

    example = (
        torch.zeros((ROWS, NEW), dtype=torch.long),
        torch.ones((ROWS, READ + NEW), dtype=torch.long),
        torch.arange(READ, READ + NEW).expand(ROWS, -1),
        torch.arange(ROWS, dtype=torch.int32),
        *(torch.zeros((ROWS, shape.heads, READ, shape.size)) for _ in shape.names),
    )
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # tracing asks for the model's loss, of which it would warn
    try:
        with torch.no_grad():
            return openvino.convert_model(Decoder(), example_input=example)
    finally:
        logging.set_verbosity(told)


def _with_states(openvino: Any, graph: Any, shape: CacheShape) -> Any:
    """Name the ports of a graph, and make its cache a state, which is empty at first."""
    import openvino.opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    made = [name.replace("past_key_values", "present") for name in shape.names]
    sizes = {"beam_idx": [-1], **{name: [-1, shape.heads, -1, shape.size] for name in shape.names}}
    for port, name in zip(graph.inputs, (*INPUTS, *shape.names), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape(sizes.get(name, [-1, -1])))
    for port, name in zip(graph.outputs, ("logits", *made), strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(shape.names, made, strict=True)))
    first = np.array([0], dtype=np.int64)
    rows = ops.gather(ops.shape_of(graph.input("input_ids"), output_type="i64"), ops.constant(first), ops.constant(0))
    empty = ops.concat([rows, *(ops.constant(np.array([size])) for size in (shape.heads, 0, shape.size))], axis=0)
    for operation in graph.get_ops():
        if operation.get_type_name() == "ReadValue":
            zero = ops.constant(0.0, dtype=operation.get_output_element_type(0))
            operation.set_arguments([ops.broadcast(zero, empty)])
    graph.validate_nodes_and_infer_types()
    return graph


@dataclass
class OpenVinoDecoder:
    """Model that writes by a compiled stateful graph, in place of transformers' in `Student.explain`.

    `model` is the one that the graph was made of, `request` an infer request of the graph.
    """

    model: Any
    request: Any

    @classmethod
    def compiled(cls, openvino: Any, model: Any, threads: int | None = None) -> OpenVinoDecoder:
        """Convert and compile a model; raises what `stateful_graph` does."""
        options = OPTIONS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
        compiled = openvino.Core().compile_model(stateful_graph(openvino, model), "CPU", options)
        return cls(model, compiled.create_infer_request())

    def get_output_embeddings(self) -> Any:
        """Return the head, whose rows are the tokens."""
        return self.model.get_output_embeddings()

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        logits_processor: Sequence[Processor] | None = None,
        do_sample: bool = False,
    ) -> Any:
        """Write greedily as transformers' `generate` does, and return prompts and answers [rows, tokens].

        Rows that have ended leave the batch of the graph; behind their end stand pad tokens.

        Args:
            input_ids: Tokens of the prompts, padded on the left [rows, width].
            attention_mask: 1 for their tokens, 0 for padding.
            max_new_tokens: Most tokens of an answer.
            eos_token_id: Token that ends one.
            pad_token_id: Token of the padding.
            logits_processor: Called with all rows and their scores before each token.
            do_sample: Must be False.
        """
        import torch

        assert not do_sample
        rows, width = input_ids.shape
        whole = torch.full((rows, width + max_new_tokens), pad_token_id)
        whole[:, :width] = input_ids
        tokens, mask = input_ids.numpy(), attention_mask.numpy()
        places, active = np.maximum(mask.cumsum(1) - 1, 0), np.arange(rows)
        kept, scores = active, torch.zeros((rows, 0))
        self.request.reset_state()
        for step in range(width, width + max_new_tokens):
            given = (tokens, mask, places, kept.astype(np.int32))
            last = torch.from_numpy(self.request.infer(dict(zip(INPUTS, given, strict=True)))["logits"][:, -1])
            scores = last.clone() if step == width else scores.index_copy(0, torch.from_numpy(active), last)
            for process in logits_processor or ():
                scores = process(whole[:, :step], scores)
            best = scores.argmax(-1).numpy()[active]
            whole[active, step] = torch.from_numpy(best)
            kept = np.flatnonzero(best != eos_token_id)
            if not len(kept):
                return whole[:, : step + 1]
            active, tokens, places = active[kept], best[kept, None], places[kept, -1:] + 1
            mask = np.concatenate([mask[kept], np.ones((len(kept), 1), np.int64)], axis=1)
        return whole
