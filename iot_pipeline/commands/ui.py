"""Dagster's web server, daemon and run workers on the lake's own instance, and the monitoring of their runs."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from iot_pipeline.commands.supervised import Supervised
from iot_pipeline.defs.dagster_internals import opened_instance, refuse_damaged, set_pool_limits
from iot_pipeline.defs.home import dagster_home, is_shared
from iot_pipeline.defs.run_monitoring import UI_LOCK, close_dead_runs
from iot_pipeline.defs.sinks import ADDRESS
from iot_pipeline.env_file import ONLY_WANTED, RUN_SOCKET
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import held, write_text
from iot_pipeline.lake.store import Lake
from iot_pipeline.serving.server.guard import is_loopback
from iot_pipeline.settings import PROJECT_ROOT, Settings

LOOKED_EVERY_S = 10.0


def serve(settings: Settings, host: str, port: int) -> int:
    """Serve the UI until interrupted; what is killed of it is started again. Return the exit code.

    Raises UserError if the lake already has a UI, the port is taken, or the host is not loopback: whoever reaches the
    UI can launch runs, and it asks for no password.
    """
    if not is_loopback(f"[{host}]" if ":" in host else host):
        raise UserError(
            f"--host {host}: the UI has no password, so it is served to this machine alone; from another one use "
            f"`ssh -L {port}:127.0.0.1:{port}`"
        )
    home = dagster_home(settings)
    address, url = home / ADDRESS, f"http://{f'[{host}]' if ':' in host else host}:{port}"
    first = address.read_text(encoding="utf-8") if address.is_file() else "an address that it is about to tell"
    with held(
        _lock(home), f"the UI of {Lake(settings.lake_path).address} is open at {first}; use it, or stop it first"
    ):
        _check_port(host, port)
        refuse_damaged(home)
        write_text(address, url)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        with opened_instance(home) as instance:
            set_pool_limits(instance, settings.run.slots())
        _close_dead_runs(home)  # before the daemon starts, which queues them again
        print(f"Dagster UI on {url} for {Lake(settings.lake_path).address} (stop with Ctrl-C)", flush=True)
        return _run(home, host, port)


def _lock(home: Path) -> Path:
    """Return the lock of the UI: one a lake, or one a host where several hosts share the lake."""
    return home / (f"{socket.gethostname()}.{UI_LOCK}" if is_shared(home) else UI_LOCK)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose one with --port"
            ) from None


def _run(home: Path, host: str, port: int) -> int:
    """Run web server, daemon and run workers, and fail runs that die meanwhile; return the exit code."""
    looked = time.monotonic()
    with _listener() as (listener, address):
        own = {"DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore", ONLY_WANTED: "1", RUN_SOCKET: address}
        attached = ["-m", "iot_pipeline.commands.attached", str(os.getpid())]
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        commands = {
            "web server": [*attached, "iot_pipeline.commands.webserver", host, str(port), workspace],
            "daemon": [*attached, "iot_pipeline.commands.daemon", workspace],
        }
        if not is_shared(home):  # with PostgreSQL runs are processes of code servers (defs/launcher.py)
            workers = [str(listener.fileno()), str(os.getpid())]
            commands["server of run workers"] = ["-m", "iot_pipeline.defs.run_server", *workers]
        processes: list[Supervised] = []
        try:
            for name, command in commands.items():
                processes.append(Supervised(name, command, PROJECT_ROOT, os.environ | own, [listener.fileno()]))
            while all(process.revive() for process in processes):
                time.sleep(0.5)
                if time.monotonic() - looked > LOOKED_EVERY_S:
                    _close_dead_runs(home)
                    looked = time.monotonic()
            return 1
        finally:
            for process in processes:
                process.stop()


@contextlib.contextmanager
def _listener() -> Iterator[tuple[socket.socket, str]]:
    """Listen on a Unix socket in a folder of this user alone, for launches of runs; yield it and its address."""
    with tempfile.TemporaryDirectory(prefix="iot-pipeline-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder) / "runs")
        listener.bind(address)
        listener.listen()
        yield listener, address


def _close_dead_runs(home: Path) -> None:
    try:
        with opened_instance(home) as instance:
            for run_id in close_dead_runs(instance, home, UI_LOCK):
                print(f"run {run_id[:8]}: its process was killed; it is failed, its slots are free", flush=True)
    except UserError as error:  # the event log is locked, or its server is away: try again at the next check
        print(f"runs were not looked at: {error}", file=sys.stderr)
