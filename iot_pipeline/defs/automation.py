"""Automation: snapshot edited prompts and rematerialise what depends on them.

Training is not automated: a condition would request every stage at once, before the stage it starts from is new.
Retrain with `run` or a backfill.
"""

import json
from pathlib import Path

import dagster as dg

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import settings
from iot_pipeline.vocabulary import STAGES, TRACKS, ZERO_SHOT, staged

AC = dg.AutomationCondition

# `newly_updated` fires on every upstream run, even with equal content, so it is replaced by a changed data version.
_dependency_changed = AC.any_deps_updated().replace("newly_updated", AC.data_version_changed())
_changed = (AC.code_version_changed() | _dependency_changed).since(AC.newly_requested() | AC.initial_evaluation())

# Not AC.all_deps_blocking_checks_passed(): if a partition uses no partition of an upstream asset (`original` for
# training_split_10K[paraphrased]), it counts that asset as failed, and the partition is never requested.
_failed_check = AC.any_checks_match(~(AC.check_passed() | AC.will_be_requested()), blocking_only=True)

inputs_changed = (
    # A failed run consumes the change, so each failure is followed by one more attempt.
    (_changed | AC.execution_failed().newly_true())
    # A missing artefact waits for a first run started by the user, because it may cost money.
    & ~AC.missing()
    & ~AC.any_deps_match(_failed_check)
    & ~AC.any_deps_missing()
    & ~AC.any_deps_in_progress()
    & ~AC.in_progress()
).with_label("inputs_changed")


@dg.sensor(
    target=dg.AssetSelection.keys("prompt"), minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.STOPPED
)
def prompt_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a snapshot of each prompt file that differs from its snapshot in the lake.

    The cursor stores, for each prompt whose snapshot still differs, that snapshot and the text last requested, so one
    edit starts one run; a snapshot that another edit changed meanwhile is requested again.
    Edits made while the daemon was down are found, and so is a prompt set back to an older text. A prompt without a
    snapshot waits for a first run, like every artefact that was never materialised. An unreadable file does not stop
    the other prompts; a tick that requests nothing reports it as the skip reason.
    """
    try:
        chosen = settings()
        lake = Lake(chosen.lake_path)
    except UserError as error:
        return dg.SkipReason(str(error))
    requested = json.loads(context.cursor or "{}")
    waiting, requests, told = {}, [], []
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
            told.append(f"the edited prompt of {track} was requested before; if that run failed, materialise it again")
        else:  # no run key: it could be used only once, and a prompt set back to an older text needs a new snapshot
            requests.append(dg.RunRequest(partition_key=track))
    reason = "; ".join(told) or "every prompt equals its snapshot"
    return dg.SensorResult(requests, cursor=json.dumps(waiting), skip_reason=None if requests else reason)


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
    """Return both sensors. They are off until switched on in the UI, because their runs may cost money."""
    data = dg.AutomationConditionSensorDefinition(
        "changed_inputs",
        target=dg.AssetSelection.groups("augmentation", "prompts")
        | dg.AssetSelection.keys(*(staged("training_split", stage) for stage in STAGES)),
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    return dg.Definitions(sensors=[prompt_files, data])
