"""Execution of a plan through Dagster, in this process, on the lake's own instance: one Dagster run per batch."""

import contextlib
import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from iot_pipeline.defs import plan
from iot_pipeline.defs.dagster_internals import job_of_all_assets, opened_instance, pool_of
from iot_pipeline.defs.recording import announce, verdicts
from iot_pipeline.defs.run_monitoring import RUN_LOCK, RUN_TAG, close_dead_runs, pool_slot
from iot_pipeline.errors import UserError
from iot_pipeline.interrupts import raise_if_told
from iot_pipeline.lake.atomic import held, write_text
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import PROJECT_ROOT, Settings

# Dagster's error where a blocking check failed: it names the check, the manifest says why.
CHECK_FAILED = "DagsterAssetCheckFailedError"


@dataclass
class Outcome:
    """Outcome of a plan: artefacts that were materialised, fresh, failed (artefact, reason) or were not reached."""

    made: list[ArtefactId]
    fresh: list[ArtefactId]
    failed: list[tuple[ArtefactId, str]]
    left: list[ArtefactId]


def dagster_home(settings: Settings) -> Path:
    """Create the lake's own Dagster home, with the project's current dagster.yaml, and set DAGSTER_HOME.

    Raises UserError if it cannot be written.
    """
    lake = Lake(settings.lake_path)
    if "?" in str(lake.root):  # Dagster would make its databases at the path before it
        raise UserError(f"IOT_LAKE: {lake.root} has a `?`, which Dagster cannot have in a path; name another folder")
    lake.check_writable()
    home = lake.root / ".dagster"
    try:
        home.mkdir(exist_ok=True)
        write_text(home / "dagster.yaml", (PROJECT_ROOT / "dagster.yaml").read_text())
    except OSError as error:
        raise UserError(f"cannot write to {home} ({error.strerror}); mend its permissions or set IOT_LAKE") from None
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def locked(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Hold the run lock of a lake: one `run` at a time. The lock is released however the process ends."""
    busy = f"another `iot-pipeline run` is at work on {settings.lake_path}; wait for it"
    return held(dagster_home(settings) / RUN_LOCK, busy)


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
                description="recorded from its manifest: the process that made it was killed before it told Dagster",
                metadata={"path": dg.MetadataValue.path(str(lake.folder(p.artefact)))},
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
) -> Outcome:
    """Materialise stale artefacts, upstream first, and stop at the first failure.

    Finished artefacts stay and are not repeated.

    Args:
        definitions: All definitions of the project.
        settings: The present settings.
        planned: The plan, upstream first.
        force: True to rematerialise every artefact of the plan.
        accept_code: True to accept artefacts of another code version.

    Raises:
        KeyboardInterrupt: The process received SIGINT or SIGTERM.
    """
    home = dagster_home(settings)
    lake = Lake(settings.lake_path)
    outcome = Outcome([], [], [], [])
    with opened_instance(home) as instance:
        close_dead_runs(instance, home, RUN_LOCK)
        record_unrecorded(instance, lake, planned)
        job = job_of_all_assets(definitions)
        pools = {p.key: pool_of(definitions, p.key) for p in planned}
        waiting = list(plan.batches(planned))
        while waiting and not outcome.failed:
            raise_if_told()  # Dagster loses a signal that arrives as a run ends
            batch = waiting.pop(0)
            # An artefact may have become stale since the plan was made, because its inputs changed: check again.
            todo = [p for p in batch if force or plan.forecast(lake, settings, [p], accept_code)[p.artefact]]
            # A step that needs a pool has a run of its own, which starts once it holds a slot (see pool_slot).
            todo = list(itertools.takewhile(lambda p: pools[p.key] is None, todo)) or todo[:1]
            rest = [p for p in batch if p not in todo]
            if not todo:
                outcome.fresh += [p.artefact for p in rest]
                for p in rest:
                    announce(p.artefact, "fresh")
                continue
            if rest:
                waiting.insert(0, rest)
            first = todo[0]
            tell = functools.partial(announce, first.artefact, "waiting")
            # Dagster names the step of an asset like the asset.
            with pool_slot(instance, home, pools[first.key], first.artefact.asset, tell) as run_id:
                _run(job, instance, lake, todo, outcome, run_id)
        outcome.left = [p.artefact for batch in waiting for p in batch]
    return outcome


def _run(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    lake: Lake,
    todo: list[plan.Planned],
    outcome: Outcome,
    run_id: str,
) -> None:
    """Execute one Dagster run for artefacts of one partition.

    Args:
        job: The job of all assets.
        instance: The lake's Dagster instance.
        lake: The lake.
        todo: The artefacts to materialise.
        outcome: Receives each artefact under made, failed or left.
        run_id: Id of the run; it may already hold a slot of a pool.

    Raises:
        KeyboardInterrupt: The process received a signal to stop, which Dagster had intercepted.
    """
    result = job.execute_in_process(
        asset_selection=[p.key for p in todo],
        partition_key=todo[0].artefact.partition or None,
        instance=instance,
        raise_on_error=False,
        run_id=run_id,
        tags={RUN_TAG: "run", "dagster/max_retries": "0"},  # the daemon of a UI must not queue it again
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    raise_if_told()
    done = {event.asset_key for event in result.get_asset_materialization_events()}
    errors = {
        event.step_key: _sentence(event) for event in result.all_events if event.is_step_failure and event.step_key
    }
    if not result.success and not errors:  # the run failed without a failed step: a locked or full event log
        reasons = [event.message for event in result.all_events if event.is_failure and event.message]
        outcome.failed.append((todo[0].artefact, reasons[-1] if reasons else "the Dagster run failed"))
    for p in todo:
        manifest = lake.manifest(p.artefact)
        if (error := errors.get(p.artefact.asset)) is not None:
            checks = manifest.describe_failures() if manifest is not None and CHECK_FAILED in error else ""
            outcome.failed.append((p.artefact, f"blocking check did not pass: {checks}" if checks else error))
        elif p.key not in done:
            outcome.left.append(p.artefact)
        elif manifest is not None and (failed := manifest.describe_failures()):
            outcome.failed.append((p.artefact, f"blocking check did not pass: {failed}"))
        else:
            outcome.made.append(p.artefact)


def _sentence(event: dg.DagsterEvent) -> str:
    """Return the error sentence of a step failure: the description of a Failure, else the innermost error."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip() if error else "failed"
