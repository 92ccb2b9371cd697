"""Scores of a student's labels on Ray: those of `Student.score_with_states`, a file a block of flow groups."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.inference.ray_batch import Result
from iot_pipeline.inference.ray_blocks import GROUP, Answer
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.code_version import code_version

LABEL_ROWS = b"label_rows"


class Opener(Protocol):
    """Student to be loaded elsewhere, such as `engines.Opening`."""

    @property
    def name(self) -> str:
        """Name of the engine."""

    def open(self, threads: int | None) -> Student:
        """Load the student."""


@dataclass(frozen=True)
class ScoreLabels:
    """Work: score the classes of prompts. Columns flow_group, prompt -> flow_group, label, log_probs.

    `model`: names its weights. `states`: also give the hidden states that
    the head read (column `state`) and the head's rows of the labels (metadata of the table).
    """

    student: Opener
    classes: tuple[str, ...]
    model: str
    states: bool = False

    @property
    def columns(self) -> Sequence[str]:
        """Columns that it reads."""
        return (GROUP, "prompt")

    @property
    def key(self) -> Mapping[str, Any]:
        """Facts that decide the scores besides the prompts."""
        told = {"engine": self.student.name, "model": self.model, "classes": list(self.classes)}
        return told | {"states": self.states, "code": code_version(__name__)}

    def open(self, threads: int | None) -> Answer:
        """Load the student."""
        student, rows = self.student.open(threads), b""
        if self.states:
            from iot_pipeline.inference.states import label_rows

            rows = _text(label_rows(student, self.classes))

        def answer(given: pa.Table) -> pa.Table:
            prompts = given["prompt"].to_pylist()
            if not self.states:
                return self._table(given[GROUP], student.score_labels(prompts, self.classes), None)
            found = self._table(given[GROUP], *student.score_with_states(prompts, self.classes))
            return found.replace_schema_metadata({LABEL_ROWS: rows})

        return answer

    def _table(self, groups: pa.ChunkedArray, scores: np.ndarray, states: np.ndarray | None) -> pa.Table:
        labels = [self.classes[place] for place in scores.argmax(axis=1)]
        columns = {GROUP: groups, "label": pa.array(labels), "log_probs": _lists(scores)}
        return pa.table(columns | ({} if states is None else {"state": _lists(states)}))


@dataclass(frozen=True)
class Scores:
    """Scores of flow groups [n]: log-probabilities [n, classes], hidden states [n, hidden size], the head's rows."""

    groups: list[str]
    log_probs: np.ndarray
    states: np.ndarray
    label_rows: np.ndarray

    @classmethod
    def of(cls, result: Result) -> Scores:
        """Read the answers of `ScoreLabels` with states."""
        table = pa.concat_tables([part.replace_schema_metadata(None) for part in result.tables()])
        rows = _array(pq.read_schema(result.files[0]).metadata[LABEL_ROWS])
        return cls(table[GROUP].to_pylist(), _matrix(table["log_probs"]), _matrix(table["state"]), rows)


def _lists(matrix: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks()
    found: np.ndarray = flat.flatten().to_numpy().reshape(len(flat), -1)
    return found


def _text(matrix: np.ndarray) -> bytes:
    """Return an array as text, which the metadata of a table can hold."""
    sink = io.BytesIO()
    np.save(sink, matrix, allow_pickle=False)
    return base64.b64encode(sink.getvalue())


def _array(text: bytes) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return found
