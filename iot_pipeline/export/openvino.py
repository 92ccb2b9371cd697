"""OpenVINO model of a student with a cache of keys and values, in the layout that OpenVINO GenAI expects.

Inputs are input_ids, attention_mask, position_ids and beam_idx, the output is logits, and the cache is a state of the
compiled model: a second call reads its tokens behind those of the first, until the state is reset.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.export.scoring import label_scores
from iot_pipeline.inference.openvino_engine import compressed_weights, openvino_module
from iot_pipeline.inference.scoring import Labels
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import end_of_turn, in_one_line

QUANTISATIONS = ("fp32", "fp16", "int8", "int4")
MODEL = "openvino_model.xml"
INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
ROWS, READ, NEW = 2, 3, 5  # of the example by which a model is traced; its shapes stay free
# Some CPUs would compute in bf16, and keys and values would be kept in 8 bits.
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "PERFORMANCE_HINT": "LATENCY"}


@dataclass(frozen=True)
class CacheShape:
    """Shape of the cache: layers, heads of keys and values, dimensions of a head."""

    layers: int
    heads: int
    size: int

    @classmethod
    def of(cls, config: Any) -> CacheShape:
        """Read it from a model's config; UserError if layers attend to a window, which a growing cache does not."""
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
            raise UserError("--format openvino: the base has layers that attend to a window; use --format merged")
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, config.num_key_value_heads, size)

    @property
    def names(self) -> list[str]:
        """Names of the states, two a layer."""
        return [f"past_key_values.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")]


def write_openvino(student: Student, folder: Path, quantisation: str) -> str:
    """Convert a student and write it with tokenizer and settings; return the name of the file of weights.

    Args:
        student: Merged student in fp32 on the CPU.
        folder: Empty folder.
        quantisation: Of the weights, one of QUANTISATIONS.

    Raises:
        UserError: OpenVINO cannot convert the base.
    """
    openvino, model = openvino_module(), student.model
    shape = CacheShape.of(model.config)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the tracer's, on what it holds fast: none of it depends on a length
            graph = _with_states(_converted(model, shape), shape)
        if quantisation in ("int8", "int4"):
            graph = compressed_weights(graph, quantisation)
    except UserError:
        raise
    except Exception as error:  # converter and compressor raise classes of their own
        raise UserError(f"--format openvino: the base cannot be converted: {in_one_line(error)}") from error
    openvino.save_model(graph, folder / MODEL, compress_to_fp16=quantisation == "fp16")
    model.generation_config.eos_token_id = end_of_turn(student.tokenizer)
    model.generation_config.save_pretrained(folder)
    model.config.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return Path(MODEL).with_suffix(".bin").name


def load_openvino(folder: Path, student: Student, tokenizer: Any) -> OpenVinoExport:
    """Compile a written model for the CPU with OPTIONS, on as many threads as torch has."""
    import torch

    openvino = openvino_module()
    logging.getLogger("openvino").setLevel(logging.ERROR)
    options = {**OPTIONS, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(folder / MODEL, "CPU", options)
    return OpenVinoExport(compiled.create_infer_request(), tokenizer, student.device, student.pad)


def _converted(model: Any, shape: CacheShape) -> Any:
    """Convert a model into a graph whose cache goes in and out, with its ports named."""
    import torch
    from transformers import DynamicCache

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
    with torch.no_grad():
        return openvino_module().convert_model(Decoder(), example_input=example)


def _with_states(graph: Any, shape: CacheShape) -> Any:
    """Name the ports of a graph, and make its cache a state, which is empty at first."""
    import openvino.opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    openvino = openvino_module()
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


class OpenVinoExport(Student):
    """Student whose model is a request to a compiled OpenVINO model, read row by row."""

    def score_labels(
        self,
        prompts: Sequence[str],
        classes: Sequence[str],
        batch_tokens: int | None = None,
        log: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """Score the labels prompt by prompt.

        Args:
            prompts: As in `Student.score_labels`; so are the others.
            classes: Class names, each once.
            batch_tokens: Of no effect.
            log: Called with progress messages.
        """
        labels, found = Labels.of(self.tokenizer, classes), dict[str, np.ndarray]()
        for text, row in zip(prompts, self._prompts(prompts), strict=True):
            if text not in found:
                begun = [*row, *labels.begun]
                found[text] = label_scores(labels, lambda prefix, begun=begun: self._next([*begun, *prefix]))  # type: ignore[misc]
                if log and len(found) % 200 == 0:
                    log(f"scored {len(found):,} flows in OpenVINO")
        return np.array([found[text] for text in prompts], dtype=np.float64).reshape(len(prompts), len(classes))

    def explain(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        batch: int = 1,
        answers: Sequence[str] | None = None,
        log: Callable[[str], None] | None = None,
        grounded_in: Sequence[str] | None = None,
        guided_by: Sequence[str] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[tuple[str, bool]]:
        """Write answers freely by greedy decoding, row by row.

        Args:
            prompts: As in `Student.explain`; so are the others.
            max_new_tokens: Token limit of an answer.
            batch: Of no effect.
            answers: Must be None, and so must what follows `log`.
            log: Called with progress messages.
            grounded_in: See answers.
            guided_by: See answers.
            meanwhile: See answers.

        Raises:
            UserError: Another way of decoding is asked for.
        """
        if answers or grounded_in or guided_by or meanwhile:
            raise UserError("an OpenVINO export is asked for free answers only")
        end, out = end_of_turn(self.tokenizer), list[tuple[str, bool]]()
        for row in self._prompts(prompts):
            answer = [int(self._next(row).argmax())]
            while len(answer) < max_new_tokens and answer[-1] != end:
                answer.append(int(self._next(answer[-1:], len(row) + len(answer) - 1).argmax()))
            ended = answer[-1] == end
            text = self.tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
            out.append((text, ended))
            if log:
                log(f"explained {len(out)} of {len(prompts)} flows in OpenVINO")
        return out

    def _next(self, tokens: list[int], read: int = 0) -> np.ndarray:
        """Return the log-probabilities of the token behind `tokens`, which follow `read` tokens: [vocabulary]."""
        if not read:
            self.model.reset_state()
        places = np.arange(read, read + len(tokens))[None]
        given = (np.array([tokens]), np.ones((1, read + len(tokens)), np.int64), places, np.zeros(1, np.int32))
        logits = self.model.infer(dict(zip(INPUTS, given, strict=True)))["logits"][0, -1].astype(np.float64)
        return np.asarray(logits - np.logaddexp.reduce(logits))
