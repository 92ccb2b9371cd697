"""Following of a growing file through rotation: complete lines, each once.

A log is rotated in two ways. Renamed and created anew: the old file is read to its end, also what its writer still
adds within LINGER_S, then the new one. Copied and truncated: the rest of the old content is read from the copy, which
is found beside the file by its first bytes. A place in a file is an offset with these first bytes, so a file that was
rotated while nobody looked is found again.
"""

from __future__ import annotations

import glob
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

HEAD = 256  # bytes that tell a file from the next of its name
CHUNK = 1 << 20
LINGER_S = 1.0
MOST_LINE = 16_000_000  # bytes of a line; what is longer is no line of a log


class Tail:
    """Reader of one growing file, which need not exist yet.

    `position`: where an earlier reader was (see `position`), None to begin with what the file has. `note`: receives a
    sentence where lines may be missing.
    """

    def __init__(self, path: Path, position: dict[str, Any] | None, note: Callable[[str], None]) -> None:
        self.path, self._note = path, note
        self._handle: IO[bytes] | None = None
        self._rest = b""  # the beginning of a line
        self._offset, self._head = 0, b""
        self._gone_since: float | None = None
        self._queue: list[Path] = []  # files to be read before the present one
        if position is not None and position["head"]:
            self._take_up(position)

    def position(self) -> dict[str, Any]:
        """Return the place behind the last complete line that was read."""
        return {"offset": self._offset - len(self._rest), "head": self._head.hex()}

    def read(self, most: int) -> list[bytes]:
        """Return up to about `most` bytes of further lines, without their ends; [] if there are none now."""
        if self._handle is None and not self._open():
            return []
        self._see_truncation()
        assert self._handle is not None
        if data := self._handle.read(min(most, CHUNK)):
            return self._lines(data)
        return self._at_end()

    def close(self) -> list[bytes]:
        """Close the file; return the last line if it has no end."""
        last = self._last()
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        return last

    def _open(self) -> bool:
        path = self._queue.pop(0) if self._queue else self.path
        try:
            self._handle = opened(path)
        except OSError:
            return False
        self._offset, self._head, self._rest, self._gone_since = 0, b"", b"", None
        return True

    def _lines(self, data: bytes) -> list[bytes]:
        # An earlier reader may have known more of the beginning than it returned lines of.
        self._head += data[len(self._head) - self._offset : HEAD - self._offset] if len(self._head) < HEAD else b""
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE:
            self._note(f"{self.path.name} has a line of more than {MOST_LINE:,} bytes, which is cut")
            lines, self._rest = [*lines, self._rest], b""
        return [line.removesuffix(b"\r") for line in lines]

    def _last(self) -> list[bytes]:
        last, self._rest = self._rest, b""
        return [last] if last else []

    def _see_truncation(self) -> None:
        """If the file at the path is the one being read and begins anew, read its copy's rest and then it again."""
        assert self._handle is not None
        if isinstance(self._handle, gzip.GzipFile):
            return
        size = os.fstat(self._handle.fileno()).st_size
        beginning = os.pread(self._handle.fileno(), len(self._head), 0)
        if size >= self._offset and beginning == self._head:
            return
        copy = self._find(self._head, self._offset)
        place, head, rest = self._offset, self._head, self._rest
        self._handle.close()
        if copy is None:
            self._note(
                f"{self.path.name} was truncated and no copy is beside it: lines from just before may be missing"
            )
            self._handle = opened(self.path)
            self._offset, self._head, self._rest = 0, b"", b""
            return
        self._handle = opened(copy)
        self._handle.seek(place)
        self._offset, self._head, self._rest, self._gone_since = place, head, rest, 0.0

    def _at_end(self) -> list[bytes]:
        """At the end of what is there: go to the next file if this one was replaced."""
        assert self._handle is not None
        replaced = isinstance(self._handle, gzip.GzipFile) or not self._is_at_path()
        if not replaced:
            self._gone_since = None
            return []
        if self._gone_since is None:
            self._gone_since = time.monotonic()
        if time.monotonic() - self._gone_since < LINGER_S or not (self._queue or self.path.exists()):
            return []
        last = self._last()
        self._handle.close()
        self._handle = None
        return [*last, *(self.read(CHUNK) if self._open() else [])]

    def _is_at_path(self) -> bool:
        """Return True if the path still names the open file, or names none."""
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle.fileno()), self.path.stat())
        except OSError:
            return False

    def _take_up(self, position: dict[str, Any]) -> None:
        """Go on where an earlier reader was, in the file or in what it was rotated to."""
        head, offset = bytes.fromhex(position["head"]), int(position["offset"])
        found = self._find(head, offset)
        if found is None:
            self._note(
                f"{self.path.name} was replaced and what was read of it is no longer beside it: lines that came "
                "in between are missing"
            )
            return
        if found != self.path:
            since = found.stat().st_mtime
            others = [path for path in self._siblings() if path != found and begins(path, head) is False]
            later = [path for path in others if path.stat().st_mtime > since]
            self._queue = sorted(later, key=lambda path: path.stat().st_mtime)
        self._handle = opened(found)
        self._handle.seek(offset)
        self._offset, self._head = offset, head

    def _find(self, head: bytes, offset: int) -> Path | None:
        """Return the file, at the path or beside it, that begins so and has `offset` bytes or more."""
        for path in [self.path, *self._siblings()]:
            if begins(path, head) and length_at_least(path, offset):
                return path
        return None

    def _siblings(self) -> list[Path]:
        """Return the rotated files of this log, the newest first: conn.log.1, conn.log.2.gz, conn.2026-01-01.log."""
        name, stem = glob.escape(self.path.name), glob.escape(self.path.stem)
        patterns = (f"{name}.*", f"{name}-*", f"{stem}.*{self.path.suffix}*")
        found = {path for pattern in patterns for path in self.path.parent.glob(pattern) if path.is_file()}
        return sorted(found - {self.path}, key=lambda path: path.stat().st_mtime, reverse=True)


def opened(path: Path) -> IO[bytes]:
    """Open a file, unpacked if it is a gz."""
    handle = path.open("rb")
    if handle.read(2) == b"\x1f\x8b":
        handle.close()
        return gzip.open(path)  # type: ignore[return-value]
    handle.seek(0)
    return handle


def begins(path: Path, head: bytes) -> bool | None:
    """Return True if a file begins with these bytes; None if it cannot be read."""
    try:
        with opened(path) as handle:
            return handle.read(len(head)) == head
    except OSError:
        return None


def length_at_least(path: Path, offset: int) -> bool:
    """Return True if a file has that many bytes, unpacked."""
    with opened(path) as handle:
        if isinstance(handle, gzip.GzipFile):
            return handle.seek(offset) == offset
        return os.fstat(handle.fileno()).st_size >= offset
