"""Connection to Ray, which is optional: the cluster of a job, or a Ray of this process alone.

Whoever reaches a Ray can run code as its user. One that is started here keeps to loopback where Ray can, and demands a
token that only this process and its workers know: some of its servers listen on every interface.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from iot_pipeline.errors import UserError
from iot_pipeline.training.ray_launch import LOCAL_VARIABLES

MISSING = "Ray is not installed: pip install -e '.[ray]', or do without IOT_BATCH=ray and --replicas"
OBJECT_STORE_BYTES = 2**30  # of a Ray started here; blocks beyond it are spilled to the disk
# No telemetry; and no lines of Ray's own on standard error, such as on actors that can be restarted.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal"}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Cluster:
    """Machines with CPUs that Ray offers, the CPUs of the smallest of them, and all GPUs together."""

    machines: int
    least_cpus: float
    gpus: float


def ray_package() -> Any:
    """Import Ray without its telemetry; UserError if it is not installed."""
    os.environ.update(QUIET)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"{MISSING} ({error})") from None
    return ray


@contextlib.contextmanager
def connected(address: str | None, cards: Sequence[str] | None = None) -> Iterator[Cluster]:
    """Connect to Ray for a `with` block; a connection that this process has already is used, and stays.

    Args:
        address: `auto` in a job of a cluster; None to start a Ray here, which ends with the block.
        cards: GPUs that a Ray started here may use, as CUDA_VISIBLE_DEVICES names them; None for all.

    Raises:
        UserError: Ray is not installed, does not start, or has no CPUs.
    """
    with contextlib.ExitStack() as stack:
        if address is None:
            stack.enter_context(_variables(_guarded() | ({} if cards is None else _only(cards))))
        ray = ray_package()
        if not ray.is_initialized():
            _start(ray, address, stack)
        _silence(ray)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [node["CPU"] for node in nodes if node.get("CPU")]
        if not cpus:
            raise UserError("the Ray cluster has no machine with CPUs now: start its workers")
        yield Cluster(len(cpus), min(cpus), sum(node.get("GPU", 0) for node in nodes))


def _start(ray: Any, address: str | None, stack: contextlib.ExitStack) -> None:
    """Start or join a Ray that is left when the stack closes; this process keeps its own signal handlers."""
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        folder = tempfile.mkdtemp(prefix="iot_ray_", dir=_short())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_end_processes, folder)
        told |= {"include_dashboard": False, "_temp_dir": folder, "object_store_memory": OBJECT_STORE_BYTES}
    stack.callback(ray.shutdown)
    try:
        with _own_signals(), _without_stderr():
            try:
                ray.init(address=address or "local", **told)
            except Exception:
                if address is not None:
                    raise
                ray.shutdown()  # a machine that others keep busy: Ray gives a node 30 s to start
                _end_processes(folder)
                ray.init(address="local", **told)
    except Exception as error:  # Ray raises many kinds: ConnectionError, RuntimeError, ValueError, bare ones
        first = str(error).strip().partition("\n")[0][:300]
        where = "on this machine" if address is None else "for this job"
        raise UserError(f"Ray does not start {where} ({first}); set IOT_BATCH=local to do without") from error


def _end_processes(folder: str) -> None:
    """End the processes under this one whose files are in a folder: Ray leaves those of a start that failed."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if folder in " ".join(process.cmdline()):
                process.kill()


def _silence(ray: Any) -> None:
    """Switch Ray Data's progress bars and reports off: callers tell the progress."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@cache
def _guarded() -> dict[str, str]:
    """Return the variables of a guarded Ray; one token for this process, which reads it once."""
    return {**LOCAL_VARIABLES, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _only(cards: Sequence[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(cards)}


def _short() -> str:
    """Return a folder for Ray's sockets, whose paths may have 107 characters: 80 of them are Ray's."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 15 or not Path("/tmp").is_dir() else "/tmp"


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a `with` block, unless Ray runs in this process already."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Let Ray read the variables of its guard anew if it is imported: it reads them once (2.58.1)."""
    if "ray" in sys.modules:
        raylet = importlib.import_module("ray._raylet")  # compiled: it has no types
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        raylet.Config.initialize("")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process: Ray puts one of its own in place of SIGTERM's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what Ray's C++ part prints as it starts, such as its level of logging; what fails is raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
