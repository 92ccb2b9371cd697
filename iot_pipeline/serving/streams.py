"""Streams of flows: growing logs and standard input, as prepared tables with the place up to which they were read."""

from __future__ import annotations

import os
import select
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from iot_pipeline.serving.lines import OTHER, Header, Joiner, Line, needs_flowmeter, read_lines
from iot_pipeline.serving.prepared import Losses, Preparer, Reading
from iot_pipeline.serving.tail import CHUNK, MOST_LINE, Tail

LINES = 4096  # read into flows at once
AHEAD = 8192  # lines of a log that wait for another one before it is read no further than that
POLL_S = 0.2
MOST_BEGINNING = 1 << 16  # bytes


class Input(Protocol):
    """Something that gives lines: [] if there are none now. `behind`: True if there are more that were not read."""

    @property
    def behind(self) -> bool:
        """True if there are more lines than were read."""

    def read(self, most: int) -> list[bytes]:
        """Return further lines."""

    def position(self) -> dict[str, Any]:
        """Return the place up to which lines were returned."""

    def close(self) -> list[bytes]:
        """Close it; return the last line if it has no end."""


def beginning(descriptor: int) -> bytes:
    """Read a pipe until its first line is whole, which says how the rest is read: a writer may send byte by byte."""
    data = b""
    while len(data) < MOST_BEGINNING and not (b"\n" in data.lstrip() or b"\r" in data.lstrip()[:-1]):
        if not (more := os.read(descriptor, MOST_BEGINNING)):
            break
        data += more
    return data


class Pipe:
    """Lines of a file descriptor that ends, such as standard input; `begun`: bytes that were read from it before."""

    def __init__(self, descriptor: int, begun: bytes = b"") -> None:
        self._descriptor, self._rest, self._begun = descriptor, b"", begun
        self.ended = False
        self.behind = False  # what a pipe holds is not known

    def read(self, most: int) -> list[bytes]:
        """Return further lines; waits for none."""
        data, self._begun = self._begun, b""
        if not data and not self.ended and select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, min(most, CHUNK))
            self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE:  # no line of a log: it is told as one that cannot be read
            lines, self._rest = [*lines, self._rest], b""
        return [line.removesuffix(b"\r") for line in lines]

    def position(self) -> dict[str, Any]:
        """Return nothing: a pipe cannot be read again."""
        return {}

    def close(self) -> list[bytes]:
        """Return the last line if it has no end."""
        last, self._rest = self._rest, b""
        return [last] if last else []


class Streams:
    """Prepared tables of one or more inputs.

    Lines of `conn.log` and `flowmeter.log` are joined where a data set needs both and both are among the inputs.

    Args:
        reading: How to read.
        inputs: Input by display name.
        losses: Receives what is no flow.
        wait_s: Seconds for which a line waits for that of the other log.
        position: Place where an earlier run was; empty to begin.
        lines: Most lines of a table.
    """

    def __init__(
        self,
        reading: Reading,
        inputs: Mapping[str, Input],
        losses: Losses,
        wait_s: float,
        position: Mapping[str, Any],
        lines: int = LINES,
    ) -> None:
        self._lines = lines
        self._reading, self._inputs, self._losses = reading, inputs, losses
        self._headers = {name: Header(name) for name in inputs}
        self._joiner = Joiner(wait_s, losses, "skip" if reading.skip_invalid else "error")
        self._joins = len(inputs) > 1 and needs_flowmeter(reading)
        self._name = position.get("stream") or uuid.uuid4().hex
        self._kinds: dict[str, str] = {}  # of the last line of each input
        self._ready: list[Line] = []
        self._preparer = Preparer(reading, losses, {}, {}, self._name)
        if position:
            for name, header in position["headers"].items():
                self._headers[name] = Header(**header)
            self._joiner.restore(position["waiting"])
            self._ready = [Line(*line) for line in position["ready"]]
            self._preparer.counts.update(position["rows"])

    def position(self) -> dict[str, Any]:
        """Return the place behind the last table, for a later run."""
        return {
            "stream": self._name,
            "inputs": {name: one.position() for name, one in self._inputs.items()},
            "headers": {name: asdict(header) for name, header in self._headers.items()},
            "waiting": self._joiner.state(),
            "ready": [list(line) for line in self._ready],
            "rows": dict(self._preparer.counts),
        }

    def tables(self, stopped: Callable[[], bool], idle_s: float | None) -> Iterator[pa.Table]:
        """Yield prepared tables until `stopped`, until no line came for `idle_s` seconds, or the inputs end."""
        last = time.monotonic()
        while not stopped():
            came = self._take()
            self._joiner.expire(behind=self._behind())
            if self._ready and (not came or len(self._ready) >= self._lines):
                yield from self._flush()
                came = True  # the time that answering took is none in which no line came
            if came:
                last = time.monotonic()
            elif self._ended() or (idle_s is not None and time.monotonic() - last > idle_s and not self._is_behind()):
                break
            else:
                time.sleep(POLL_S)

    def rest(self, ended: bool = True) -> Iterator[pa.Table]:
        """Yield what is left at the end: the last lines; those that still wait for the other log are lost.

        `ended`: False if a writer may be amid the last line, which then is no line yet.
        """
        for name, one in self._inputs.items():
            last = one.close()
            self._sort(name, last if ended else [])
        self._joiner.expire(everything=True)
        yield from self._flush()

    def close(self) -> None:
        """Close all inputs, and what reads them."""
        for one in self._inputs.values():
            one.close()
        self._preparer.close()

    def _ended(self) -> bool:
        return all(isinstance(one, Pipe) and one.ended for one in self._inputs.values())

    def _is_behind(self) -> bool:
        return any(one.behind for one in self._inputs.values())

    def _behind(self) -> set[str]:
        """Return the kinds of the logs that were not read to their end yet."""
        return {self._kinds[name] for name, one in self._inputs.items() if one.behind and name in self._kinds}

    def _is_ahead(self, name: str) -> bool:
        """Return True for a log many lines of which wait for another one that has more.

        Lines of the two have different lengths, so that equal bytes of long logs soon part by more lines than may wait.
        """
        kind, waiting = self._kinds.get(name, ""), self._joiner.kinds
        other = OTHER.get(kind, "")
        return other in self._behind() and waiting[kind] > max(AHEAD, waiting[other])

    def _take(self) -> bool:
        """Read further lines of every input that is not ahead of another one; return True if there were any."""
        found = [(name, one.read(CHUNK)) for name, one in self._inputs.items() if not self._is_ahead(name)]
        for name, lines in found:
            self._sort(name, lines)
        return any(lines for _, lines in found)

    def _sort(self, name: str, lines: Sequence[bytes]) -> None:
        """Put lines where they belong: into the header, to those that are ready, or to those that wait."""
        header, rules = self._headers[name], self._reading.rules
        for raw in lines:
            line = header.take(raw.decode("utf-8", "surrogateescape"), rules.needed, rules.column_names)
            if line is None:
                continue
            if line.kind:
                self._kinds[name] = line.kind
            if self._joins and line.kind:
                self._ready += self._joiner.add(line, header.uid_of(line))
            elif line.kind != "flowmeter" or len(self._inputs) == 1:
                self._ready.append(line)

    def _flush(self) -> Iterator[pa.Table]:
        while self._ready:
            part = self._ready[: self._lines]
            if part[-1].kind == "conn" and self._joins:  # its other line comes too
                part = self._ready[: self._lines + 1]
            self._ready = self._ready[len(part) :]
            # One table of all: `position` already says that these lines are read.
            made = [self._preparer.prepare(raw) for raw in read_lines(self._reading, part, self._losses)]
            if sum(map(len, made)):
                yield pa.concat_tables(made)


def tails(
    paths: Mapping[str, Path], position: Mapping[str, Any], losses: Losses, without: Sequence[Path] = ()
) -> dict[str, Input]:
    """Return a tail for each path by display name.

    Args:
        paths: Log by display name.
        position: Place where an earlier run was; empty to begin.
        losses: Receives notes on lines that may be missing.
        without: Files of our own, which may be named like a rotated log.
    """
    places = position.get("inputs", {})

    def note(told: str) -> None:
        losses.note([told])

    return {name: Tail(path, places.get(name), note, without) for name, path in paths.items()}
