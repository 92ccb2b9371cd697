"""Leases of the processes that hold a claim, a batch or reserved money, on this machine and on others."""

from __future__ import annotations

import os
import socket
import time
import uuid
from functools import cache
from pathlib import Path

from iot_pipeline.lake.processes import has_ended

# A hold that is not renewed for so long is void: its owner is dead, or on a machine that is gone.
LEASE_S = 20.0


@cache
def this_host() -> str:
    """Name the space in which a process id means something: host, since it was started, and container.

    Clones of a machine share a name, containers of one machine may too; after a restart a number is another process.
    """
    parts = [socket.gethostname().replace(":", "-")]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):  # Linux; elsewhere the name has to do
        path = Path(file)
        if path.is_symlink():
            parts.append(str(path.readlink()).strip("pid:[]"))
        elif path.is_file():
            parts.append(path.read_text().strip()[:8])
    return "/".join(parts)


def new_owner() -> str:
    """Name an owner: `host:pid:token`, another one at each call."""
    return f"{this_host()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(owner: str, until: float, now: float) -> bool:
    """Return True if an owner is dead: local processes are checked by pid and start, remote ones by lease expiry.

    Args:
        owner: Name of the owner.
        until: End of its lease, by the database's clock.
        now: Time by that clock, which may differ from this machine's.
    """
    host, pid, _ = owner.rsplit(":", 2)
    if host != this_host():
        return until < now
    seen = time.time() - (now - (until - LEASE_S))
    return has_ended(int(pid), seen)
