"""Processes of this machine: proof that one has ended, killing process trees, ending with a parent."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

# A process's start time may appear later than the time it was seen: it is counted from boot, and the clock is corrected
# meanwhile (a drift of 20 ppm is 5 s in three days). A process id is not reused within this time.
CLOCK_S = 60.0
PARENT_EVERY_S = 0.5


def has_ended(pid: int, seen: float) -> bool:
    """Return True if the process seen with this id at a time (Unix seconds) has demonstrably ended.

    A process that has the id now but started later (after a reboot, for example) is a different one.
    """
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > seen + CLOCK_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def kill_tree(pid: int, itself: bool = True) -> None:
    """Kill the descendants of a process and, with `itself`, the process; ignore those that are gone."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for victim in [*process.children(recursive=True), *([process] if itself else [])]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()


def end_with_parent(parent: int) -> None:
    """Kill this process group as soon as the process is no longer a child of `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
