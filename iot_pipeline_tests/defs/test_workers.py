"""Workers of one lake whose Dagster keeps its records in PostgreSQL: shares, deaths, slots, errors."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from iot_pipeline import settings as settings_module
from iot_pipeline.commands import doctor
from iot_pipeline.defs import workers
from iot_pipeline.defs.dagster_internals import check_lake, opened_instance, pool_holders, set_pool_limits
from iot_pipeline.defs.execute import execute
from iot_pipeline.defs.home import POSTGRES, SHARED_HOME, dagster_home, locked
from iot_pipeline.defs.plan import Planned, wanted
from iot_pipeline.defs.queue import Queue
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.run_monitoring import RUN_LOCK, RUN_TAG, close_dead_runs
from iot_pipeline.defs.workers import Living, SharedWorker, Worker, worker_on
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.teacher.postgres import PASSWORD, cluster

Database = Callable[..., str]
KEYS = [f"{number}|original" for number in range(4)]
SLEEP_S = "TEST_SLEEP_S"


@dg.asset(code_version="1")
def root_of_all(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        write_text(step.folder / "x.txt", "x")
    return step.result()


@dg.asset(code_version="1", deps=[root_of_all], partitions_def=dg.StaticPartitionsDefinition(KEYS), pool="gpu")
def pooled(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.input("root_of_all")
        with (lake.root() / "made.txt").open("a") as made:
            made.write(f"{context.partition_key}\n")
        time.sleep(float(os.environ.get(SLEEP_S, "0")))
        write_text(step.folder / "x.txt", context.partition_key)
    return step.result()


@dg.asset(code_version="1", deps=[pooled])
def last(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        for key in KEYS:
            step.input("pooled", key)
        write_text(step.folder / "x.txt", "x")
    return step.result()


PLANNED = [
    Planned(ArtefactId("root_of_all"), "group", "1"),
    *(Planned(ArtefactId("pooled", key), "group", "1") for key in KEYS),
    Planned(ArtefactId("last"), "group", "1"),
]


def definitions() -> dg.Definitions:
    return dg.Definitions(assets=[root_of_all, pooled, last], resources={"lake": LakeResource()})


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Makes databases with Dagster's tables in them, by copying the first one."""
    with cluster() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "RETURNED_S", 0.0)  # or nobody would be dead yet
        patch.setattr(workers, "LOOKED_AFTER_S", 0.2)
        first = made()
        patch.setenv(POSTGRES, first)
        patch.setenv("DAGSTER_HOME", str(Path(__file__).parent.parent.parent / "deploy"))
        with dg.DagsterInstance.get():
            pass
        name = make_url(first).database
        yield lambda: made(f"TEMPLATE {name}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Path]:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    monkeypatch.setenv(POSTGRES, database())
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings_module.settings.cache_clear()
    yield dagster_home(settings_module.settings())
    settings_module.settings.cache_clear()


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with opened_instance(home) as found:
        yield found


def test_the_deployed_configuration_is_one_that_dagster_takes(instance: dg.DagsterInstance, home: Path) -> None:
    kinds = {type(one).__name__ for one in (instance.run_storage, instance.event_log_storage)}
    assert kinds == {"PostgresRunStorage", "PostgresEventLogStorage"}
    assert type(instance.schedule_storage).__name__ == "PostgresScheduleStorage"
    assert home.name == SHARED_HOME and not (home / "history").exists()
    assert type(instance.run_launcher).__name__ == "WatchedRunLauncher"
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
    assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    monitoring = instance.run_monitoring_settings
    assert instance.run_monitoring_enabled and instance.run_retries_enabled
    # A slot of a dead run is free within two minutes: noticed, and freed by the round after it.
    assert 2 * monitoring["poll_interval_seconds"] + monitoring["free_slots_after_run_end_seconds"] < 120


def test_pools_have_the_slots_that_the_settings_say(instance: dg.DagsterInstance) -> None:
    set_pool_limits(instance, {"gpu": 3, "teacher": 2, "other": None})
    set_pool_limits(instance, {"gpu": None})
    assert [pool_holders(instance, pool)[0] for pool in ("gpu", "teacher")] == [3, 2]


def test_without_the_variable_records_stay_in_the_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "of_another_project"))
    chosen = load_settings({"IOT_LAKE": str(tmp_path)})
    assert dagster_home(chosen) == tmp_path / ".dagster" and os.environ["DAGSTER_HOME"] == str(tmp_path / ".dagster")
    with locked(chosen), pytest.raises(UserError, match="another `iot-pipeline run` is at work"), locked(chosen):
        raise AssertionError("two runs at once")


def test_a_home_of_a_deployment_is_used_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deployed = tmp_path / "deployed"
    deployed.mkdir()
    (deployed / "dagster.yaml").write_text((home / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(deployed))
    assert dagster_home(settings_module.settings()) == deployed
    with locked(settings_module.settings()), locked(settings_module.settings()):
        pass  # workers are kept apart by artefact


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", r"cannot be used \(.*\); see that the server is up"),
        (f"me:{PASSWORD}@host/x", "is no URL|names no PostgreSQL"),
        (f"mysql://me:{PASSWORD}@host/x", "names no PostgreSQL database"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence_without_its_password(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda seconds: None)
    chosen = load_settings({"IOT_LAKE": str(tmp_path), POSTGRES: url})
    monkeypatch.setenv(POSTGRES, url)
    with pytest.raises(UserError, match=sentence) as told, opened_instance(dagster_home(chosen)):
        raise AssertionError("it opened")
    assert PASSWORD not in str(told.value) and capfd.readouterr().err == ""


def test_the_doctor_tells_where_the_records_are_and_why_they_cannot_be_used(home: Path) -> None:
    chosen = settings_module.settings()
    away = chosen.with_run(dagster_postgres=SecretStr(f"postgresql://me:{PASSWORD}@127.0.0.1:1/x"))
    found, lost = doctor._records(chosen), doctor._records(away)
    assert found.state == "ok" and "PostgreSQL 1" in found.text
    assert lost.state == "error" and "cannot be reached" in lost.text
    assert all(PASSWORD not in said for said in (found.text, lost.text, str(doctor.told_settings(away))))


def test_a_database_has_the_records_of_one_lake(instance: dg.DagsterInstance) -> None:
    check_lake(instance, "farm_flow-demo")
    check_lake(instance, "farm_flow-demo")
    with pytest.raises(UserError, match="has the records of the lake farm_flow-demo, not of other"):
        check_lake(instance, "other")


# -- claims --------------------------------------------------------------------------------------------------


def test_an_artefact_is_claimed_by_one_worker(home: Path, database: Database) -> None:
    url, artefact = database(), ArtefactId("pooled", KEYS[0])
    first, second = SharedWorker(url), SharedWorker(url)
    assert first.claim(artefact) and first.claim(artefact) and not second.claim(artefact)
    assert second.claim(ArtefactId("pooled", KEYS[1]))
    first.release([artefact, ArtefactId("last")])
    assert second.claim(artefact) and not first.claim(artefact)
    living = Living(url)
    assert first.new_run_id() in living and second.new_run_id() in living
    second.close()
    assert first.claim(artefact)
    first.close()
    assert first.new_run_id() not in Living(url)


def end_sessions(other: SharedWorker) -> None:
    """End all sessions of a database but one, as a restart of the server does."""
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    other._connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid, 5000) {others}")


def test_a_session_that_the_server_ended_is_opened_anew_and_holds_what_nobody_took(database: Database) -> None:
    worker = SharedWorker(database())
    other = SharedWorker(worker._url)
    assert worker.claim(ArtefactId("a")) and worker.claim(ArtefactId("b"))
    with worker._guard:  # its thread comes too late for a
        end_sessions(other)
        assert other.claim(ArtefactId("a"))
    assert not worker.claim(ArtefactId("a")) and worker.claim(ArtefactId("b")) and not other.claim(ArtefactId("b"))
    end_sessions(other)
    end = time.monotonic() + 20
    while worker.new_run_id() not in Living(worker._url):  # nobody asks it for anything meanwhile
        assert time.monotonic() < end
        time.sleep(0.05)
    other.close()
    worker.close()


def test_a_worker_that_cannot_have_its_name_again_holds_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = SharedWorker(database())
    other = SharedWorker(worker._url)
    assert worker.claim(ArtefactId("a"))
    monkeypatch.setattr(workers, "CUT_OFF_S", -1.0)
    with worker._guard:
        end_sessions(other)
        assert other.hold(worker.name)  # as a session that was cut off does, and the server has not noticed
        for _ in range(2):
            with pytest.raises(UserError, match="still holds the session"):
                worker.claim(ArtefactId("a"))
        assert other.claim(ArtefactId("a"))
    other.close()
    worker.close()


def test_nobody_is_dead_while_the_server_has_only_just_started(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database()
    assert "of nobody" not in Living(url)
    monkeypatch.setattr(workers, "RETURNED_S", 3600.0)
    assert "of nobody" in Living(url)


class Told(Worker):
    """A worker of a property test, which meets the other in a dictionary."""

    def __init__(self, name: str, held: dict[ArtefactId, str]) -> None:
        self.name, self.held = name, held

    def claim(self, artefact: ArtefactId) -> bool:
        return self.held.setdefault(artefact, self.name) == self.name

    def release(self, artefacts: Sequence[ArtefactId]) -> None:  # type: ignore[override]
        for artefact in artefacts:
            assert self.held.pop(artefact) == self.name


@hypothesis_settings(max_examples=200, deadline=None)
@given(turns=st.lists(st.integers(0, 2), max_size=60), dead=st.integers(0, 30))
def test_two_workers_make_everything_once_and_nothing_before_its_inputs(turns: list[int], dead: int) -> None:
    """Two workers take, make and finish in any order; the second is killed at some moment, with what it holds."""
    held, made = dict[ArtefactId, str](), list[ArtefactId]()
    both = [Told("a", held), Told("b", held)]
    queues = [Queue(GRAPH, PLANNED, worker) for worker in both]
    at_work: list[list[Planned]] = [[], []]

    def step(number: int) -> None:
        if at_work[number]:
            made.extend(p.artefact for p in at_work[number])
            both[number].release([p.artefact for p in at_work[number]])
            at_work[number] = []
        elif batch := queues[number].take():
            todo = [p for p in batch if p.artefact not in made][:1]
            if not todo:
                both[number].release([p.artefact for p in batch])
                return
            queues[number].put_back([p for p in batch if p not in todo])
            inputs = PLANNED[:1] if todo[0].key.to_user_string() == "pooled" else PLANNED[:-1]
            assert todo[0] == PLANNED[0] or {p.artefact for p in inputs} <= {*made}
            at_work[number] = todo

    for moment, turn in enumerate(turns):
        if moment < dead or turn == 0:
            step(min(turn, 1))
    for artefact in [one for one, name in held.items() if name == "b"]:
        del held[artefact]
    while queues[0] or at_work[0]:
        step(0)
    assert sorted(made) == sorted(p.artefact for p in PLANNED)


GRAPH = definitions()


# -- deaths --------------------------------------------------------------------------------------------------


def test_runs_and_slots_of_dead_workers_are_given_up_and_those_of_living_ones_kept(
    instance: dg.DagsterInstance, home: Path
) -> None:
    set_pool_limits(instance, {"gpu": 5})
    storage = instance.event_log_storage
    with worker_on(instance) as living:
        with worker_on(instance) as dead:
            ids = [worker.new_run_id() for worker in (living, living, dead, dead)]
        tags = {RUN_TAG: "run", "dagster/max_retries": "0"}
        runs = [
            instance.add_run(dg.DagsterRun("job", run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=tags))
            for run_id in (ids[0], ids[2])
        ]
        ui = instance.add_run(dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED))
        for run_id in [*ids, ui.run_id]:  # two of them are about to begin: they are known to the pool alone
            assert storage.claim_concurrency_slot("gpu", run_id, "pooled").is_claimed
        asked = [instance.run_launcher.check_run_worker_health(run).status for run in [*runs, ui]]
        assert asked == [WorkerStatus.RUNNING, WorkerStatus.FAILED, WorkerStatus.FAILED]
        assert close_dead_runs(instance, home, RUN_LOCK) == [ids[2]]
        assert pool_holders(instance, "gpu")[1] == {ids[0], ids[1], ui.run_id}
    found = instance.get_run_by_id(ids[2])
    assert found is not None and found.status is dg.DagsterRunStatus.FAILURE
    assert close_dead_runs(instance, home, RUN_LOCK) == [ids[0]]
    assert pool_holders(instance, "gpu")[1] == {ui.run_id}


WORK = (
    "import sys, warnings; warnings.simplefilter('ignore')\n"
    "from iot_pipeline.settings import settings\n"
    "from iot_pipeline.defs.execute import execute\n"
    "from iot_pipeline_tests.defs import test_workers as t\n"
    "outcome = execute(t.definitions(), settings(), t.PLANNED)\n"
    "sys.exit(len(outcome.failed) + len(outcome.left))\n"
)


def test_what_a_killed_worker_was_making_another_one_makes(
    instance: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IOT_GPU_SLOTS", "1")
    killed = subprocess.Popen([sys.executable, "-c", WORK], env=os.environ | {SLEEP_S: "600"})
    made = tmp_path / "made.txt"
    while not made.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    settings_module.settings.cache_clear()
    with worker_on(instance):  # a third one, which makes nothing and holds nothing
        outcome = execute(definitions(), settings_module.settings(), PLANNED)
    assert (outcome.failed, outcome.left, outcome.fresh) == ([], [], [PLANNED[0].artefact])
    assert sorted(made.read_text().split()) == sorted([KEYS[0], *KEYS])  # the one in flight twice, no other
    assert pool_holders(instance, "gpu")[1:] == (set(), set())
    assert not list(tmp_path.rglob("*.staging")) and all(Lake(tmp_path).verified(p.artefact) for p in PLANNED)
    assert not [run for run in instance.get_runs() if not run.is_finished]


def test_the_whole_plan_is_known_to_the_queue() -> None:
    planned = wanted(GRAPH, load_settings({"IOT_SEEDS": "0,1,2,3"}))
    assert {p.artefact for p in planned} == {p.artefact for p in PLANNED}
    queue = Queue(GRAPH, planned, Worker())
    while queue:
        assert queue.take()
