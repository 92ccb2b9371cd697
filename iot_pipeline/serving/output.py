"""Outputs of events: a pipe, or a file that survives a kill without a lost or repeated event.

Beside a file stands a folder `<file>.resume` while a run writes it. Its state.json says how much of the input was
answered and how long the output was then; it is replaced after each batch, once the output is on the disk. A run that
finds it cuts the output to that length and goes on from that place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import write_batches
from iot_pipeline.lake.atomic import read_json, remove, write_json
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.events import Row
from iot_pipeline.serving.formats import SCHEMA, Encoder

FORM = 1  # of state.json
REPLICAS = "ray"  # folder of what replicas answer, in that of the run
Verdicts = Mapping[str, Verdict]


class Pipe:
    """Events to a stream, such as standard output; a batch is written whole and flushed."""

    def __init__(self, encoder: Encoder, stream: IO[bytes], folder: Path) -> None:
        self._encoder, self._stream = encoder, stream
        self._parts = Parts(folder) if encoder.form == "parquet" else None
        self._stream.write(encoder.head())

    def write(self, rows: Sequence[Row], verdicts: Verdicts) -> None:
        """Write the events of rows."""
        if self._parts is not None:
            self._parts.add(self._encoder.table(rows, verdicts))
        else:
            self._stream.write(self._encoder.encode(rows, verdicts))

    def commit(self, position: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Hand on what was written; a pipe cannot be resumed, so nothing is recorded."""
        self._stream.flush()

    def finish(self) -> None:
        """End the output: a Parquet file is sent now, because its end says where all is."""
        if self._parts is not None:
            with self._parts.joined().open("rb") as whole:
                while chunk := whole.read(1 << 20):
                    self._stream.write(chunk)
        self._stream.flush()


class Parts:
    """Parquet parts in a folder, each written whole, and joined at the end."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        self._folder, self.number = folder / "parts", number
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():  # of a batch that was not recorded
            if path.name not in {self._path(n).name for n in range(number)}:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07d}.parquet"

    def add(self, table: pa.Table) -> None:
        """Write one part."""
        path = self._path(self.number)
        with path.open("wb") as handle:
            pq.write_table(table, handle, compression="lz4")
            handle.flush()
            os.fsync(handle.fileno())
        self.number += 1

    def joined(self, out: Path | None = None) -> Path:
        """Write all parts as one file, and return it."""
        out = out if out is not None else self._folder / "whole.parquet"

        def batches() -> Iterator[pa.RecordBatch]:
            for number in range(self.number):
                yield from pq.read_table(self._path(number), schema=SCHEMA).to_batches()

        write_batches(out, SCHEMA, batches())
        return out


class File:
    """Events to a file that can be resumed.

    `run`: what decides the events (inputs, model, options); a run that goes on must have the same. Raises UserError if
    the file is there and was not begun by such a run.
    """

    def __init__(self, encoder: Encoder, out: Path, run: Mapping[str, Any]) -> None:
        self.out, self.folder, self._encoder, self._run = out, resume_folder(out), encoder, dict(run)
        state = read_state(self.folder)
        if state is None and out.exists():
            raise UserError(f"{out} already exists; name a new file")
        if state is not None:
            self._check(state)
        self.resumed = state is not None
        self.position: dict[str, Any] = state["position"] if state is not None else {}
        self.summary: dict[str, Any] = state["summary"] if state is not None else {}
        self._parts: Parts | None = None
        self._handle: IO[bytes] | None = None
        if state is not None:
            self._open(state["bytes"], state["parts"])

    def _check(self, state: Mapping[str, Any]) -> None:
        """Raise UserError if the state is of another run, or the output is shorter than it says."""
        for name, value in self._run.items():
            if state["run"].get(name) != value:
                raise UserError(
                    f"{self.out} was begun with another {name}; give what it was begun with, or remove {self.folder} "
                    "and the file to start over"
                )
        size = self.out.stat().st_size if self.out.is_file() else 0
        if state["position"] and self._encoder.form != "parquet" and size < state["bytes"]:
            raise UserError(
                f"{self.out} has {size:,} bytes, fewer than the {state['bytes']:,} that were written: it was cut or "
                f"replaced; remove it and {self.folder} to start over"
            )

    def _open(self, length: int = 0, parts: int = 0) -> None:
        """Open the output at a length; nothing is there before the first event."""
        if self._encoder.form == "parquet":
            self._parts = Parts(self.folder, parts)
            return
        self._handle = self.out.open("r+b" if length else "w+b")
        self._handle.truncate(length)
        self._handle.seek(length)
        if not length:
            self._handle.write(self._encoder.head())

    def write(self, rows: Sequence[Row], verdicts: Verdicts) -> None:
        """Write the events of rows."""
        if self._parts is None and self._handle is None:
            write_json(self.folder / "state.json", self._state({}, {}, 0))  # first: a file with it beside is ours
            self._open()
        if self._parts is not None:
            self._parts.add(self._encoder.table(rows, verdicts))
        elif self._handle is not None:
            self._handle.write(self._encoder.encode(rows, verdicts))

    def commit(self, position: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Record that everything up to a place of the input is answered, after the answers are on the disk."""
        length = 0
        if self._handle is not None:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            length = self._handle.tell()
        write_json(self.folder / "state.json", self._state(position, summary, length))

    def _state(self, position: Mapping[str, Any], summary: Mapping[str, Any], length: int) -> dict[str, Any]:
        parts = self._parts.number if self._parts is not None else 0
        state = {"form": FORM, "run": self._run, "position": position, "summary": summary}
        return state | {"bytes": length, "parts": parts}

    def finish(self) -> None:
        """End the output and remove the folder beside it."""
        if self._parts is not None:
            self._parts.joined(self.out)
        if self._handle is not None:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
        (self.folder / "state.json").unlink(missing_ok=True)
        remove(self.folder)


def resume_folder(out: Path) -> Path:
    """Return the folder beside an output that is being written."""
    return out.with_name(f"{out.name}.resume")


def discard_unbegun(folder: Path) -> None:
    """Remove the folder of a run that wrote no event: the next one may have other options.

    What replicas answered before the first event stays (ray_verdicts.py).
    """
    if not (folder / "state.json").exists() and not any((folder / REPLICAS).glob("answers/blocks/*.parquet")):
        remove(folder)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the state of an unfinished output; None if there is none, UserError if it is damaged."""
    path = folder / "state.json"
    if not path.exists():
        return None
    try:
        state = read_json(path)
        if state["form"] != FORM:
            raise ValueError("another version wrote it")
        return dict(state)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be used ({error}); remove {folder} and the output to start over") from error
