"""Child processes that are started again when they end: those of `ui` may be killed, by hand or for want of memory."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from iot_pipeline.lake.processes import end_group, is_over

MOST_ENDS, WITHIN_S = 5, 60.0  # an ending of another kind is a fault that a new start does not mend
STOP_S = 10.0


class Supervised:
    """A process in a session of its own, so that what it starts can be stopped with it.

    Args:
        name: What the user knows it by.
        command: Arguments for this Python.
        folder: Where it runs.
        environment: Its variables.
        descriptors: File descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name, self.command, self.folder = name, [sys.executable, *command], folder
        self.environment, self.descriptors = environment, descriptors
        self.ends: list[float] = []
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment, pass_fds=self.descriptors, start_new_session=True
        )

    def revive(self) -> bool:
        """Start the process again if it has ended; False if it has ended too often to try again."""
        if not is_over(self.process):
            return True
        end_group(self.process, 0)  # its children would go on beside those of the new one
        code = self.process.returncode
        now = time.monotonic()
        self.ends = [*(end for end in self.ends if now - end < WITHIN_S), now]
        if len(self.ends) >= MOST_ENDS:
            print(f"the {self.name} ended {MOST_ENDS} times, with code {code} at last", file=sys.stderr)
            return False
        print(f"the {self.name} ended with code {code}; it is started again", file=sys.stderr, flush=True)
        self.process = self._start()
        return True

    def stop(self) -> None:
        """End the process and what it started."""
        end_group(self.process, STOP_S)
