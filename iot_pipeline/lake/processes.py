"""Processes of this machine: proof that one has ended, the end of trees and groups of them, a port for one."""

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

# A process's start time may appear later than the time it was seen: it is counted from boot, and the clock is corrected
# meanwhile (a drift of 20 ppm is 5 s in three days). A process id is not reused within this time.
CLOCK_S = 60.0
PARENT_EVERY_S = 0.5
GROUP_EVERY_S = 0.05


@cache
def this_host() -> str:
    """Name the space in which a process id means something: host, since it was started, and container.

    Clones of a machine share a name, containers of one machine may too; after a restart a number is another process.
    Without Linux's name of a start, that of the network card tells machines apart.
    """
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        parts = [boot.read_text().strip()[:8], str(container.readlink()).strip("pid:[]")]
    except OSError:
        parts = [f"{uuid.getnode():012x}"]
    return "/".join([socket.gethostname().replace(":", "-"), *parts])


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def _booted() -> float:
    """Return the start of this machine (Unix seconds) by the clock as it was when this process first asked."""
    return psutil.boot_time()


def has_ended(pid: int, seen: float) -> bool:
    """Return True if the process seen with this id at a time (Unix seconds) has demonstrably ended.

    A process that has the id now but started later (after a reboot, for example) is a different one. If the clock was
    set meanwhile, both its old and its new time must say so.
    """
    try:
        process, booted = psutil.Process(pid), psutil.boot_time()
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return process.create_time() - booted > seen - min(booted, _booted()) + CLOCK_S
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


def is_over(process: "subprocess.Popen[bytes]") -> bool:
    """Return True if a child has ended. It is not reaped, so that no other process can get its number meanwhile."""
    return process.returncode is not None or has_ended(process.pid, time.time())


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to the process group that a child leads, unless it was reaped: then the number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of which only zombies are left
            os.killpg(process.pid, number)


def end_group(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End the process group that a child leads, and reap the child.

    The group has SIGTERM, and SIGKILL once the child has ended or `grace_s` are over.
    """
    signal_group(process, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while not is_over(process) and time.monotonic() < until:
        time.sleep(GROUP_EVERY_S)
    signal_group(process, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)


def end_with_parent(parent: int) -> None:
    """Kill this process group as soon as the process is no longer a child of `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
