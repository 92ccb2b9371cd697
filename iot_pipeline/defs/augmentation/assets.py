"""Asset group augmentation: three tracks with one increment per stage, and the same rows, order and labels in each."""

import contextlib
import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

import dagster as dg

from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import TrackResult, join
from iot_pipeline.augmentation.plan import TrackPlan
from iot_pipeline.defs.checks import check_specs
from iot_pipeline.defs.column_lineage import answers_columns
from iot_pipeline.defs.partitions import prompt_dep, stage_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import EMBEDDED_LABEL, TeacherResource
from iot_pipeline.defs.tracks import increment, prompt_of, track_plan, validation_rows
from iot_pipeline.escaping import fenced
from iot_pipeline.teacher.redaction import shown_words

COMMON: dict[str, Any] = {"group_name": "augmentation", "pool": "teacher"}
DATA = ["flow_texts", "training_order"]
# Distinct answers of which another one has most of the wording, features and numbers masked.
MOST_NEAR_COPIES = 0.05
MOST_KINDS = 5  # of reasons that a blocked track tells
ASK_AGAIN = "mend the cause; `iot-pipeline teacher retry` has quarantined ones asked again"

# Below half, most repeat rows hold the original's features, and the name of the track says what is not so.
LEAST_VARIED = 0.5
ANSWERED = ("quarantine_rate", "yield_by_class", "near_copies")  # checks of all answers


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
    with contextlib.closing(plan), teacher.open(step) as engine:
        ask(plan, engine, step.folder, step.log)
    return join(plan, step.folder, engine.source)


def finish(step: Step, result: TrackResult) -> None:
    """Show the counts of a track, and check them."""
    report = result.report
    step.json("report.json", report)
    step.json("usage.json", result.usage, volatile=True)
    # The first two tell how the answers came about; equal answers make an equal track.
    step.volatile("requests.parquet", "provenance.parquet")
    if result.usage["embedded"]:
        step.provenance["label"] = EMBEDDED_LABEL
    step.summarise(rows=report["rows"], quarantined=report["quarantined"], **result.headline)
    if "share_varied" in report:
        step.summarise(share_varied=report["share_varied"])
        step.table("variations", report["variations_by_class"])
    step.table("by_class", report["by_class"])
    diversity = report["diversity"]
    step.table("diversity", [{"text": way, **diversity[way]} for way in ("raw", "masked")])
    reasons = report["quarantine_reasons"]
    step.table("quarantined_by_reason", [{"reason": reason, "rows": n} for reason, n in reasons.items()])
    with (step.folder / "track.jsonl").open(encoding="utf-8") as lines:
        for line in islice(lines, 1):
            turns = json.loads(line)["messages"]
            example = "\n\n".join(f"**{turn['role']}**\n{fenced(turn['content'])}" for turn in turns)
            step.metadata["example"] = dg.MetadataValue.md(example)
    step.preview("provenance.parquet", answers_columns(step.artefact.asset, step.spec.feature_names))
    judge(step, report, result.examples)


def judge(step: Step, report: dict[str, Any], examples: Sequence[tuple[str, int, str]] = ()) -> None:
    """Check a track's quarantine rate, its yield by class, its near-copies and its share of varied rows.

    `examples` are (kind, rows, one of its reasons) of what is quarantined.
    """
    limit = step.settings.teacher.max_quarantined_share
    share = report["quarantined"] / max(1, report["quarantined"] + report["rows"])
    told: dict[str, Any] = {"reasons": [described(*one) for one in examples[:MOST_KINDS]]} if examples else {}
    if share > limit:
        told["advice"] = ASK_AGAIN
    step.check("quarantine_rate", share <= limit, share=share, limit=limit, **told)
    poor = {row["class"]: row["yield"] for row in report["by_class"] if is_poor(row, limit)}
    step.check("yield_by_class", not poor, below=poor, limit=1 - limit)
    near, exact = report["diversity"]["masked"]["near_duplicates"] or 0.0, report["exact_copies"]
    differ = max(near, exact) <= MOST_NEAR_COPIES
    step.check("near_copies", differ, share=near, exact_copies=exact, limit=MOST_NEAR_COPIES)
    if step.artefact.asset == "feature_varied":
        varied = report.get("share_varied", 0.0)  # without repeat rows nothing was varied
        step.check("share_varied", varied >= LEAST_VARIED, share=varied, limit=LEAST_VARIED)


def described(kind: str, rows: int, example: str) -> str:
    """Describe one kind of quarantined rows with an example; a server's or a model's words come inert and short."""
    kind, detail = shown_words(kind), shown_words(example.partition(":")[2])
    return f"{rows:,} {'row' if rows == 1 else 'rows'} {kind}" + (f", such as: {detail}" if detail else "")


def is_poor(row: dict[str, Any], limit: float) -> bool:
    """Return True if more of a class is quarantined than `limit`, beyond chance (exact, one in 40).

    One of three rows is no evidence against a limit of 2 %.
    """
    rows = row["rows"] + row["quarantined"]
    if row["quarantined"] <= limit * rows:
        return False
    from scipy.stats import binom

    return bool(binom.sf(row["quarantined"] - 1, rows, limit) < 0.025)


@dg.asset(
    **COMMON,
    partitions_def=stage_partitions,
    deps=[*DATA, prompt_dep("original")],
    check_specs=check_specs("original", *ANSWERED, partitions=stage_partitions),
)
def original(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
    """Original track: one explanation for each flow group and label of the stage's increment, shared by its rows."""
    with lake.step(context) as step:
        make_track(step, teacher, "original")
    return step.result()


@dg.asset(
    **COMMON,
    deps=["flow_texts", "evaluation_split", prompt_dep("original")],
    check_specs=check_specs("validation_answers", *ANSWERED),
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
    check_specs=check_specs("paraphrased", *ANSWERED, partitions=stage_partitions),
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
    check_specs=check_specs("feature_varied", *ANSWERED, "share_varied", partitions=stage_partitions),
    deps=[*DATA, "flows", "evaluation_split", prompt_dep("feature_varied"), "original"],
)
def feature_varied(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Feature-varied track: the first row of a group stays as it is, each further row is varied and explained anew."""
    with lake.step(context) as step:
        make_track(step, teacher, "feature_varied")
    return step.result()
