"""Whether a process is still there: for children that end with their parent and leases that end with their holder.

Belongs here: looking. Does not belong here: starting and stopping processes (their owners do).
"""

import os


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id; one of another user counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
