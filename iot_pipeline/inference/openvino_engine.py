"""OpenVINO on CPUs: labels are scored by one compiled graph (label_graph.py), explanations written by another."""

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.label_graph import Layout, label_graph
from iot_pipeline.inference.openvino_decoder import OpenVinoDecoder
from iot_pipeline.inference.scoring import Labels, Prefix, Scorer, Tree
from iot_pipeline.inference.student import Student
from iot_pipeline.models.loading import attends_alone
from iot_pipeline.models.tokenizer import in_one_line

Precision = Literal["fp32", "bf16", "int8", "int4"]
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int4": "f32"}
WHOLE_ROWS = str(2**64 - 1)  # group of dynamic quantisation: activations get one scale a row
EXAMPLE = 12  # tokens of the rows that a graph is traced with; its shapes stay free


class EngineUnavailable(UserError):
    """Error for an engine that is not installed, or cannot run this student on this machine."""


@dataclass
class OpenVinoStudent(Student):
    """Student whose labels OpenVINO scores. `precision`: of its graph; int8 and int4 are weights, activations int8.

    `writes`: explanations are OpenVINO's too, in fp32 whatever the precision; else the torch model's.
    """

    precision: Precision = "fp32"
    threads: int | None = None
    writes: bool = False
    _scorers: dict[str, Scorer] = field(default_factory=dict)

    @classmethod
    def open(cls, base: str | Path, adapter: Path | None, precision: Precision, threads: int | None = None) -> Self:
        """Load a student for OpenVINO.

        Args:
            base: Folder or hub id.
            adapter: Folder; None for the base alone.
            precision: Precision of the graph.
            threads: CPU threads; None: as many as OpenVINO finds cores.

        Raises:
            EngineUnavailable: OpenVINO is not installed, or the base has a form that its graph does not cover.
        """
        openvino_module()
        student = cls.load(base, adapter, device="cpu", threads=threads, dtype="fp32")
        student.precision, student.threads = precision, threads
        if getattr(student.model.config.get_text_config(), "sliding_window", None) is not None:
            raise EngineUnavailable("openvino: the base attends to a sliding window, which its graph does not cover")
        if not attends_alone(student.model.config):
            raise EngineUnavailable("openvino: the base has layers that are no attention, as its graph needs")
        return student

    @property
    def name(self) -> str:
        """Name of the engine."""
        return f"openvino-{self.precision}"

    def describe(self) -> dict[str, Any]:
        """Describe engine, device, precision and versions."""
        version = str(openvino_module().__version__).split("-")[0]
        written = "openvino-fp32" if self.writes else "transformers-fp32"
        told = {"engine": self.name, "explanations": written, "dtype": self.precision, "openvino": version}
        return super().describe() | told

    def explain(self, *given: Any, **more: Any) -> list[tuple[str, bool]]:
        """Write answers as `Student.explain` does, held to their flows as there."""
        return self._writer.explain(*given, **more) if self.writes else super().explain(*given, **more)

    @cached_property
    def _writer(self) -> Student:
        """Student that writes by a compiled graph; it is made at first use, in a few seconds."""
        return Student(compiled_decoder(self.model, self.threads), self.tokenizer, self.device, self.pad)

    def close(self) -> None:
        """Free memory. The student cannot be used afterwards."""
        self._scorers.clear()
        self.__dict__.pop("_writer", None)
        super().close()

    def _scorer(self, ids: list[list[int]], labels: Labels) -> Scorer:
        """Return the compiled graph of these labels; it is made at first use, in a second or two."""
        key = repr(labels.tree)
        if key not in self._scorers:
            layout = Layout(labels.tree)
            compiled = _compiled(self.model, layout, self.precision, self.threads)
            hidden = self.model.config.get_text_config().hidden_size
            self._scorers[key] = OpenVinoScorer(compiled, layout, self.pad, hidden)
        return self._scorers[key]


@dataclass
class OpenVinoScorer:
    """Scorer by a compiled graph."""

    compiled: Any
    layout: Layout
    pad: int
    hidden: int

    def logs(self, ids: list[list[int]], tree: Tree) -> tuple[dict[Prefix, np.ndarray], np.ndarray]:
        """Return the log-probabilities of `onward` of each node, and the rows' states; see `Scorer`."""
        logs, states = self.compiled(list(self.layout.rows(ids, self.pad))).values()
        return self.layout.split(logs), states


def openvino_module() -> Any:
    """Import OpenVINO without its telemetry; EngineUnavailable if it is not installed.

    Its telemetry reports each import to the maker's server unless a file in the user's home says no. A package that
    cannot be imported is taken by OpenVINO and NNCF as not installed, and nothing is sent.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable("openvino is not installed: pip install 'iot-pipeline[openvino]'") from error
    return openvino


def _compiled(model: Any, layout: Layout, precision: Precision, threads: int | None) -> Any:
    """Convert and compile the label graph of a model; EngineUnavailable if OpenVINO cannot."""
    import torch
    from transformers.utils import logging

    openvino = openvino_module()
    rows, lengths = layout.rows([[0] * EXAMPLE, [0] * (EXAMPLE - 3)], 0)
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    if precision in ("int8", "int4"):
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = WHOLE_ROWS
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # tracing asks for the model's loss, of which it would warn
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing: sizes that are fixed by the tree
            example = (torch.from_numpy(rows), torch.from_numpy(lengths))
            graph = openvino.convert_model(label_graph(model, layout), example_input=example)
        return openvino.Core().compile_model(compressed_weights(graph, precision), "CPU", options)
    except UserError:
        raise
    except Exception as error:  # converter, compressor and plugin each raise classes of their own
        reason = in_one_line(error)
        raise EngineUnavailable(f"openvino cannot compile this base; IOT_INFERENCE=reference can: {reason}") from error
    finally:
        logging.set_verbosity(told)


def compiled_decoder(model: Any, threads: int | None) -> OpenVinoDecoder:
    """Convert and compile a model in fp32 for writing; EngineUnavailable if OpenVINO cannot."""
    openvino = openvino_module()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: none of what it holds fast depends on a length
            return OpenVinoDecoder.compiled(openvino, model, threads)
    except Exception as error:  # converter and plugin each raise classes of their own
        reason = in_one_line(error)
        raise EngineUnavailable(
            f"openvino cannot write with this base; IOT_INFERENCE=reference can: {reason}"
        ) from error


def compressed_weights(graph: Any, precision: str) -> Any:
    """Return the graph with its weights in int8 or int4, if that is its precision."""
    if precision not in ("int8", "int4"):
        return graph
    try:
        import nncf
    except ImportError as error:
        raise EngineUnavailable("nncf is not installed: pip install 'iot-pipeline[openvino]'") from error
    nncf.set_log_level("ERROR")
    kind = {"int8": nncf.CompressWeightsMode.INT8_SYM, "int4": nncf.CompressWeightsMode.INT4_SYM}[precision]
    adjusted = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bar, in the middle of ours
        return nncf.compress_weights(graph, mode=kind, advanced_parameters=adjusted if precision == "int4" else None)
