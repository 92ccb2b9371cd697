"""A Ray on this machine for one process, which starts it and with which it ends: for trainings and for batches.

Whoever reaches a Ray can run code as its user. This one keeps to loopback where Ray can, and demands a token that only
this process and its children know: some of its servers listen on every interface.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.training.ray_guard import end_processes, ended_with_starter

# With the first a node's own address is 127.0.0.1 on Linux too, and Ray's servers listen there. Ray gives workers a
# niceness of 15, with which they would wait for everything else here. The last ones are for a machine that others keep
# busy, where Ray gives up on processes of its own after 30 to 60 s.
VARIABLES = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
}
TOKEN = "RAY_AUTH_TOKEN"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def local_ray(
    store_bytes: int,
    cpus: int | None = None,
    cards: Sequence[str] | None = None,
    dashboard: bool = False,
    log: bool = True,
) -> Iterator[str]:
    """Start a Ray for a `with` block; yield the address of its dashboard, empty without one.

    Args:
        store_bytes: Size of its object store; what does not fit is spilled to the disk.
        cpus: CPUs that it offers; None for those of this machine.
        cards: GPUs that it may use, as CUDA_VISIBLE_DEVICES names them; None for all.
        dashboard: Start the dashboard, through which jobs come; it is a dozen processes.
        log: Print what its workers print.

    Raises:
        UserError: It does not start.
    """
    with guarded(cards), contextlib.ExitStack() as stack:
        import ray

        folder = tempfile.mkdtemp(prefix="iot_ray_", dir=_short())
        stack.enter_context(ended_with_starter(folder))
        stack.callback(ray.shutdown)

        def start() -> Any:
            return ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=store_bytes,
                log_to_driver=log,
                logging_level=logging.WARNING if log else logging.ERROR,
                _temp_dir=folder,
            )

        with starting("on this machine"):
            try:
                context = start()
            except Exception:  # a machine that others keep busy: Ray gives a node 30 s to start
                ray.shutdown()
                end_processes(folder)  # Ray leaves those of a start that failed
                context = start()
        yield f"http://{context.dashboard_url}" if dashboard else ""


def is_running() -> bool:
    """Return True if this process is connected to a Ray."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@contextlib.contextmanager
def starting(where: str) -> Iterator[None]:
    """Connect to Ray in a `with` block: without its lines on standard error, and with this process's signal handlers.

    UserError, with `where`, in place of any exception: Ray raises ConnectionError, RuntimeError, ValueError, bare ones.
    """
    try:
        with _own_signals(), _without_stderr():
            yield
    except Exception as error:
        reason = " | ".join(str(error).strip().splitlines()[-2:])[:300] or type(error).__name__
        raise UserError(
            f"Ray does not start {where} ({reason}); IOT_LAUNCHER=local and IOT_BATCH=local do without it"
        ) from error


@contextlib.contextmanager
def guarded(cards: Sequence[str] | None = None) -> Iterator[None]:
    """Set the variables of a guarded Ray for a `with` block, unless this process is connected to one already.

    A token that this process was given is kept. `cards`: see `local_ray`.
    """
    if is_running():
        yield
        return
    values = VARIABLES | {TOKEN: os.environ.get(TOKEN) or secrets.token_hex(32)}
    values |= {} if cards is None else {"CUDA_VISIBLE_DEVICES": ",".join(cards)}
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


def _short() -> str:
    """Return a folder for Ray's sockets, whose paths may have 107 characters: 80 of them are Ray's."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 15 or not Path("/tmp").is_dir() else "/tmp"


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process: Ray puts one of its own, which ends without a clean-up, in SIGTERM's place."""
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
