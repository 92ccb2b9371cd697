"""Texts on disk in place of memory, for as long as one track is made.

Belongs here: keeping and finding them. Does not belong here: what they are (join.py), files that stay (track_files.py).
"""

import contextlib
import tempfile
from array import array
from collections.abc import Iterator

from iot_pipeline.errors import UserError


class Spill:
    """Byte strings in a temporary file that goes with the object; each is found again by its number.

    The file lies where TMPDIR says; UserError where there is no room. Not for several threads.
    """

    def __init__(self) -> None:
        with _room():
            self._file = tempfile.TemporaryFile(prefix="iot_pipeline-")  # noqa: SIM115
        self._ends = array("q", [0])

    def add(self, data: bytes) -> int:
        """Keep `data`; its number."""
        with _room():
            self._file.seek(self._ends[-1])
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        with _room():  # what was added may be written only now
            self._file.seek(start)
            return self._file.read(end - start)


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"a track's texts cannot be kept in {tempfile.gettempdir()} ({error.strerror}), it takes some 2 kB a row; "
            "set TMPDIR to a folder with more room. Answers so far are stored."
        ) from error
