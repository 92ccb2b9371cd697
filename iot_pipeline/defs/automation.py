"""Automation: a schedule that makes what is stale, and a sensor that makes an edited prompt's track again.

Both start jobs that decide by the manifests. Dagster's automation conditions see edges: a failed run eats one, and one
of a daemon that was down is never seen. A manifest that differs from its inputs is seen whenever somebody looks.
"""

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.defs.jobs import Making, config_of
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings, load_settings, settings
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import is_paid, store_of
from iot_pipeline.vocabulary import TRACKS, ZERO_SHOT

ALWAYS, TRAINING = ["data", "augment", "report"], ["train_track", "evaluate"]
CAUSE_TAG = "iot_pipeline/cause"  # what started a run by itself
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


def ledger_limit(chosen: Settings, now: datetime | None = None) -> float | None:
    """Return the dollars that the ledger may reach today by automatic runs; None where the teacher costs nothing.

    That is what was spent before today, and IOT_SCHEDULE_BUDGET_USD; never above IOT_TEACHER_BUDGET_USD. A run keeps
    the limit that it started with, so that a retry does not begin a new day's budget. What was spent today by hand
    counts.
    """
    if not is_paid(chosen):
        return None
    before, location = 0.0, store_of(chosen)
    if exists(location):
        now = now or datetime.now(ZoneInfo(chosen.run.schedule_timezone))
        with Store(location, read_only=True) as store:
            before = store.spent_usd() - store.spent_since(now.replace(hour=0, minute=0, second=0, microsecond=0))
    return round(min(chosen.run.teacher_budget_usd, max(0.0, before) + chosen.run.schedule_budget_usd), 6)


def request(chosen: Settings, name: str, cause: str, parts: list[str], prompts: list[str]) -> dg.RunRequest:
    """Return the request for a job that makes what has become stale.

    Args:
        chosen: The present settings.
        name: Name of the job.
        cause: What starts the run, for its tags.
        parts: Parts that it makes; those that train are added where the settings let them.
        prompts: Prompts whose artefacts alone it makes; empty for all.
    """
    allowed = [*parts, *(TRAINING if chosen.run.schedule_training else [])]
    making = Making(parts=allowed, prompts=prompts, missing=False, budget_usd=ledger_limit(chosen))
    return dg.RunRequest(job_name=name, run_config=config_of(name, making), tags={CAUSE_TAG: cause})


def spends(chosen: Settings) -> str:
    """Say what automatic runs may spend and train under the present settings."""
    run = chosen.run
    training = "Trains and evaluates too" if run.schedule_training else "Trains nothing (IOT_SCHEDULE_TRAINING=false)"
    return (
        f"Makes only what has become stale; what was never made waits for a first run. Teacher work: at most "
        f"${run.schedule_budget_usd:g} a day (IOT_SCHEDULE_BUDGET_USD), within ${run.teacher_budget_usd:g} in all "
        f"(IOT_TEACHER_BUDGET_USD); a teacher that costs nothing is asked freely. Where the day's budget ends, answers "
        f"so far are kept, and the next run goes on. {training}. "
        f"{'On' if run.automation == 'on' else 'Off'} at first (IOT_AUTOMATION={run.automation})."
    )


def nightly(chosen: Settings) -> dg.ScheduleDefinition:
    """Define the schedule that makes what is stale.

    Raises UserError for a cron line that is none.
    """
    run = chosen.run

    @dg.schedule(
        job_name="everything",
        cron_schedule=run.schedule_cron,
        execution_timezone=run.schedule_timezone,
        description=f"Data and reports always, teacher work within a budget. {spends(chosen)}",
        default_status=dg.DefaultScheduleStatus.RUNNING if run.automation == "on" else dg.DefaultScheduleStatus.STOPPED,
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            chosen = load_settings()  # as `.env` is now: the code location may have been loaded weeks ago
            if not Lake(chosen.lake_path, read_only=True).artefacts():
                return dg.SkipReason("the lake is empty: start with `iot-pipeline run` or the job `everything`")
            filters = dg.RunsFilter(tags={CAUSE_TAG: "schedule"}, statuses=UNFINISHED)
            if found := context.instance.get_runs(filters, limit=1):
                return dg.SkipReason(f"run {found[0].run_id[:8]} of the schedule is not finished: it goes on")
            return request(chosen, "everything", "schedule", ALWAYS, [])
        except UserError as error:
            return dg.SkipReason(str(error))

    return nightly


def prompt_files(chosen: Settings) -> dg.SensorDefinition:
    """Define the sensor of prompt files."""
    on = chosen.run.automation == "on"

    @dg.sensor(
        job_name="augment",
        minimum_interval_seconds=30,
        description="Makes the track of an edited prompt again, and the reports. " + spends(chosen),
        default_status=dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED,
    )
    def prompt_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Request `augment` for the prompts that differ from their snapshots in the lake.

        The cursor stores, for each prompt whose snapshot still differs, that snapshot and the text last requested, so
        one edit starts one run; a snapshot that another edit changed meanwhile is requested again. Edits made while the
        daemon was down are found, and so is a prompt set back to an older text. A prompt without a snapshot waits for a
        first run. An unreadable file does not stop the other prompts; a tick that requests nothing says why.
        """
        try:
            chosen = load_settings()
            waiting, edited, told = edits(chosen, json.loads(context.cursor or "{}"))
            if not edited:
                reason = "; ".join(told) or "every prompt equals its snapshot"
                return dg.SensorResult(cursor=json.dumps(waiting), skip_reason=reason)
            found = request(chosen, "augment", f"edited: {', '.join(edited)}", ["augment", "report"], edited)
            return dg.SensorResult([found], cursor=json.dumps(waiting))
        except UserError as error:
            return dg.SkipReason(str(error))

    return prompt_files


def edits(chosen: Settings, requested: dict[str, str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Look at the prompt files.

    Returns the version of each that differs from its snapshot, the tracks among them that were not requested before,
    and sentences about the others.
    """
    lake = Lake(chosen.lake_path)
    waiting: dict[str, str] = {}
    edited, told = [], []
    for track in (*TRACKS, ZERO_SHOT):
        try:
            version = _edited(lake, chosen.teacher.prompts, track)
        except UserError as error:
            told.append(str(error))
            continue
        if version is None:
            continue
        waiting[track] = version
        if requested.get(track) == version:
            told.append(f"the edited prompt of {track} was requested before; if that run failed, run `augment` again")
        else:  # no run key: it could be used only once, and a prompt set back to an older text needs a new snapshot
            edited.append(track)
    return waiting, edited, told


def _edited(lake: Lake, prompts: Path, track: str) -> str | None:
    """Return the versions of a track's snapshot and file, `old -> new`; None if they are equal or there is no snapshot.

    Raises UserError if the file cannot be read.
    """
    artefact = ArtefactId("prompt", track)
    manifest = lake.manifest(artefact)
    if manifest is None:
        return None
    prompt, snapshot = load_prompt(prompts / f"{track}.md"), lake.folder(artefact) / "prompt.md"
    frozen = snapshot.is_file() and snapshot.read_bytes() == prompt.source.encode()
    return None if frozen else f"{manifest.data_version} -> {prompt.sha256}"


@dg.definitions
def automation() -> dg.Definitions:
    """Return schedule and sensor of the present settings; UserError if the cron line is none."""
    chosen = settings()
    try:
        return dg.Definitions(schedules=[nightly(chosen)], sensors=[prompt_files(chosen)])
    except dg.DagsterInvalidDefinitionError as error:
        raise UserError(
            f"IOT_SCHEDULE_CRON={chosen.run.schedule_cron}: {error}; write minute, hour, day, month, weekday"
        ) from None
