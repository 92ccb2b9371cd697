"""Byte strings on disk instead of in memory while one track is built."""

import os
import tempfile
from array import array

from iot_pipeline.errors import UserError


class Spill:
    """Byte strings in a temporary file, indexed by number; the file is deleted with the object.

    The file is in TMPDIR; UserError if there is no room. Not thread-safe.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="iot_pipeline-")  # noqa: SIM115
        self._ends = array("q", [0])

    def add(self, data: bytes) -> int:
        """Append `data` and return its number."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error
        self._ends.append(self._ends[-1] + len(data))
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        try:
            self._file.flush()
            return os.pread(self._file.fileno(), end - start, start)  # does not move the write position
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"a track's texts cannot be kept in {tempfile.gettempdir()} ({error.strerror}), they take some 2 kB a row; "
        "set TMPDIR to a folder with more room. Answers so far are stored."
    )
