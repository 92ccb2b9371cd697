"""Runs whose process was killed, the pool slots they hold, and the wait for a slot that a live run holds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.execute import dagster_home, execute
from iot_pipeline.defs.plan import Planned
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.run_monitoring import KILLED_TAG, RUN_LOCK, RUN_TAG, UI_LOCK, close_dead_runs, pool_slot
from iot_pipeline.lake.atomic import held, write_text
from iot_pipeline.lake.processes import CLOCK_S, has_ended
from iot_pipeline.lake.store import ArtefactId

Status = dg.DagsterRunStatus


@dg.asset(code_version="1", pool="gpu")
def pooled(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        write_text(step.folder / "x.txt", "x")
    return step.result()


PLANNED = [Planned(ArtefactId("pooled"), "group", "1")]


def definitions() -> dg.Definitions:
    return dg.Definitions(assets=[pooled], resources={"lake": LakeResource()})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    settings_module.settings.cache_clear()
    yield dagster_home(settings_module.settings())
    settings_module.settings.cache_clear()


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as found:
        yield found


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def run_of(
    instance: dg.DagsterInstance, pid: int | None, status: Status = Status.STARTED, **tags: str
) -> dg.DagsterRun:
    """A run as Dagster leaves it behind: its process is recorded, and it holds the slot of the pool."""
    run = instance.add_run(dg.DagsterRun("__ASSET_JOB", status=status, tags=tags))
    if pid is not None:
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("gpu")
    assert storage.claim_concurrency_slot("gpu", run.run_id, "pooled").is_claimed
    return run


def state(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[Status, int]:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status, instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


@pytest.mark.parametrize("held_lock", [RUN_LOCK, UI_LOCK])
def test_a_run_whose_worker_was_killed_fails_and_its_slot_is_free(
    instance: dg.DagsterInstance, home: Path, worker: "subprocess.Popen[bytes]", held_lock: str
) -> None:
    run = run_of(instance, worker.pid)
    assert close_dead_runs(instance, home, held_lock) == []
    assert state(instance, run) == (Status.STARTED, 1)
    worker.kill()  # and nobody waits for it: it stays as a zombie
    time.sleep(0.2)
    assert close_dead_runs(instance, home, held_lock) == [run.run_id]
    assert state(instance, run) == (Status.FAILURE, 0)
    closed = instance.get_run_by_id(run.run_id)
    # How Dagster's daemon knows that it is to queue the run again.
    assert closed is not None and closed.tags["dagster/will_retry"] == closed.tags[KILLED_TAG] == "true"


def test_a_run_that_was_being_canceled_is_canceled(instance: dg.DagsterInstance, home: Path) -> None:
    run = run_of(instance, 2**22 + 1, Status.CANCELING)
    close_dead_runs(instance, home, UI_LOCK)
    assert state(instance, run) == (Status.CANCELED, 0)


def test_a_run_of_which_no_process_is_known_is_left(instance: dg.DagsterInstance, home: Path) -> None:
    run = run_of(instance, None, Status.STARTING)
    assert close_dead_runs(instance, home, UI_LOCK) == []
    assert state(instance, run) == (Status.STARTING, 1)


def test_runs_of_the_other_kind_are_left_while_its_lock_is_held(instance: dg.DagsterInstance, home: Path) -> None:
    # Its holder may live in another container, where process ids mean something else.
    gone = 2**22 + 1
    run = run_of(instance, gone)
    with held(home / UI_LOCK, ""):
        assert close_dead_runs(instance, home, RUN_LOCK) == []
    assert close_dead_runs(instance, home, RUN_LOCK) == [run.run_id]
    run = run_of(instance, gone, **{RUN_TAG: "run", "dagster/max_retries": "0"})
    with held(home / RUN_LOCK, ""):
        assert close_dead_runs(instance, home, UI_LOCK) == []
    assert close_dead_runs(instance, home, UI_LOCK) == [run.run_id]
    closed = instance.get_run_by_id(run.run_id)
    assert closed is not None and closed.tags["dagster/will_retry"] == "false"


def test_a_step_that_outlived_its_worker_is_ended(
    instance: dg.DagsterInstance, home: Path, worker: "subprocess.Popen[bytes]"
) -> None:
    run = run_of(instance, 2**22 + 1)
    instance.report_engine_event("a step", run, EngineEventData.in_process(worker.pid))
    close_dead_runs(instance, home, UI_LOCK)
    assert worker.wait(20) == -signal.SIGKILL


def test_a_process_is_known_by_its_id_and_its_start(worker: "subprocess.Popen[bytes]") -> None:
    now = time.time()
    assert not has_ended(worker.pid, now)
    assert has_ended(worker.pid, now - CLOCK_S - 60)  # another process had the id then
    assert not has_ended(1, now)
    assert has_ended(2**22 + 1, now)


def test_slots_of_deleted_runs_are_freed_but_not_those_of_a_run_that_is_about_to_begin(
    instance: dg.DagsterInstance, home: Path
) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("gpu")
    storage.claim_concurrency_slot("gpu", "nobody", "pooled")
    with held(home / RUN_LOCK, ""):
        close_dead_runs(instance, home, UI_LOCK)
        close_dead_runs(instance, home, RUN_LOCK, spared={"nobody"})
    assert storage.get_concurrency_info("gpu").active_slot_count == 1
    close_dead_runs(instance, home, UI_LOCK)
    assert storage.get_concurrency_info("gpu").active_slot_count == 0


def test_a_wait_for_a_pool_names_its_holder_and_ends_with_it(instance: dg.DagsterInstance, home: Path) -> None:
    run, said = run_of(instance, os.getpid()), []

    def say(sentence: str) -> None:
        said.append(sentence)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)

    with pool_slot(instance, home, "gpu", "pooled", say) as run_id:
        (slot,) = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
        assert (slot.run_id, slot.step_key) == (run_id, "pooled")
    assert said == [f"waiting for pool gpu: run {run.run_id[:8]} of the UI"]
    assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


def test_a_wait_that_is_stopped_leaves_no_claim(instance: dg.DagsterInstance, home: Path) -> None:
    run_of(instance, os.getpid())

    def stop(sentence: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pool_slot(instance, home, "gpu", "pooled", stop):
        raise AssertionError("it got a slot that is held")
    assert instance.event_log_storage.get_concurrency_info("gpu").pending_steps[1:] == []


def test_a_step_uses_the_slot_that_was_claimed_for_it(instance: dg.DagsterInstance, home: Path) -> None:
    outcome = execute(definitions(), settings_module.settings(), PLANNED)
    assert [str(artefact) for artefact in outcome.made] == ["pooled"]
    broken = dg.Definitions(assets=[pooled], resources={"lake": dg.ResourceDefinition(lambda _: 1 / 0)})
    assert execute(broken, settings_module.settings(), PLANNED, force=True).failed
    info = instance.event_log_storage.get_concurrency_info("gpu")
    assert (info.slot_count, info.active_slot_count, info.pending_steps) == (1, 0, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_for_a_pool_says_so_and_can_be_stopped(
    instance: dg.DagsterInstance, home: Path, number: signal.Signals
) -> None:
    run = run_of(instance, os.getpid())
    code = (
        "from iot_pipeline.interrupts import stopping_promptly\n"
        "import logging, sys\n"
        "from iot_pipeline.defs import execute, recording\n"
        "from iot_pipeline.settings import settings\n"
        "from iot_pipeline_tests.defs import test_run_monitoring as t\n"
        "shown = logging.StreamHandler(sys.stdout)\n"
        "shown.setFormatter(logging.Formatter('%(artefact)s %(event)s %(message)s'))\n"
        "recording.progress.addHandler(shown)\n"
        "with stopping_promptly('stopped'):\n"
        "    execute.execute(t.definitions(), settings(), t.PLANNED)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with held(home / UI_LOCK, ""):
        assert process.stdout is not None
        assert process.stdout.readline() == f"pooled waiting waiting for pool gpu: run {run.run_id[:8]} of the UI\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopped\n")
