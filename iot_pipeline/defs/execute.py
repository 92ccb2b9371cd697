"""Execution of a plan through Dagster, in this process, on the lake's own instance: one Dagster run per batch."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline.defs import plan
from iot_pipeline.defs.asset_page import page_metadata
from iot_pipeline.defs.dagster_internals import (
    assets_alone,
    check_lake,
    job_of_all_assets,
    opened_instance,
    pool_of,
    reported_run,
    runs_of_location,
    set_pool_limits,
)
from iot_pipeline.defs.home import RUN_LOCK, dagster_home
from iot_pipeline.defs.lake_state import report_state
from iot_pipeline.defs.leased_worker import worker_of
from iot_pipeline.defs.queue import Queue
from iot_pipeline.defs.reads import present_value
from iot_pipeline.defs.recording import BUDGET, MISSING, announce, verdicts
from iot_pipeline.defs.resources import USAGE_TAG, USED
from iot_pipeline.defs.run_monitoring import MANIFEST_TAG, PARENT_TAG, RUN_TAG, close_dead_runs, pool_slot
from iot_pipeline.defs.workers import Worker, worker_on
from iot_pipeline.interrupts import raise_if_told
from iot_pipeline.lake.artefact_log import BusyError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings

BUDGET_SPENT = (
    "the budget is used up (the ledger may reach ${} in this run); answers so far are kept, and the next run goes on"
)
# Dagster's error where a blocking check failed: it names the check, the manifest says why.
CHECK_FAILED = "DagsterAssetCheckFailedError"
LOOKED_EVERY_S, TAKE_EVERY_S = 15.0, 0.5  # for deaths of others, while all that is left is being made by them


@dataclass
class Outcome:
    """Outcome of a plan: artefacts that were materialised, fresh, failed (artefact, reason) or were not reached.

    held: with `Limits`, artefacts that were to be made but may not be now, and why.
    """

    made: list[ArtefactId]
    fresh: list[ArtefactId]
    failed: list[tuple[ArtefactId, str]]
    left: list[ArtefactId]
    held: list[tuple[ArtefactId, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """Limits of a run that a job makes: what it may make and spend. It goes on after a failure and a spent budget.

    Args:
        permitted: Artefacts that it may make.
        budget_usd: Dollars in the store's ledger that it must not pass; None for IOT_TEACHER_BUDGET_USD.
    """

    permitted: frozenset[ArtefactId]
    budget_usd: float | None = None


def execute_command(
    definitions: dg.Definitions,
    settings: Settings,
    planned: list[plan.Planned],
    told: dict[str, str],
    force: bool = False,
    accept_code: bool = False,
) -> Outcome:
    """Execute a plan for a command, which the UI shows as one run of the job `everything`, with its runs as parts.

    Args:
        definitions: All definitions of the project.
        settings: The present settings.
        planned: The plan, upstream first.
        told: Tags that say what the command was asked for.
        force: As in `execute`.
        accept_code: As in `execute`.
    """
    job = definitions.resolve_job_def("everything")
    tags = told | {RUN_TAG: "run", MANIFEST_TAG: "run", "dagster/max_retries": "0"}
    with opened_instance(dagster_home(settings)) as instance, worker_on(instance) as worker:
        with reported_run(instance, job, tags, worker.new_run_id()) as run:
            outcome = execute(definitions, settings, planned, force, accept_code, parent=run.run_id)
            report_state(instance, definitions, settings)
            if outcome.failed:
                instance.report_run_failed(run, "; ".join(f"{artefact}: {why}" for artefact, why in outcome.failed))
    return outcome


def record_unrecorded(instance: dg.DagsterInstance, lake: Lake, planned: list[plan.Planned]) -> None:
    """Report artefacts and checks to Dagster that a killed process finished without reporting."""
    recorded = plan.recorded_versions(instance, planned)
    for p in planned:
        manifest = lake.manifest(p.artefact)
        if manifest is None or manifest.failed_blocking() or recorded.get(p.artefact) == manifest.data_version:
            continue
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                p.key,
                partition=p.artefact.partition or None,
                description="recorded from its manifest: another host made it, or it was killed before it told Dagster",
                metadata=page_metadata(p.artefact, manifest),
                tags={plan.DATA_VERSION: manifest.data_version, "dagster/code_version": manifest.code_version},
            )
        )
        for verdict in verdicts(manifest.checks):
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(p.key, **verdict))


def execute(
    definitions: dg.Definitions,
    settings: Settings,
    planned: list[plan.Planned],
    force: bool = False,
    accept_code: bool = False,
    limits: Limits | None = None,
    parent: str = "",
) -> Outcome:
    """Materialise stale artefacts, upstream first, and stop at the first failure (not with `limits`).

    Finished artefacts stay and are not repeated.

    Args:
        definitions: All definitions of the project.
        settings: The present settings.
        planned: The plan, upstream first.
        force: True to rematerialise every artefact of the plan.
        accept_code: True to accept artefacts of another code version.
        limits: What a job may make and spend; None for no limits.
        parent: Id of the run that this one is part of.

    Raises:
        KeyboardInterrupt: The process received SIGINT or SIGTERM, or a run was cancelled.
    """
    home = dagster_home(settings)
    lake = Lake(settings.lake_path)
    outcome = Outcome([], [], [], [])
    with opened_instance(home) as instance, worker_on(instance) as found:
        worker = worker_of(found, lake)
        check_lake(instance, lake.address if lake.remote else lake.root.name)
        close_dead_runs(instance, home, RUN_LOCK, {parent})
        set_pool_limits(instance, settings.run.slots())
        record_unrecorded(instance, lake, planned)
        making = Making(definitions, instance, lake, outcome, limits, parent, worker)
        queue = Queue(definitions, planned, worker)
        looked = time.monotonic()

        def stale(batch: list[plan.Planned]) -> list[plan.Planned]:
            """Return what is stale; its inputs may have changed since the plan was made."""
            return [p for p in batch if force or plan.forecast(lake, settings, [p], accept_code)[p.artefact]]

        while queue and (limits is not None or not outcome.failed):
            raise_if_told()  # Dagster loses a signal that arrives as a run ends
            if batch := queue.take():
                making.make(batch, stale, queue, settings)
                continue
            if time.monotonic() - looked > LOOKED_EVERY_S:
                looked = time.monotonic()
                close_dead_runs(instance, home, RUN_LOCK, {parent})
            time.sleep(TAKE_EVERY_S)
        outcome.left += [p.artefact for p in queue.left()]
        if parent:
            instance.add_run_tags(parent, usage_of_parts(instance, parent))
    return outcome


def usage_of_parts(instance: dg.DagsterInstance, parent: str) -> dict[str, str]:
    """Sum up requests, tokens and dollars of the parts of a run that asked the teacher, as its tags; {} without one."""
    parts = [run.tags for run in instance.get_runs(dg.RunsFilter(tags={PARENT_TAG: parent}))]
    tags = [found for found in parts if USAGE_TAG + USED[0] in found]
    sums = {name: sum(float(found.get(USAGE_TAG + name, 0)) for found in tags) for name in USED}
    told = {USAGE_TAG + name: f"{value:.4f}" if name == "usd" else f"{value:.0f}" for name, value in sums.items()}
    return told if tags else {}


@dataclass
class Making:
    """Dagster runs of a plan's artefacts; `outcome` receives each under made, failed, held or left."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    lake: Lake
    outcome: Outcome
    limits: Limits | None
    parent: str
    worker: Worker
    unmade: set[str] = field(default_factory=set)  # what failed, has no budget left, or waits for such an artefact

    def make(
        self,
        batch: list[plan.Planned],
        stale: Callable[[list[plan.Planned]], list[plan.Planned]],
        queue: Queue,
        settings: Settings,
    ) -> None:
        """Make the first of a batch's stale artefacts, as many as one run can, and put the others back.

        Args:
            batch: Artefacts that this worker has claimed.
            stale: Returns those that are stale at this moment.
            queue: Where they come from.
            settings: The present settings.
        """
        todo = stale(batch)
        held = [p for p in todo if self.holds_back(p, settings)]
        batch, todo = [p for p in batch if p not in held], [p for p in todo if p not in held]
        self.worker.release([p.artefact for p in held])
        pools = {p.key: pool_of(self.definitions, p.key) for p in todo}
        # A step that needs a pool has a run of its own, which starts once it holds a slot (see pool_slot).
        todo = list(itertools.takewhile(lambda p: pools[p.key] is None, todo)) or todo[:1]
        if not todo:
            self.worker.release([p.artefact for p in batch])
            self.outcome.fresh += [p.artefact for p in batch]
            for p in batch:
                announce(p.artefact, "fresh")
            return
        with contextlib.ExitStack() as leases:
            try:  # before a slot, everywhere: who holds a slot waits for nobody
                leases.enter_context(self.lake.claimed([p.artefact for p in todo]))
            except BusyError:
                queue.put_back(batch)
                return
            if self.lake.remote and stale(todo) != todo:
                queue.put_back(batch)  # another host made some between our look and our lease: look again
                return
            queue.put_back([p for p in batch if p not in todo])
            first = todo[0]
            tell = functools.partial(announce, first.artefact, "waiting")
            home = Path(self.instance.root_directory)
            # Dagster names the step of an asset like the asset.
            asset = first.artefact.asset
            slot = pool_slot(self.instance, home, pools[first.key], asset, tell, self.parent, self.worker)
            with slot as run_id:
                self.run(todo, run_id)
            self.worker.release([p.artefact for p in todo])

    def holds_back(self, p: plan.Planned, settings: Settings) -> bool:
        """Return True, and note why, if the limits do not let an artefact be made now."""
        if self.limits is None:
            return False
        why = "" if p.artefact in self.limits.permitted else "not among what this run may make"
        if not why and (why := self._waits_for(p.artefact, settings)):
            self.unmade.add(str(p.artefact))
        if why:
            self.outcome.held.append((p.artefact, why))
        return bool(why)

    def _waits_for(self, artefact: ArtefactId, settings: Settings) -> str:
        """Return the first input that no longer follows from its own; those of listings are left out anyway."""
        if (manifest := self.lake.manifest(artefact)) is None:
            return ""
        present, known, listed = present_value(self.lake, settings), dict[ArtefactId, str](), manifest.listings()
        hard = (one for one in manifest.upstream() if not any(one.belongs_to(name) for name in listed))
        broken = (self.lake.broken_lineage(one, present, known) for one in hard)
        return next((f"waits for {sentence}" for sentence in broken if sentence), "")

    def run(self, todo: list[plan.Planned], run_id: str) -> None:
        """Execute one Dagster run for artefacts of one partition; the run may already hold a slot of a pool.

        Raises KeyboardInterrupt if the process received a signal to stop, which Dagster had intercepted.
        """
        job = job_of_all_assets(self.definitions)
        tags = {RUN_TAG: "run", "dagster/max_retries": "0"}  # the daemon of a UI must not queue it again
        with runs_of_location(self.instance, job.name):
            result = assets_alone(job, [p.key for p in todo]).execute_in_process(
                partition_key=todo[0].artefact.partition or None,
                instance=self.instance,
                raise_on_error=False,
                run_id=run_id,
                tags=tags | ({PARENT_TAG: self.parent} if self.parent else {}),
                run_config=self._config(todo),
            )
        raise_if_told()
        if result.dagster_run.status is dg.DagsterRunStatus.CANCELED:
            raise KeyboardInterrupt
        self._note(todo, result)

    def _config(self, todo: list[plan.Planned]) -> dict[str, Any]:
        """Return the run configuration: no console log, and the budget where the teacher is asked."""
        config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        asks = any("teacher" in self.definitions.resolve_assets_def(p.key).required_resource_keys for p in todo)
        if asks and self.limits is not None and self.limits.budget_usd is not None:
            config["resources"] = {"teacher": {"config": {"budget_usd": self.limits.budget_usd}}}
        return config

    def _note(self, todo: list[plan.Planned], result: dg.ExecuteInProcessResult) -> None:
        """Note what became of each artefact of a run."""
        done = {event.asset_key for event in result.get_asset_materialization_events()}
        failures = {event.step_key: event for event in result.all_events if event.is_step_failure and event.step_key}
        if not result.success and not failures:  # without a failed step: a locked or full event log
            reasons = [event.message for event in result.all_events if event.is_failure and event.message]
            self.outcome.failed.append((todo[0].artefact, reasons[-1] if reasons else "the Dagster run failed"))
        for p in todo:
            manifest = self.lake.manifest(p.artefact)
            if (event := failures.get(p.artefact.asset)) is not None:
                error = sentence_of(event)
                checks = manifest.describe_failures() if manifest is not None and CHECK_FAILED in error else ""
                waits = missing_input(event) in self.unmade
                self.unmade.add(str(p.artefact))
                if self.limits is not None and is_budget(event):
                    limit = self.limits.budget_usd
                    self.outcome.held.append((p.artefact, error if limit is None else BUDGET_SPENT.format(limit)))
                elif self.limits is not None and waits:
                    self.outcome.held.append((p.artefact, f"waits for {missing_input(event)}, which was not made"))
                else:
                    self.outcome.failed.append(
                        (p.artefact, f"blocking check did not pass: {checks}" if checks else error)
                    )
            elif p.key not in done:
                self.outcome.left.append(p.artefact)
            elif manifest is not None and (failed := manifest.describe_failures()):
                self.outcome.failed.append((p.artefact, f"blocking check did not pass: {failed}"))
            else:
                self.outcome.made.append(p.artefact)


def is_budget(event: dg.DagsterEvent) -> bool:
    """Return True if a step failed because the budget has no room for its next request."""
    failure = event.step_failure_data.user_failure_data
    return failure is not None and BUDGET in failure.metadata


def missing_input(event: dg.DagsterEvent) -> str:
    """Return the artefact for want of which a step failed; empty if it failed for another reason."""
    failure = event.step_failure_data.user_failure_data
    found = failure.metadata.get(MISSING) if failure is not None else None
    return str(found.value) if found is not None else ""


def sentence_of(event: dg.DagsterEvent) -> str:
    """Return the error sentence of a step failure: the description of a Failure, else the innermost error."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip() if error else "failed"
