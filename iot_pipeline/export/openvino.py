"""OpenVINO model of a student: the network that gives the logits of a row, with the tokenizer beside it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.export.scoring import label_scores
from iot_pipeline.inference.scoring import Labels
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import end_of_turn, in_one_line

MODEL = "openvino_model.xml"
INSTALL = "pip install 'iot-pipeline[openvino]'"


def require_openvino() -> None:
    """Raise UserError if OpenVINO is not installed."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format openvino needs the extra `openvino`: {INSTALL}") from error


def write_openvino(student: Student, folder: Path, quantisation: str) -> str:
    """Convert a student and write it with its tokenizer and config; return the name of the file of weights.

    Args:
        student: Merged student in fp32 on the CPU.
        folder: Empty folder.
        quantisation: fp32, or fp16: weights are halved and computed in fp32.

    Raises:
        UserError: OpenVINO cannot convert the base.
    """
    import openvino as ov
    import torch

    class Logits(torch.nn.Module):
        """The network without its cache: tokens [rows, width] and their mask to logits [rows, width, vocabulary]."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    model = student.model
    kernel = model.config._attn_implementation
    model.set_attn_implementation("eager")  # whose mask can be traced for any length
    tokens = torch.full((2, 8), student.pad, dtype=torch.long)
    example = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    shape = ov.PartialShape([-1, -1])
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the tracer's, on shapes that it holds fast
            converted = ov.convert_model(
                Logits(model), example_input=example, input=[(name, shape, ov.Type.i64) for name in example]
            )
    except Exception as error:  # whatever an operation without a conversion raises
        raise UserError(f"--format openvino: the base cannot be converted: {in_one_line(error)}") from error
    finally:
        model.set_attn_implementation(kernel)
    converted.outputs[0].get_tensor().set_names({"logits"})
    ov.save_model(converted, folder / MODEL, compress_to_fp16=quantisation == "fp16")
    model.config.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return Path(MODEL).with_suffix(".bin").name


def load_openvino(folder: Path, student: Student, threads: int | None = None) -> OpenVinoStudent:
    """Compile a written model for the CPU, in fp32: some CPUs would else compute in bf16."""
    import openvino as ov

    logging.getLogger("openvino").setLevel(logging.ERROR)
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(folder / MODEL, "CPU", options)
    return OpenVinoStudent(compiled, student.tokenizer, student.device, student.pad)


class OpenVinoStudent(Student):
    """Student whose model is a compiled OpenVINO network: it reads every row whole, because there is no cache."""

    def score_labels(
        self,
        prompts: Sequence[str],
        classes: Sequence[str],
        batch_tokens: int = 8192,
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
        end = end_of_turn(self.tokenizer)
        out = []
        for row in self._prompts(prompts):
            answer: list[int] = []
            while len(answer) < max_new_tokens and end not in answer:
                answer.append(int(self._next([*row, *answer]).argmax()))
            ended = end in answer
            text = self.tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
            out.append((text, ended))
            if log:
                log(f"explained {len(out)} of {len(prompts)} flows in OpenVINO")
        return out

    def _next(self, tokens: list[int]) -> np.ndarray:
        """Return the log-probabilities of the token behind a row, float64 [vocabulary]."""
        ids = np.array([tokens], dtype=np.int64)
        logits = self.model([ids, np.ones_like(ids)])[0][0, -1].astype(np.float64)
        return np.asarray(logits - np.logaddexp.reduce(logits))
