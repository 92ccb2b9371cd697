"""What happens by itself: an edited prompt file is frozen anew, and what depends on it is made again.

Belongs here: conditions, sensors. Does not belong here: what assets do. Nothing is automated that trains: a
condition would request every stage at once, before the stage it starts from is new; retrain with `run` or a backfill.
"""

import hashlib
import json

import dagster as dg

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.defs.partitions import TRACKS
from iot_pipeline.errors import UserError
from iot_pipeline.settings import settings

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
    """Freeze each prompt file that was edited; a file that cannot be read as a prompt is reported and left."""
    before = json.loads(context.cursor or "{}")
    now = dict(before)
    requests, broken = [], []
    for track in TRACKS:
        path = settings().prompts / f"{track}.md"
        version = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if before.get(track) == version:
            continue
        try:
            load_prompt(path)
        except UserError as error:
            broken.append(str(error))
            continue
        now[track] = version
        # No run key: run keys are unique for ever, and a prompt set back to an older text must be frozen again.
        requests.append(dg.RunRequest(partition_key=track))
    context.update_cursor(json.dumps(now))
    if not requests:
        return dg.SkipReason("; ".join(broken) or "no prompt file changed")
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(now))


@dg.definitions
def automation() -> dg.Definitions:
    """The two sensors. Both are off until switched on in the UI: what they start may cost money."""
    data = dg.AutomationConditionSensorDefinition(
        "changed_inputs",
        target=dg.AssetSelection.groups("augmentation", "prompts") | dg.AssetSelection.keys("training_split"),
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    return dg.Definitions(sensors=[prompt_files, data])
