"""Calls into parts of Dagster that are not public, so that an upgrade is checked in one file; tried with 1.13.27."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from starlette.applications import Starlette

DAEMON = "dagster._daemon"  # the module behind the `dagster-daemon` script
PAGE_POLL_MS = 2000


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


def tags_by_partition(instance: dg.DagsterInstance, key: dg.AssetKey, tag: str) -> dict[str, str]:
    """Return a tag of the latest materialisation of each partition; empty for an asset without partitions."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [tag]
    )
    return {partition: tags[tag] for partition, tags in found.items()}


def processes_of(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[int, float]]:
    """Yield the process ids of a run and when they were recorded: its worker first, then its steps."""
    told = {dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.STEP_WORKER_STARTED}
    for entry in instance.all_logs(run_id, of_type=told):
        event = entry.dagster_event
        metadata: dict[str, Any] = getattr(event.event_specific_data, "metadata", {}) if event is not None else {}
        if "pid" in metadata:
            yield int(metadata["pid"].value), entry.timestamp


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
def web_application(instance: dg.DagsterInstance, workspace: str) -> Iterator[Starlette]:
    """Build the web application that `dagster-webserver` serves, for the code locations of a workspace file."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    with WorkspaceProcessContext(instance, WorkspaceFileTarget([workspace])) as context:
        yield create_app_from_workspace_process_context(context, live_data_poll_rate=PAGE_POLL_MS)
