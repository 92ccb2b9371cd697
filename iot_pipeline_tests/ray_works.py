"""Works and students for replicas of Ray, which import them from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.inference.ray_blocks import GROUP, Answer
from iot_pipeline_tests.serving.factories import HashStudent


@dataclass(frozen=True)
class Lengths:
    """Answers with the length of a text, and does as the text says.

    `broken` is a user's error until `folder` has a file `mended`; `die` ends the replica, `die once` the first time.
    """

    folder: Path
    no_student: bool = False

    @property
    def columns(self) -> Sequence[str]:
        return (GROUP, "text")

    @property
    def key(self) -> Mapping[str, Any]:
        return {"work": "lengths"}

    def open(self, threads: int | None) -> Answer:
        if self.no_student:
            raise UserError("there is no student here; train one")
        return self._answer

    def _answer(self, given: pa.Table) -> pa.Table:
        texts, died = given["text"].to_pylist(), self.folder / "died"
        if "broken" in texts and not (self.folder / "mended").exists():
            raise UserError("a row is broken; mend it")
        if "die" in texts or ("die once" in texts and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({GROUP: given[GROUP], "length": [len(text) for text in texts]})


@dataclass(frozen=True)
class HashOpening:
    """Opens the student of factories.py."""

    name: str = HashStudent.name

    def open(self, threads: int | None) -> Any:
        return HashStudent()
