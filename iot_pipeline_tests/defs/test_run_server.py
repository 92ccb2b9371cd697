"""The server of warm run workers: what it launches, cancels and closes, and what becomes of its workers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.definitions import defs
from iot_pipeline.defs.dagster_internals import job_of_all_assets, origin_of, processes_of
from iot_pipeline.defs.home import dagster_home
from iot_pipeline.defs.run_monitoring import KILLED_TAG
from iot_pipeline.defs.run_server import RunServer
from iot_pipeline.defs.warm_launcher import ask
from iot_pipeline.env_file import RUN_SOCKET
from iot_pipeline.lake.processes import has_ended
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline_tests.shared import until

Status = dg.DagsterRunStatus


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lake of its own, with prompts that can be edited."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(PROJECT_ROOT / "iot_pipeline" / "prompts", folder / "prompts")
        patch.setenv("IOT_LAKE", str(folder / "lake"))
        patch.setenv("IOT_PROMPTS", str(folder / "prompts"))
        patch.setenv("IOT_ENV_FILE", str(folder / "env"))
        settings_module.settings.cache_clear()
        dagster_home(settings_module.settings())
        yield folder / "lake"
    settings_module.settings.cache_clear()


@pytest.fixture(scope="module")
def server(lake: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The server in a process, as `ui` starts it."""
    address = str(lake / "s")
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        listener.bind(address)
        listener.listen()
        patch.setenv(RUN_SOCKET, address)
        own = [str(listener.fileno()), str(os.getpid())]
        command = [sys.executable, "-m", "iot_pipeline.defs.run_server", *own]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], start_new_session=True)
        yield process
        process.terminate()
        process.wait(30)


@pytest.fixture
def instance(lake: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as found:
        yield found


def launched(instance: dg.DagsterInstance) -> tuple[str, Any]:
    """A run of one prompt's snapshot, launched as the queue does it; its id and its worker, or why it has none."""
    job = job_of_all_assets(defs()).get_subset(asset_selection={dg.AssetKey("prompt")})
    tags = {"dagster/partition": "paraphrased"}
    run = instance.create_run_for_job(
        job, tags=tags, asset_selection=job.asset_selection, remote_job_origin=origin_of(job.name)
    )
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name), run.run_id)
    answer = ask({"launch": run.run_id}, 120)
    return run.run_id, answer.get("pid") or answer["error"]


def ended(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    def finished() -> dg.DagsterRun | None:
        run = instance.get_run_by_id(run_id)
        return run if run is not None and run.is_finished else None

    found: dg.DagsterRun = until(finished, f"run {run_id} ends")
    return found


def test_a_run_is_executed_by_a_worker_that_was_forked(
    server: "subprocess.Popen[bytes]", instance: dg.DagsterInstance, lake: Path
) -> None:
    run_id, worker = launched(instance)
    assert ended(instance, run_id).status is Status.SUCCESS
    assert (lake / "prompt" / "paraphrased" / "prompt.md").is_file()
    assert processes_of(instance, run_id)[0][0] == worker != server.pid
    until(lambda: has_ended(worker, time.time()), "the worker ends with its run")


def test_a_worker_that_is_killed_leaves_a_failed_run_that_is_queued_again(
    server: "subprocess.Popen[bytes]", instance: dg.DagsterInstance
) -> None:
    run_id, worker = launched(instance)
    os.kill(worker, signal.SIGKILL)  # before it could say that it is there
    assert ended(instance, run_id).status is Status.FAILURE
    until(lambda: ended(instance, run_id).tags.get("dagster/will_retry") == "true", "it will be queued again")
    assert ended(instance, run_id).tags[KILLED_TAG] == "true"


def test_a_run_is_cancelled(server: "subprocess.Popen[bytes]", instance: dg.DagsterInstance) -> None:
    run_id, worker = launched(instance)
    os.kill(worker, signal.SIGSTOP)
    assert instance.run_launcher.terminate(run_id)
    os.kill(worker, signal.SIGCONT)
    assert ended(instance, run_id).status is Status.CANCELED
    assert not instance.run_launcher.terminate(run_id)
    assert ask({"cancel": "of no run"}, 10) == {"cancelled": False}


def test_a_changed_file_is_loaded_before_the_next_run(
    server: "subprocess.Popen[bytes]", instance: dg.DagsterInstance, lake: Path
) -> None:
    (lake.parent / "env").write_text("IOT_TRACKS=nonsense\n")  # `.env` of this test
    assert "IOT_TRACKS" in launched(instance)[1]
    (lake.parent / "env").write_text("")
    run_id, worker = launched(instance)
    os.kill(worker, signal.SIGSTOP)
    (lake.parent / "env").write_text("IOT_SEED=7\n")  # and while a worker is at work, which stays
    cold, _ = launched(instance)
    assert ended(instance, cold).status is Status.SUCCESS
    os.kill(worker, signal.SIGCONT)
    assert ended(instance, run_id).status is Status.SUCCESS


def test_workers_end_with_the_server(instance: dg.DagsterInstance, lake: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from iot_pipeline.defs.run_server import RunServer\n"
        "server = RunServer.__new__(RunServer)\n"
        "class Listener:\n"
        "    close = staticmethod(lambda: None)\n"
        "server.listener = Listener\n"
        "print(server._fork(lambda: time.sleep(300)), flush=True)\n"
        "time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    until(lambda: has_ended(worker, time.time()), "the worker ends")


@pytest.mark.parametrize("asked", [b"[]\n", b"1\n", b"no JSON\n", b"\xff\n", b""])
def test_a_request_that_is_none_does_not_end_the_server(asked: bytes, tmp_path: Path) -> None:
    found = object.__new__(RunServer)
    with socket.socket(socket.AF_UNIX) as found.listener, socket.socket(socket.AF_UNIX) as client:
        found.listener.bind(str(tmp_path / "s"))
        found.listener.listen()
        client.connect(str(tmp_path / "s"))
        client.sendall(asked)
        client.shutdown(socket.SHUT_WR)
        found._answer()
        assert client.recv(10) == b""
