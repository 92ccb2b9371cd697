"""Look at processes of this machine: for children that end with their parent and leases that end with their holder."""

import os
from contextlib import suppress

import psutil

# A process may be dated later than it was seen: its start is counted from boot, and the clock is corrected meanwhile
# (20 ppm of drift are 5 s in three days). A number is not given out again so soon.
CLOCK_S = 60.0


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id; one of another user counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def has_ended(pid: int, seen: float) -> bool:
    """True if the process seen under an id at a time (seconds of the clock) is shown to have ended.

    A process that has the id now and started later, after a restart of the machine say, is another one.
    """
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > seen + CLOCK_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def kill_tree(pid: int, itself: bool = True) -> None:
    """Kill the descendants of a process, and the process; those that are gone already are left out."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for victim in [*process.children(recursive=True), *([process] if itself else [])]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
