"""Texts on disk in place of memory, for as long as one track is made."""

import os
import tempfile
from array import array

from iot_pipeline.errors import UserError


class Spill:
    """Byte strings in a temporary file that goes with the object; each is found again by its number.

    The file lies where TMPDIR says; UserError where there is no room. Not for several threads.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="iot_pipeline-")  # noqa: SIM115
        self._ends = array("q", [0])

    def add(self, data: bytes) -> int:
        """Keep `data`; its number."""
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
            return os.pread(self._file.fileno(), end - start, start)  # leaves the place to write at alone
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"a track's texts cannot be kept in {tempfile.gettempdir()} ({error.strerror}), they take some 2 kB a row; "
        "set TMPDIR to a folder with more room. Answers so far are stored."
    )
