"""`iot-pipeline ui`: the Dagster web server and daemon on the lake's own instance.

Belongs here: starting and stopping them. Does not belong here: anything about assets.
"""

import os
import signal
import socket
import subprocess
import sys

from iot_pipeline.defs.execute import dagster_home
from iot_pipeline.errors import UserError
from iot_pipeline.settings import PROJECT_ROOT, Settings


def serve(settings: Settings, host: str, port: int) -> int:
    """Run both until interrupted; returns the exit code. Raises UserError where the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose one with --port"
            ) from None
    home = dagster_home(settings)
    print(f"Dagster UI on http://{host}:{port} for {settings.lake_path} (stop with Ctrl-C)", flush=True)
    workspace = str(PROJECT_ROOT / "workspace.yaml")
    environment = os.environ | {"DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    commands = [
        [sys.executable, "-m", "dagster_webserver", "-h", host, "-p", str(port), "-w", workspace],
        [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace],
    ]
    # A group of its own, so that the code servers they start can be ended with them.
    processes = [
        subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, start_new_session=True, preexec_fn=_interruptible)
        for command in commands
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return processes[0].wait()
    finally:
        for process in processes:
            _stop(process)


def _interruptible() -> None:
    """Shells start background jobs with SIGINT ignored, and Dagster then ignores SIGTERM as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
