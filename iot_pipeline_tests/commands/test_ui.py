"""A real `iot-pipeline ui` on a lake of prompts: an edit starts one run, killed processes leave nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.run_request import InstigatorType

from iot_pipeline.lake.processes import has_ended
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.command_line import call
from iot_pipeline_tests.shared import until

SELECTOR = {"repositoryLocationName": "iot_pipeline", "repositoryName": "__repository__", "sensorName": "prompt_files"}
JOB = dg.RunsFilter(job_name="augment")
SWITCH_ON = "mutation ($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"


def switch_on(port: int) -> bool:
    """Switch the sensor on as the page does; False while the server or its code location is not there yet."""
    body = json.dumps({"query": SWITCH_ON, "variables": {"s": SELECTOR}}).encode()
    url = f"http://127.0.0.1:{port}"
    headers = {"Content-Type": "application/json", "Origin": url}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/graphql", body, headers), timeout=60) as answer:
            return bool(json.load(answer)["data"]["startSensor"]["__typename"] == "Sensor")
    except OSError:
        return False


@contextmanager
def opened_ui(environment: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The command in a process, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "iot_pipeline", "ui", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait(60)


def worker_of(instance: dg.DagsterInstance) -> int | None:
    """Process id of the worker of the first run of the job, once Dagster has recorded it."""
    runs = instance.get_runs(JOB)
    events = instance.all_logs(runs[0].run_id, of_type=dg.DagsterEventType.ENGINE_EVENT) if runs else []
    pids = [
        int(entry.dagster_event.engine_event_data.metadata["pid"].value)
        for entry in events
        if entry.dagster_event and "pid" in entry.dagster_event.engine_event_data.metadata
    ]
    return pids[0] if pids else None


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of a lake in which every prompt has its snapshot."""
    shutil.copytree(load_settings({}).teacher.prompts, tmp_path / "prompts")
    for path in (tmp_path / "prompts").glob("*.md"):
        with Lake(tmp_path / "lake").replacing(ArtefactId("prompt", path.stem)) as folder:
            shutil.copy(path, folder / "prompt.md")
            finish_artefact(folder, Manifest("prompt", path.stem, "", "1", {}, {}, {}), set())
    return os.environ | {"IOT_LAKE": str(tmp_path / "lake"), "IOT_PROMPTS": str(tmp_path / "prompts")}


def test_an_edited_prompt_starts_one_run_and_killed_processes_leave_nothing_behind(
    environment: dict[str, str], tmp_path: Path
) -> None:
    home, prompt = tmp_path / "lake" / ".dagster", tmp_path / "prompts" / "paraphrased.md"
    prompt.write_text(prompt.read_text() + "\nBe brief.\n")  # before the daemon is there
    with opened_ui(environment) as (ui, port):
        until(lambda: switch_on(port), "the page switches the sensor on")
        with dg.DagsterInstance.from_config(str(home)) as instance:
            os.kill(until(lambda: worker_of(instance), "a run has a worker"), signal.SIGKILL)
            ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
            both = dg.RunsFilter(job_name="augment", statuses=ended)
            until(lambda: instance.get_runs_count(both) == 2, "the run is queued again")
            again, first = instance.get_runs(JOB)
            ticks = [
                tick
                for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
            ]
        assert (first.status, again.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
        assert first.tags["iot_pipeline/cause"] == again.tags["iot_pipeline/cause"] == "edited: paraphrased"
        # Its code server or our monitor sees it first; queued again it is either way, and only once.
        assert again.tags["dagster/retry_number"] == "1"
        assert (tmp_path / "lake" / "prompt" / "paraphrased" / "prompt.md").read_text() == prompt.read_text()
        assert ticks and all(tick.error is None for tick in ticks)

        second = call("ui", "--port", str(port), **environment)
        assert second.returncode == 2 and f"is open at http://127.0.0.1:{port}" in second.stderr

        family = psutil.Process(ui.pid).children(recursive=True)
        assert len(family) >= 4  # web server, daemon, and a code server of each
        ui.kill()
        for process in family:
            until(lambda process=process: has_ended(process.pid, time.time()), f"{process} ends with its parent")
