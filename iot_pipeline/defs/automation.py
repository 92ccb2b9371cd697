"""Automation: snapshot edited prompts and rematerialise what depends on them.

Nothing is automated that trains: a condition would request every stage at once, before the stage it starts from is
new; retrain with `run` or a backfill.
"""

import json
from pathlib import Path

import dagster as dg

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import settings
from iot_pipeline.vocabulary import TRACKS

AC = dg.AutomationCondition

# `newly_updated` fires on every upstream run, equal content or not; replaced by a change of the data version.
_dependency_changed = AC.any_deps_updated().replace("newly_updated", AC.data_version_changed())
_changed = (AC.code_version_changed() | _dependency_changed).since(AC.newly_requested() | AC.initial_evaluation())

# Not AC.all_deps_blocking_checks_passed(): it counts an upstream asset of which a partition needs nothing (the
# original track for training_split[10K|paraphrased]) as failed, so that the partition is never requested.
_failed_check = AC.any_checks_match(~(AC.check_passed() | AC.will_be_requested()), blocking_only=True)

inputs_changed = (
    # The edge is eaten by a run that fails; a failure is followed by one more attempt.
    (_changed | AC.execution_failed().newly_true())
    # An artefact nobody has made yet is made by a first run, not by itself: it may cost money.
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
    """Request a snapshot of each prompt file that differs from the snapshot in the lake.

    The cursor holds the version last requested of each track whose snapshot still differs, so that one edit makes one
    run. An edit made while the daemon was down is seen, and so is a prompt set back to an older text. A prompt without
    a snapshot is left to a first run, as every artefact that nobody has made yet. What cannot be read is told as the
    reason of the tick; the other prompts go on.
    """
    try:
        chosen = settings()
        lake = Lake(chosen.lake_path)
    except UserError as error:
        return dg.SkipReason(str(error))
    requested = json.loads(context.cursor or "{}")
    waiting, requests, told = {}, [], []
    for track in TRACKS:
        try:
            version = _edited(lake, chosen.prompts, track)
        except UserError as error:
            told.append(str(error))
            continue
        if version is None:
            continue
        waiting[track] = version
        if requested.get(track) == version:
            told.append(f"the edited prompt of {track} was requested before; if that run failed, materialise it again")
        else:  # no run key: run keys are unique for ever, and a prompt set back to an older text must be frozen again
            requests.append(dg.RunRequest(partition_key=track))
    reason = "; ".join(told) or "every prompt equals its snapshot"
    return dg.SensorResult(requests, cursor=json.dumps(waiting), skip_reason=None if requests else reason)


def _edited(lake: Lake, prompts: Path, track: str) -> str | None:
    """Hash of a track's prompt file; None where it equals its snapshot or has none. UserError: it cannot be read."""
    artefact = ArtefactId("prompt", track)
    if lake.manifest(artefact) is None:
        return None
    prompt, snapshot = load_prompt(prompts / f"{track}.md"), lake.folder(artefact) / "prompt.md"
    frozen = snapshot.is_file() and snapshot.read_bytes() == prompt.source.encode()
    return None if frozen else prompt.sha256


@dg.definitions
def automation() -> dg.Definitions:
    """The two sensors. Both are off until switched on in the UI: what they start may cost money."""
    data = dg.AutomationConditionSensorDefinition(
        "changed_inputs",
        target=dg.AssetSelection.groups("augmentation", "prompts") | dg.AssetSelection.keys("training_split"),
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    return dg.Definitions(sensors=[prompt_files, data])
