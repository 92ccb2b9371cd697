"""How long after a cancel in the Dagster UI is the last process of a training gone?

    make run && .venv/bin/python benchmarks/cancel_run.py

Opens the UI on the lake, materialises a checkpoint through its GraphQL interface as a click would (a training of far
too many steps, in a copy of the lake), waits for live progress, terminates the run, and watches for training processes.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dagster_graphql import DagsterGraphQLClient
from result import save

from iot_pipeline.settings import load_settings

MOST_SECONDS = 120


def main() -> None:
    """Start, cancel, count, write benchmarks/results/cancel_run.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with stage 10K in it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        shutil.copytree(chosen.lake, lake, ignore=shutil.ignore_patterns(".dagster"))
        port = free_port()
        variables = os.environ | {"IOT_LAKE": str(lake), "IOT_TRAIN_MAX_STEPS": "100000"}
        command = [sys.executable, "-m", "iot_pipeline.cli", "ui", "--port", str(port)]
        ui = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            client = connect(port)
            run = launch(client)
            until(lambda: len(trainings(lake)) > 0 and any((lake / ".work").glob("*/*/progress.jsonl")))
            found = len(trainings(lake))
            client.terminate_run(run)
            started = time.monotonic()
            until(lambda: not trainings(lake))
            seconds = time.monotonic() - started
            until(lambda: client.get_run_status(run).value == "CANCELED")
            said = time.monotonic() - started
        finally:
            ui.send_signal(signal.SIGTERM)
            ui.wait(60)
    save(
        "cancel_run",
        {
            "question": "seconds from a cancel in the UI to the end of the last training process",
            "training_processes": found, "seconds_until_gone": round(seconds, 2),
            "seconds_until_canceled": round(said, 2),
        },
    )


def connect(port: int) -> DagsterGraphQLClient:
    """A client of the UI, once it answers."""
    until(lambda: answers(port))
    return DagsterGraphQLClient("127.0.0.1", port_number=port)


def launch(client: DagsterGraphQLClient) -> str:
    """Materialise one checkpoint as the UI does; the run's id."""
    query = """
        mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
    selector = {
        "repositoryLocationName": "iot_pipeline", "repositoryName": "__repository__", "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": ["lora_checkpoint", "10K"]}],  # its checks with it, as a click takes them
    }
    tags = [{"key": f"dagster/partition{suffix}", "value": value} for suffix, value in (
        ("", "10K|original"), ("/stage", "10K"), ("/track", "original"))]
    params = {"selector": selector, "runConfigData": {}, "mode": "default", "executionMetadata": {"tags": tags}}
    for _ in range(MOST_SECONDS):  # the server answers before it has loaded the code location
        result = client._execute(query, {"params": params})["launchPipelineExecution"]
        if result["__typename"] == "LaunchRunSuccess":
            return str(result["run"]["runId"])
        time.sleep(1)
    raise SystemExit(f"the run did not start: {result}")


def trainings(lake: Path) -> list[int]:
    """Ids of processes that train in this lake."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended just now
        if b"iot_pipeline.training.payload" in words and str(lake).encode() in words:
            found.append(int(folder.name))
    return found


def until(true: object) -> None:
    """Wait for it; an error after two minutes."""
    end = time.monotonic() + MOST_SECONDS
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(f"it did not happen within {MOST_SECONDS} s")
        time.sleep(0.1)


def answers(port: int) -> bool:
    """Whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
