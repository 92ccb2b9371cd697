"""Launcher of runs in warm workers (`run_server`), which `ui` offers; elsewhere it is Dagster's default launcher."""

import json
import os
import socket
from typing import Any

import dagster as dg

from iot_pipeline.env_file import RUN_SOCKET

LAUNCH_S, CANCEL_S = 120.0, 10.0  # seconds to wait for an answer: at a launch the server may be starting
GRPC_TAG = ".dagster/grpc_info"  # on runs of the default launcher


class WarmRunLauncher(dg.DefaultRunLauncher):
    """Launcher that has a worker forked from a process with all definitions in it."""

    def launch_run(self, context: Any) -> None:
        """Launch a run; the queue keeps it if the server cannot be reached."""
        from iot_pipeline.defs.dagster_internals import DagsterLaunchFailedError, DagsterUserCodeUnreachableError

        if RUN_SOCKET not in os.environ:
            super().launch_run(context)
            return
        try:
            answer = ask({"launch": context.dagster_run.run_id}, LAUNCH_S)
        except (OSError, ValueError) as error:
            raise DagsterUserCodeUnreachableError(f"the server of run workers did not answer: {error}") from error
        if "pid" not in answer:
            raise DagsterLaunchFailedError(str(answer.get("error")))

    def terminate(self, run_id: str) -> bool:
        """Interrupt the worker of a run; False if it has none."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if RUN_SOCKET not in os.environ or GRPC_TAG in run.tags:
            return super().terminate(run_id)
        self._instance.report_run_canceling(run)
        try:
            return bool(ask({"cancel": run_id}, CANCEL_S).get("cancelled"))
        except (OSError, ValueError) as error:  # its workers have ended with it, which the monitoring of runs sees
            self._instance.report_engine_event(f"The server of run workers did not answer: {error}", run)
            return False


def ask(request: dict[str, str], seconds: float) -> dict[str, Any]:
    """Send a request to the server of run workers; OSError or ValueError if it does not answer in time."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(os.environ[RUN_SOCKET])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer: dict[str, Any] = json.loads(answers.readline())
    return answer
