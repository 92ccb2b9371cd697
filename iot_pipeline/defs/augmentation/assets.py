"""Asset group augmentation: three tracks with one increment per stage, and the same rows, order and labels in each."""

import json
from itertools import islice
from typing import Any

import dagster as dg

from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import TrackResult, join
from iot_pipeline.augmentation.plan import TrackPlan
from iot_pipeline.defs.automation import inputs_changed
from iot_pipeline.defs.partitions import prompt_dep, stage_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import EMBEDDED_LABEL, TeacherResource
from iot_pipeline.defs.tracks import increment, prompt_of, track_plan, validation_rows

COMMON: dict[str, Any] = {"group_name": "augmentation", "automation_condition": inputs_changed, "pool": "teacher"}
DATA = ["flow_texts", "training_order"]


def answered(asset: str, partitions: dg.PartitionsDefinition | None = stage_partitions) -> list[dg.AssetCheckSpec]:
    """Return the quarantine check, which blocks training if too many rows have no answer."""
    return [dg.AssetCheckSpec("quarantine_rate", asset=asset, blocking=True, partitions_def=partitions)]


def make_track(step: Step, teacher: TeacherResource, track: str) -> None:
    """Make the increment of a track: plan, ask, join, then show and check it."""
    stage = step.artefact.partition
    rows, pool = increment(step, stage)
    if pool is not None:
        step.summarise(stage_capped=f"the train pool has {pool:,} rows, fewer than stage {stage}")
    originals = step.input("original", stage) if track != "original" else None
    plan = track_plan(step, track, rows, prompt_of(step, track), step.folder, originals)
    finish(step, answered_rows(step, teacher, plan))


def answered_rows(step: Step, teacher: TeacherResource, plan: TrackPlan) -> TrackResult:
    """Ask the teacher what the rows of a plan need, and join its answers to them."""
    with teacher.open(step) as engine:
        ask(plan, engine, step.folder, step.log)
    return join(plan, step.folder, engine.source)


def finish(step: Step, result: TrackResult) -> None:
    """Show the counts of a track, and check its quarantine rate."""
    report = result.report
    step.json("report.json", report)
    step.json("usage.json", result.usage, volatile=True)
    # The first two tell how the answers came about; equal answers make an equal track.
    step.volatile("requests.parquet", "provenance.parquet")
    if result.usage["embedded"]:
        step.provenance["label"] = EMBEDDED_LABEL
    step.summarise(rows=report["rows"], quarantined=report["quarantined"], **result.headline)
    step.table("by_class", report["by_class"])
    reasons = report["quarantine_reasons"]
    step.table("quarantined_by_reason", [{"reason": reason, "rows": n} for reason, n in reasons.items()])
    with (step.folder / "track.jsonl").open(encoding="utf-8") as lines:
        for line in islice(lines, 1):
            turns = json.loads(line)["messages"]
            example = "\n\n".join(f"**{turn['role']}**\n```\n{turn['content']}\n```" for turn in turns)
            step.metadata["example"] = dg.MetadataValue.md(example)
    limit = step.settings.teacher.max_quarantined_share
    share = report["quarantined"] / max(1, report["quarantined"] + report["rows"])
    step.check("quarantine_rate", share <= limit, share=share, limit=limit)


@dg.asset(
    **COMMON, partitions_def=stage_partitions, deps=[*DATA, prompt_dep("original")], check_specs=answered("original")
)
def original(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
    """Original track: one explanation for each flow group and label of the stage's increment, shared by its rows."""
    with lake.step(context) as step:
        make_track(step, teacher, "original")
    return step.result()


@dg.asset(
    **COMMON,
    deps=["flow_texts", "evaluation_split", prompt_dep("original")],
    check_specs=answered("validation_answers", None),
)
def validation_answers(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Explanations of validation flows: the one set on which the loss of every track and stage is measured."""
    with lake.step(context) as step:
        plan = track_plan(step, "original", validation_rows(step), prompt_of(step, "original"), step.folder)
        finish(step, answered_rows(step, teacher, plan))
    return step.result()


@dg.asset(
    **COMMON,
    partitions_def=stage_partitions,
    check_specs=answered("paraphrased"),
    deps=[*DATA, prompt_dep("paraphrased"), "original"],
)
def paraphrased(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Paraphrased track: the first row of a group has the original answer, each further row a paraphrase of its own."""
    with lake.step(context) as step:
        make_track(step, teacher, "paraphrased")
    return step.result()


@dg.asset(
    **COMMON,
    partitions_def=stage_partitions,
    check_specs=answered("feature_varied"),
    deps=[*DATA, "flows", "evaluation_split", prompt_dep("feature_varied"), "original"],
)
def feature_varied(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Feature-varied track: the first row of a group stays as it is, each further row is varied and explained anew."""
    with lake.step(context) as step:
        make_track(step, teacher, "feature_varied")
    return step.result()
