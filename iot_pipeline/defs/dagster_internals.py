"""Calls into parts of Dagster that are not public, so that an upgrade is checked in one file; tried with 1.13.27."""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.errors import DagsterLaunchFailedError as DagsterLaunchFailedError
from dagster._core.errors import DagsterUserCodeUnreachableError as DagsterUserCodeUnreachableError
from dagster._core.events import EngineEventData
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.launcher import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher import WorkerStatus as WorkerStatus
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.types import CanCancelExecutionRequest as CanCancelExecutionRequest
from dagster._grpc.types import CanCancelExecutionResult as CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData as ConfigurableClassData
from dagster._serdes import deserialize_value as deserialize_value
from dagster._utils.interrupts import capture_interrupts
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from iot_pipeline.defs.home import is_shared
from iot_pipeline.errors import UserError

DAEMON = "dagster._daemon"  # the module behind the `dagster-daemon` script
PAGE_POLL_MS = 2000
LAKE_NOTE = "iot_pipeline/lake"  # in Dagster's table of cursors
LOCATION, LOCATION_MODULE = "iot_pipeline", "iot_pipeline.definitions"  # as in workspace.yaml


@contextmanager
def opened_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance in a folder, that of DAGSTER_HOME; UserError if its databases cannot be used."""
    if is_shared(home):
        with _shared_instance() as instance:
            yield instance
        return
    try:
        instance = dg.DagsterInstance.get()
    except (OSError, SQLAlchemyError, dg.DagsterError) as error:
        raise _unusable(home, error) from error
    with instance:
        try:
            yield instance
        except SQLAlchemyError as error:
            raise _unusable(home, error) from error


@contextmanager
def _shared_instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance of DAGSTER_HOME in PostgreSQL; UserError, without its password, if the server fails."""
    try:
        with _quiet_retries():
            instance = dg.DagsterInstance.get()
    except (SQLAlchemyError, dg.DagsterError) as error:
        raise _unreachable(error) from error
    except Exception as error:
        if type(error).__name__ != "DagsterPostgresException":  # its package is optional
            raise
        raise _unreachable(error.__cause__ or error) from error
    with instance:
        try:
            yield instance
        except SQLAlchemyError as error:
            raise _unreachable(error) from error


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """Keep dagster-postgres from printing each of its six tries to connect: the last failure is told."""

    def quiet(record: logging.LogRecord) -> bool:
        return "database connection" not in str(record.msg)

    root = logging.getLogger()
    root.addFilter(quiet)  # it logs there itself: filters of a logger see its own records alone
    try:
        yield
    finally:
        root.removeFilter(quiet)


def _unreachable(error: BaseException) -> UserError:
    """Put a failure of Dagster's PostgreSQL in one sentence; the driver's own words name no password."""
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    return UserError(
        f"Dagster's records in PostgreSQL cannot be used ({reason}); see that the server is up and "
        "IOT_DAGSTER_POSTGRES names it, and run again: what is made stays"
    )


def postgres_url(instance: dg.DagsterInstance) -> str | None:
    """Return the URL of the database in which an instance keeps its events; None for one in SQLite."""
    return getattr(instance.event_log_storage, "postgres_url", None)


def set_pool_limits(instance: dg.DagsterInstance, limits: Mapping[str, int | None]) -> None:
    """Set how many slots pools have; None leaves a pool as it is: as set in the UI, else the default limit."""
    for pool, slots in limits.items():
        known = pool in pools(instance)
        if slots is not None and not (
            known and instance.event_log_storage.get_concurrency_info(pool).slot_count == slots
        ):
            instance.event_log_storage.set_concurrency_slots(pool, slots)


def check_lake(instance: dg.DagsterInstance, lake: str) -> None:
    """Refuse a database in PostgreSQL with the records of another lake; the first lake that uses it is noted there."""
    if postgres_url(instance) is None:
        return
    noted = instance.run_storage.get_cursor_values({LAKE_NOTE}).get(LAKE_NOTE)
    if noted is None:
        instance.run_storage.set_cursor_values({LAKE_NOTE: lake})
    elif noted != lake:
        raise UserError(
            f"the database of IOT_DAGSTER_POSTGRES has the records of the lake {noted}, not of {lake}: give each lake "
            "a database, and its folder the same name on every host"
        )


def refuse_damaged(home: Path) -> None:
    """Refuse a folder of Dagster with a file that is no database; UserError names it and says what to do."""
    if (found := _damaged(home)) is not None:
        raise _unusable(home, found[1])


def _damaged(home: Path) -> tuple[Path, sqlite3.Error] | None:
    """Find the first file of Dagster that SQLite cannot read; a run's compute logs lie elsewhere."""
    for path in sorted(home.rglob("*.db")):
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as opened:
                opened.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.OperationalError as error:
            if path.is_dir():  # anything else may be a full disk or missing permissions
                return path, error
        except sqlite3.DatabaseError as error:
            return path, error
    return None


def _unusable(home: Path, error: Exception) -> UserError:
    """Put a failure of Dagster's databases in one sentence."""
    found = _damaged(home)
    reason = " ".join(str(found[1] if found else getattr(error, "orig", None) or error).split())
    if found or isinstance(error, FileExistsError | NotADirectoryError):
        mend = f"remove {home} and run again: artefacts and answers stay, the history of runs is lost"
    else:
        mend = "make room or mend permissions, and run again: what is made stays"
    return UserError(f"Dagster's records in {found[0] if found else home} cannot be used ({reason}); {mend}")


class Slots(Protocol):
    """Claims of one run on the slots of pools."""

    def claim(self, concurrency_key: str, step_key: str) -> bool:
        """Claim a slot for a step, or put the step in line and return False."""


def claimed_slots(instance: dg.DagsterInstance, run_id: str) -> AbstractContextManager[Slots]:
    """Open a run's claims on pools: Dagster makes the same before a step starts."""
    return InstanceConcurrencyContext(instance, dg.DagsterRun("waiting", run_id=run_id))


def free_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free the slots of a run in all pools, and its places in line."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def pool_holders(instance: dg.DagsterInstance, pool: str) -> tuple[int, set[str], set[str]]:
    """Return a pool's number of slots, the ids of the runs that hold one, and of those in line."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    return info.slot_count, {slot.run_id for slot in info.claimed_slots}, {step.run_id for step in info.pending_steps}


def pools(instance: dg.DagsterInstance) -> set[str]:
    """Return the names of the pools that the instance has seen."""
    return set(instance.event_log_storage.get_concurrency_keys())


def pool_of(definitions: dg.Definitions, key: dg.AssetKey) -> str | None:
    """Return the pool of an asset's step."""
    return definitions.resolve_assets_def(key).op.pool


def job_of_all_assets(definitions: dg.Definitions) -> dg.JobDefinition:
    """Return the job in which Dagster's UI materialises assets."""
    return definitions.resolve_implicit_global_asset_job_def()


def origin_of(job_name: str) -> RemoteJobOrigin:
    """Return where the UI finds a job: without it a run is in no list of its job and not in the timeline."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=LOCATION_MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job_name)


@contextmanager
def runs_of_location(instance: dg.DagsterInstance, job_name: str) -> Iterator[None]:
    """Give runs that this process creates the origin of their job, which `execute_in_process` leaves out."""
    create = partial(instance.create_run_for_job, remote_job_origin=origin_of(job_name))
    instance.create_run_for_job = create  # type: ignore[method-assign]
    try:
        yield
    finally:
        del instance.create_run_for_job


@contextmanager
def reported_run(
    instance: dg.DagsterInstance, job: dg.JobDefinition, tags: dict[str, str], run_id: str | None = None
) -> Iterator[dg.DagsterRun]:
    """Report a run of a job whose work this process does by itself; yield the run.

    An exception in the block fails the run with its message, an interrupt cancels it; the block may have ended it.

    Args:
        instance: The lake's Dagster instance.
        job: The job that the run is shown under.
        tags: Tags of the run.
        run_id: Id of the run; None for a new one.
    """
    run = instance.create_run_for_job(job, run_id=run_id, tags=tags, remote_job_origin=origin_of(job.name))
    told = EngineEventData({"pid": dg.MetadataValue.text(str(os.getpid()))})
    instance.report_engine_event("Work of a command, in its own process", run, told)
    _report(instance, run, dg.DagsterEventType.RUN_START)
    try:
        yield run
    except BaseException as error:
        if isinstance(error, Exception):
            instance.report_run_failed(run, str(error))
        else:
            instance.report_run_canceled(run, "stopped by a signal")
        raise
    found = instance.get_run_by_id(run.run_id)
    if found is not None and not found.is_finished:
        _report(instance, run, dg.DagsterEventType.RUN_SUCCESS)


def _report(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> None:
    instance.report_dagster_event(dg.DagsterEvent(kind.value, run.job_name), run.run_id)


def assets_alone(job: dg.JobDefinition, keys: Sequence[dg.AssetKey]) -> dg.JobDefinition:
    """Return a job of some assets with the checks that their own steps make, without checks that have steps."""
    graph = job.asset_layer.asset_graph
    own = {check for key in keys for check in graph.get(key).assets_def.check_keys}
    return job.get_subset(asset_selection={*keys}, asset_check_selection=own)


def tags_by_partition(instance: dg.DagsterInstance, key: dg.AssetKey, tag: str) -> dict[str, str]:
    """Return a tag of the latest materialisation of each partition; empty for an asset without partitions."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [tag]
    )
    return {partition: tags[tag] for partition, tags in found.items()}


def processes_of(instance: dg.DagsterInstance, run_id: str) -> list[tuple[int, float]]:
    """Return the process ids of a run since it was last launched, and when they were recorded: its worker first."""
    told = {dg.DagsterEventType.RUN_STARTING, dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.STEP_WORKER_STARTED}
    found: list[tuple[int, float]] = []
    for entry in instance.all_logs(run_id, of_type=told):
        event = entry.dagster_event
        metadata: dict[str, Any] = getattr(event.event_specific_data, "metadata", {}) if event is not None else {}
        if event is not None and event.event_type is dg.DagsterEventType.RUN_STARTING:
            found.clear()
        elif "pid" in metadata:
            found.append((int(metadata["pid"].value), entry.timestamp))
    return found


def code_location() -> ReconstructableRepository:
    """Return the code location as a process finds it by itself."""
    return ReconstructableRepository.for_module(LOCATION_MODULE, "defs", str(Path.cwd()))


def load_location() -> None:
    """Load the definitions and resolve their jobs, so that processes forked from this one need not."""
    repository = code_location().get_definition()
    for job in repository.get_all_jobs():
        job.get_subset()


def execute_launched_run(run_id: str) -> None:
    """Execute a run that was launched, in this process, as a worker of Dagster's own launcher does."""
    from dagster._grpc.impl import core_execute_run

    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is None:
            raise dg.DagsterInvariantViolationError(f"there is no run {run_id}")
        pid = os.getpid()
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
        job = code_location().get_reconstructable_job(run.job_name)
        try:
            for _ in core_execute_run(job, run, instance, inject_env_vars=False):
                pass
        except (Exception, KeyboardInterrupt, DagsterExecutionInterruptedError):
            pass  # it stands in the log of the run
        left = instance.get_run_by_id(run_id)
        if left is not None and left.status is dg.DagsterRunStatus.CANCELING:  # cancelled before it began
            instance.report_run_canceled(left)
        instance.report_engine_event(f"Process for run exited (pid: {pid}).", run)


def sensor_errors(instance: dg.DagsterInstance) -> list[str]:
    """Return the errors of all sensors' ticks."""
    from dagster._core.definitions.run_request import InstigatorType

    return [
        tick.error.message
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
        if tick.error
    ]


@contextmanager
def web_application(workspace: str) -> Iterator[Starlette]:
    """Build the application of `dagster-webserver` for DAGSTER_HOME and the code locations of a workspace file."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, WorkspaceFileTarget([workspace])) as context,
    ):
        yield create_app_from_workspace_process_context(context, live_data_poll_rate=PAGE_POLL_MS)
