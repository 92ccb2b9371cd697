"""Leases of the processes that hold a claim, a batch or reserved money, on this machine and on others."""

from __future__ import annotations

import os
import time
import uuid

from iot_pipeline.lake.processes import has_ended, this_host

# A hold that is not renewed for so long is void: its owner is dead, or on a machine that is gone.
LEASE_S = 20.0


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
