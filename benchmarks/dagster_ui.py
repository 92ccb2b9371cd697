"""A real `iot-pipeline ui` under trial: opened on a lake, asked through its GraphQL interface as its pages do."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dagster_graphql import DagsterGraphQLClient

MOST_SECONDS = 900
LAUNCH = """
    mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""


@contextlib.contextmanager
def opened(lake: Path, **settings: str) -> Iterator[DagsterGraphQLClient]:
    """A client of a UI on the lake; the UI is stopped at the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "iot_pipeline", "ui", "--port", str(port)]
    ui = subprocess.Popen(
        command,
        env=os.environ | {"IOT_LAKE": str(lake)} | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(port))
        yield DagsterGraphQLClient("127.0.0.1", port_number=port)
    finally:
        ui.send_signal(signal.SIGTERM)
        ui.wait(60)


def launch(client: DagsterGraphQLClient, asset: str, partition: str = "") -> str:
    """Materialise an asset, or its partition `seed|track`, its checks with it, as a click does; return the run's id."""
    selector = {
        "repositoryLocationName": "iot_pipeline",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": [asset]}],
    }
    values = zip(("", "/seed", "/track"), (partition, *partition.split("|")), strict=True) if partition else ()
    tags = [{"key": f"dagster/partition{suffix}", "value": value} for suffix, value in values]
    params = {"selector": selector, "runConfigData": {}, "mode": "default", "executionMetadata": {"tags": tags}}

    def launched() -> dict[str, str] | None:
        told: dict[str, Any] = client._execute(LAUNCH, {"params": params})["launchPipelineExecution"]
        return told.get("run")

    return str(until(launched)["runId"])  # the server answers before it has loaded the code location


def until(true: Callable[[], Any]) -> Any:
    """Wait for it and return it; an error after a quarter of an hour."""
    end = time.monotonic() + MOST_SECONDS
    while not (found := true()):
        if time.monotonic() > end:
            raise SystemExit(f"it did not happen within {MOST_SECONDS} s")
        time.sleep(0.1)
    return found


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
