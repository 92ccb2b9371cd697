"""OpenVINO model of a student, in the layout that OpenVINO GenAI reads (inference/openvino_decoder.py)."""

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
from iot_pipeline.inference.openvino_decoder import INPUTS, OPTIONS, WindowedAttention, stateful_graph
from iot_pipeline.inference.openvino_engine import compressed_weights, openvino_module
from iot_pipeline.inference.scoring import Labels
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import end_of_turn, in_one_line

QUANTISATIONS = ("fp32", "fp16", "int8", "int4")
MODEL = "openvino_model.xml"


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
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the tracer's, on what it holds fast: none of it depends on a length
            graph = stateful_graph(openvino, model)
        if quantisation in ("int8", "int4"):
            graph = compressed_weights(graph, quantisation)
    except WindowedAttention as error:
        raise UserError(f"--format openvino: {error}; use --format merged") from None
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
