"""End of a Ray on this machine: its processes, however the one that started it ends.

    python -m iot_pipeline.training.ray_guard FOLDER     # ends them once its standard input is closed

Where the starter is killed (SIGKILL), Ray's agents go on for 62 s, trying to tell a server that is gone (2.58.1). They
write titles over their command lines and environments; what still names them is the files that they hold open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def ended_with_starter(folder: str) -> Iterator[None]:
    """End all processes of a Ray by its folder, and remove that, after a `with` block or the death of this process."""
    command = [sys.executable, "-m", "iot_pipeline.training.ray_guard", folder]
    # A session of its own: a signal to this process's group must not reach it.
    nowhere = subprocess.DEVNULL
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def end_processes(folder: str) -> None:
    """Kill every other process whose command line names a file in a Ray's folder, or that has one open."""
    spared = {os.getpid(), os.getppid()}  # the starter has one open too
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # of another user, or gone
            if process.pid not in spared and _is_of(process, f"{folder}/"):
                process.kill()


def _is_of(process: psutil.Process, within: str) -> bool:
    named = any(within in part for part in process.cmdline())
    return named or any(file.path.startswith(within) for file in process.open_files())


def main(folder: str) -> int:
    """Wait for the end of standard input, then end the processes and remove the folder."""
    sys.stdin.read()
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
