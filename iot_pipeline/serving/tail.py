"""Following of a growing file through rotation: complete lines, each once.

A log is rotated in two ways. Renamed and created anew: the old file is read to its end, also what its writer still
adds within LINGER_S, then the new one. Copied and truncated: the rest of the old content is read from the copy, which
is found beside the file. If it was rotated again before that is read, the files in between are read too, unless they
are packed by then. A place in a file is an offset with the bytes before it, so a file that was rotated while
nobody looked is found again; its first bytes would not do, because logs begin with equal headers.
"""

from __future__ import annotations

import glob
import gzip
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.archives import format_of
from iot_pipeline.flows.source import check_name

MARK = 256  # bytes before a place by which it is known again
CHUNK = 1 << 20
LINGER_S = 1.0
MOST_LINE = 16_000_000  # bytes of a line; what is longer is no line of a log


def check_followed(names: Sequence[str]) -> None:
    """Raise UserError for what never becomes a log that grows: a folder, a pipe, a pattern, or a log named twice."""
    for name in names:
        path = Path(name)
        check_name(path)
        if path.exists() and not path.is_file():
            raise UserError(f"{name!r} is not a file: --follow reads logs that grow; `-` reads a pipe, without it")
        if path.exists() and not os.access(path, os.R_OK):
            raise UserError(f"{name!r} may not be read: check its permissions")
        if path.exists() and format_of(path) not in ("", "gz"):
            raise UserError(f"{name!r} is packed, and will not grow: read it without --follow")
        if not path.exists() and (set("*?[") & set(name) or not path.parent.is_dir()):
            raise UserError(f"{name!r} does not exist: --follow waits for a log by its name, in a folder that is there")
    if len({Path(name).resolve() for name in names}) < len(names):
        raise UserError(f"{', '.join(names)}: one log is named twice, so that its flows would come twice")


class Tail:
    """Reader of one growing file, which need not exist yet.

    `position`: where an earlier reader was (see `position`), None to begin with what the file has. `note`: receives a
    sentence where lines may be missing. `without`: files of our own, which may be named like a rotated log.
    """

    def __init__(
        self, path: Path, position: dict[str, Any] | None, note: Callable[[str], None], without: Sequence[Path] = ()
    ) -> None:
        self.path, self._note = path, note
        self._without = {path.resolve() for path in without}
        self._handle: IO[bytes] | None = None
        self._rest = b""  # the beginning of a line
        self._offset, self._mark = 0, b""  # the mark stands before the rest
        self._gone_since: float | None = None
        self._queue: list[IO[bytes]] = []  # open files to be read after the present one, whatever their names become
        self._full = False  # the last look gave all that it asked for
        if position is not None:
            self._take_up(position)

    def position(self) -> dict[str, Any]:
        """Return the place behind the last complete line that was read.

        Before the first one the file is known again by its number, and by what was seen of that line; behind it by its
        number only among files that have the same bytes there, such as an equal header.
        """
        place: dict[str, Any] = {"offset": self._offset - len(self._rest), "mark": self._mark.hex()}
        if self._handle is None:
            return place
        place["file"] = os.fstat(self._handle.fileno()).st_ino
        return place if self._mark else place | {"seen": self._rest[:MARK].hex()}

    def read(self, most: int) -> list[bytes]:
        """Return up to about `most` bytes of further lines, without their ends; [] if there are none now."""
        if self._handle is None and not self._open():
            return []
        self._see_truncation()
        self._see_replacement()
        assert self._handle is not None
        try:
            data = self._handle.read(min(most, CHUNK))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self._note(f"{Path(self._handle.name).name} is damaged ({error}): lines at its end are missing")
            self._offset, self._rest, data = self._offset - len(self._rest), b"", b""
        self._full = len(data) == min(most, CHUNK)
        return self._lines(data) if data else self._at_end()

    @property
    def behind(self) -> bool:
        """True if there is more that was not read yet: of this file, or of one that replaced it."""
        return self._full or (self._gone_since is not None and (bool(self._queue) or self.path.exists()))

    def close(self) -> list[bytes]:
        """Close the files; return the last line if it has no end."""
        last = self._last()
        for handle in filter(None, [self._handle, *self._queue]):
            handle.close()
        self._handle, self._queue = None, []
        return last

    def _open(self) -> bool:
        if self._queue:
            self._handle = self._queue.pop(0)
        elif (handle := opened_if_there(self.path)) is not None:
            self._handle = handle
        else:
            return False
        self._offset, self._mark, self._rest, self._gone_since = 0, b"", b"", None
        return True

    def _lines(self, data: bytes) -> list[bytes]:
        self._offset += len(data)
        whole = self._rest + data
        *lines, self._rest = whole.split(b"\n")
        self._mark = (self._mark + whole[: len(whole) - len(self._rest)])[-MARK:]
        if len(self._rest) > MOST_LINE:
            self._note(f"{self.path.name} has a line of more than {MOST_LINE:,} bytes, which is cut")
            lines, self._rest, self._mark = [*lines, self._rest], b"", self._rest[-MARK:]
        return [line.removesuffix(b"\r") for line in lines]

    def _last(self) -> list[bytes]:
        last, self._rest = self._rest, b""
        return [last] if last else []

    def _see_truncation(self) -> None:
        """If the file at the path is the one being read and begins anew, read its copy's rest and then it again."""
        assert self._handle is not None
        if isinstance(self._handle, gzip.GzipFile):
            return
        before = self._mark + self._rest
        if os.pread(self._handle.fileno(), len(before), self._offset - len(before)) == before:
            return
        copy = self._find(before, self._offset)
        place, mark, rest = self._offset, self._mark, self._rest
        handle = opened_if_there(copy) if copy is not None else None  # it may be packed or removed meanwhile
        self._handle.close()
        if handle is None:
            self._note(
                f"{self.path.name} was truncated and no copy is beside it: lines from just before may be missing"
            )
            self._handle = opened(self.path)
            self._offset, self._mark, self._rest = 0, b"", b""
            return
        self._handle = handle
        self._handle.seek(place)
        self._offset, self._mark, self._rest, self._gone_since = place, mark, rest, 0.0

    def _see_replacement(self) -> None:
        """If the path names another file than before, keep that open: a further rotation may move it away too."""
        assert self._handle is not None
        last = self._queue[-1] if self._queue else self._handle
        try:
            if os.path.samestat(os.fstat(last.fileno()), self.path.stat()):
                return
            self._queue.append(opened(self.path))
        except OSError:  # it is not there now
            return

    def _unread(self) -> list[IO[bytes]]:
        """Return the files to be read after the present one, oldest first: of the queue, and others beside the log.

        Packed ones beside it are told and left out: one that was read may have been packed anew, later than the others.
        """
        assert self._handle is not None
        known = [os.fstat(one.fileno()) for one in (self._handle, *self._queue)]
        mark, place, beside = self._mark, self._offset - len(self._rest), list[IO[bytes]]()
        for path in filter(self._is_numbered, self._siblings()):
            if written_at(path) <= known[0].st_mtime or (mark and holds(path, mark, place)):
                continue
            if path.suffix == ".gz":
                self._note(f"{path.name} is packed: if it was rotated before it was read, its lines are missing")
                continue
            if (one := opened_if_there(path)) is None:
                continue
            if any(os.path.samestat(os.fstat(one.fileno()), old) for old in known):
                one.close()
            else:
                beside.append(one)
        # A log that is copied and truncated within a tick of the clock has the time of its copy, which comes first.
        return sorted([*beside, *self._queue], key=lambda one: os.fstat(one.fileno()).st_mtime)

    def _at_end(self) -> list[bytes]:
        """At the end of what is there: go to the next file if this one was replaced."""
        assert self._handle is not None
        if self._is_at_path():
            self._gone_since = None
            return []
        if self._gone_since is None:
            self._gone_since = time.monotonic()
        if time.monotonic() - self._gone_since < LINGER_S or not (self._queue or self.path.exists()):
            return []
        self._queue = self._unread()
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
        mark, offset = bytes.fromhex(position["mark"]), int(position["offset"])
        if not mark and "file" not in position:  # there was none
            return
        found = self._find(mark, offset, position.get("file")) if mark else self._find_begun(position)
        if found is None:
            self._note(
                f"{self.path.name} was replaced and what was read of it is no longer beside it: lines that came "
                "in between are missing"
            )
            return
        if found != self.path:
            since = written_at(found)
            others = [path for path in self._siblings() if path != found and self._is_numbered(path)]
            others = [path for path in others if not mark or holds(path, mark, offset) is False]
            later = sorted((path for path in others if written_at(path) > since), key=written_at)
            self._queue = [one for path in later if (one := opened_if_there(path)) is not None]
        self._handle = opened(found)
        self._handle.seek(offset)
        self._offset, self._mark = offset, mark

    def _find_begun(self, position: dict[str, Any]) -> Path | None:
        """Return the file of which no whole line was read, by its number and what was seen of its first line.

        One that was packed or copied has another number: then it is the only other one that begins so. Several that
        share a header cannot be told apart.
        """
        number, seen = int(position["file"]), bytes.fromhex(position["seen"])
        there = [path for path in [self.path, *self._siblings()] if holds(path, seen, len(seen))]
        if found := [path for path in there if numbered(path) == number]:
            return found[0]
        others = [path for path in there if path != self.path]
        return others[0] if seen and len(others) == 1 else None

    def _find(self, mark: bytes, offset: int, number: int | None = None) -> Path | None:
        """Return the file, at the path or beside it, that has these bytes before an offset; of several that number."""
        there = sorted([self.path, *self._siblings()], key=lambda path: number is None or numbered(path) != number)
        return next((path for path in there if holds(path, mark, offset)), None)

    def _siblings(self) -> list[Path]:
        """Return the rotated files of this log, the newest first: conn.log.1, conn.log.2.gz, conn.2026-01-01.log.

        A file that is being packed is there twice; its packed half is left out.
        """
        name, stem = glob.escape(self.path.name), glob.escape(self.path.stem)
        patterns = (f"{name}.*", f"{name}-*", f"{stem}.*{self.path.suffix}*")
        beside = {path for pattern in patterns for path in self.path.parent.glob(pattern) if path.is_file()}
        found = {path for path in beside if path.resolve() not in self._without}
        halves = {path for path in found if path.suffix == ".gz" and path.with_suffix("") in found}
        return sorted(found - halves - {self.path}, key=written_at, reverse=True)

    def _is_numbered(self, path: Path) -> bool:
        """Return True if a file beside the log has a number or date in its name: `conn.log.offset` is no old log."""
        return any(sign.isdigit() for sign in path.name.removeprefix(self.path.stem))


def written_at(path: Path) -> float:
    """Return when a file was last written; 0 for one that a rotation has removed meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def numbered(path: Path) -> int:
    """Return the number (inode) of a file; 0 for one that a rotation has removed meanwhile."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def opened(path: Path) -> IO[bytes]:
    """Open a file, unpacked if it is a gz."""
    handle = path.open("rb")
    # `pread` leaves nothing in the buffer: a file of the queue may be truncated before it is read.
    if os.pread(handle.fileno(), 2, 0) == b"\x1f\x8b":
        handle.close()
        return gzip.open(path)  # type: ignore[return-value]
    return handle


def opened_if_there(path: Path) -> IO[bytes] | None:
    """Open a file as `opened` does; None if it cannot be opened, as one that a rotation has removed meanwhile."""
    try:
        return opened(path)
    except OSError:
        return None


def holds(path: Path, mark: bytes, offset: int) -> bool | None:
    """Return True if a file, unpacked, has these bytes before an offset; None if it cannot be read."""
    try:
        with opened(path) as handle:
            handle.seek(offset - len(mark))
            return handle.read(len(mark)) == mark
    except (OSError, EOFError, zlib.error):
        return None
