"""Launcher of runs for an instance in PostgreSQL: run monitoring can ask it whether a run's process is alive.

A run of the UI is a process of a code server, which fails the run itself if the process dies. What is left are code
servers that die with all their runs, and runs whose work a command or a job does by itself.
"""

import time

import dagster as dg

from iot_pipeline.defs.dagster_internals import (
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    CheckRunHealthResult,
    ConfigurableClassData,
    DagsterUserCodeUnreachableError,
    WorkerStatus,
    deserialize_value,
    postgres_url,
)
from iot_pipeline.defs.run_monitoring import RUN_TAG
from iot_pipeline.defs.workers import Living

ANSWER_S = 10
AWAY_S = 60.0  # a code server that does not answer for so long is gone


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's default launcher, with a check of a run's process; tried with Dagster 1.13.27."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._away: dict[str, float] = {}  # run -> since when its code server has not answered

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring asks `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return RUNNING or FAILED, by the session of the worker or the answer of the code server."""
        if RUN_TAG in run.tags:
            url = postgres_url(self._instance)
            if url is None or run.run_id in Living(url):
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            return CheckRunHealthResult(WorkerStatus.FAILED, "the process that did its work has ended")
        return self._asked(run.run_id)

    def _asked(self, run_id: str) -> CheckRunHealthResult:
        """Ask the code server that started a run; one that does not answer is given AWAY_S."""
        client = self._get_grpc_client_for_termination(run_id)
        if client is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, "no code server is known for it")
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=ANSWER_S)
        except DagsterUserCodeUnreachableError:
            since = self._away.setdefault(run_id, time.monotonic())
            gone = time.monotonic() - since > AWAY_S
            status = WorkerStatus.FAILED if gone else WorkerStatus.RUNNING
            return CheckRunHealthResult(status, "its code server does not answer")
        self._away.pop(run_id, None)
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code server has no process for it")
