"""Asset group augmentation: three tracks with one increment per stage, and the same rows, order and labels in each."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import dagster as dg
import pandas as pd

from iot_pipeline.augmentation.joining import Key
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.augmentation.track_files import TrackResult, read_answers, write_track
from iot_pipeline.augmentation.tracks import (
    TeacherProtocol,
    TrackConfig,
    build_feature_varied,
    build_original,
    build_paraphrased,
)
from iot_pipeline.augmentation.variation import Variation
from iot_pipeline.defs.automation import inputs_changed
from iot_pipeline.defs.partitions import prompt_dep, stage_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import EMBEDDED_LABEL, TeacherResource
from iot_pipeline.defs.texts import evaluation_prompts, one_text, text_spec, text_writer
from iot_pipeline.defs.versions import code_version
from iot_pipeline.flows.dataset import labelled_flows, pool_size, training_rows
from iot_pipeline.flows.split import stage_rows
from iot_pipeline.teacher_factory import as_objects

COMMON: dict[str, Any] = {
    "group_name": "augmentation",
    "owners": ["team:prompts"],
    "code_version": code_version(__name__),
    "kinds": {"openai", "jsonl"},
    "automation_condition": inputs_changed,
    "pool": "teacher",
}
DATA = ["flows", "evaluation_split", "training_order"]


def answered(asset: str, partitions: dg.PartitionsDefinition | None = stage_partitions) -> list[dg.AssetCheckSpec]:
    """Return the quarantine check, which blocks training if too many rows have no answer."""
    return [dg.AssetCheckSpec("quarantine_rate", asset=asset, blocking=True, partitions_def=partitions)]


def increment(step: Step) -> pd.DataFrame:
    """Return the rows that this stage adds; a train pool smaller than the stage is noted."""
    stage = step.artefact.partition
    order = step.input("training_order") / "order.parquet"
    start, stop, requested = stage_rows(stage, pool_size(order))
    if requested and stop < requested:
        step.note(stage_capped=f"the train pool has {stop:,} rows, fewer than stage {stage}")
    return training_rows(step.input("flows") / "flows.parquet", order, start, stop)


def prompt_of(step: Step, track: str) -> PromptFile:
    """Load the prompt snapshot of a track."""
    return load_prompt(step.input("prompt", track) / "prompt.md", model=step.settings.teacher.model)


def brief(step: Step) -> TrackConfig:
    """Return the track config: what the teacher receives besides flow and label."""
    chosen = step.settings
    return TrackConfig(
        spec=text_spec(step),
        words=chosen.teacher.explanation_words,
        order=chosen.teacher.answer_order,
        serialisation=chosen.data.serialisation,
        seed=chosen.data.seed,
        objects=as_objects(chosen),
    )


# What each track asks of a teacher, or of a survey that only counts (commands/estimate.py).


def ask_original(step: Step, prompt: PromptFile, engine: TeacherProtocol) -> TrackResult:
    """Ask for the increment's original answers."""
    return build_original(increment(step), prompt, engine, brief(step), step.log, text_writer(step))


def ask_validation(step: Step, prompt: PromptFile, engine: TeacherProtocol) -> TrackResult:
    """Ask for answers to validation flows."""
    rows = labelled_flows(
        step.input("flows") / "flows.parquet",
        step.input("evaluation_split") / "records.parquet",
        "validation",
        step.settings.teacher.validation_flows,
        step.settings.data.seed,
    )
    rows = rows.assign(position=range(len(rows)), repeat=0)
    return build_original(rows, prompt, engine, brief(step), step.log, text_writer(step))


def ask_paraphrased(step: Step, prompt: PromptFile, engine: TeacherProtocol, answers: Mapping[Key, str]) -> TrackResult:
    """Ask for paraphrases of the increment's `answers`."""
    return build_paraphrased(increment(step), answers, prompt, engine, brief(step), step.log, text_writer(step))


def ask_feature_varied(
    step: Step, prompt: PromptFile, engine: TeacherProtocol, answers: Mapping[Key, str]
) -> TrackResult:
    """Vary flows of the increment and ask for their answers."""
    forbidden = evaluation_prompts(step)
    return build_feature_varied(
        increment(step),
        answers,
        prompt,
        engine,
        brief(step),
        variation=Variation(step.settings.teacher.variation),
        to_text=one_text(step),
        forbidden=forbidden,
        log=step.log,
        to_texts=text_writer(step),
    )


def finish(step: Step, result: TrackResult) -> None:
    """Write a track, show its counts, and check its quarantine rate."""
    write_track(result, step.folder)
    step.json("report.json", result.report)
    step.json("usage.json", result.usage, volatile=True)
    step.volatile("provenance.parquet")
    if result.usage["embedded"]:
        step.provenance["label"] = EMBEDDED_LABEL
    step.note(rows=result.rows, quarantined=result.quarantined, **result.headline)
    step.table("by_class", result.report["by_class"])
    reasons = result.report["quarantine_reasons"]
    step.table("quarantined_by_reason", [{"reason": reason, "rows": n} for reason, n in reasons.items()])
    for example in islice(result.chat_rows(), 1):
        step.metadata["example"] = dg.MetadataValue.md(
            "\n\n".join(f"**{part['role']}**\n```\n{part['content']}\n```" for part in example["messages"])
        )
    limit = step.settings.teacher.max_quarantined_share
    share = result.quarantined / max(1, result.quarantined + result.rows)
    step.check("quarantine_rate", share <= limit, share=share, limit=limit)


@dg.asset(
    **COMMON, partitions_def=stage_partitions, deps=[*DATA, prompt_dep("original")], check_specs=answered("original")
)
def original(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
    """Original track: one explanation for each flow group and label of the stage's increment, shared by its rows."""
    with lake.step(context) as step:
        with teacher.open(step) as engine:
            result = ask_original(step, prompt_of(step, "original"), engine)
        finish(step, result)
    return step.result()


@dg.asset(**COMMON, deps=[*DATA, prompt_dep("original")], check_specs=answered("validation_answers", None))
def validation_answers(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Explanations of validation flows: the one set on which the loss of every track and stage is measured."""
    with lake.step(context) as step:
        with teacher.open(step) as engine:
            result = ask_validation(step, prompt_of(step, "original"), engine)
        finish(step, result)
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
        answers = read_answers(step.input("original", context.partition_key))
        with teacher.open(step) as engine:
            result = ask_paraphrased(step, prompt_of(step, "paraphrased"), engine, answers)
        finish(step, result)
    return step.result()


@dg.asset(
    **COMMON,
    partitions_def=stage_partitions,
    check_specs=answered("feature_varied"),
    deps=[*DATA, prompt_dep("feature_varied"), "original"],
)
def feature_varied(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Feature-varied track: the first row of a group stays as it is, each further row is varied and explained anew."""
    with lake.step(context) as step:
        answers = read_answers(step.input("original", context.partition_key))
        with teacher.open(step) as engine:
            result = ask_feature_varied(step, prompt_of(step, "feature_varied"), engine, answers)
        finish(step, result)
    return step.result()
