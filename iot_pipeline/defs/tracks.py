"""Requests of tracks and zero-shot teacher, for the assets that ask them and for the estimate that only counts."""

from pathlib import Path

from iot_pipeline.augmentation.join import read_answers
from iot_pipeline.augmentation.plan import FlowRequest, TrackConfig, TrackPlan
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.augmentation.variation import Variation, VariationConfig, fit_varier
from iot_pipeline.augmentation.zero_shot import sample_groups, zero_shot_request
from iot_pipeline.defs.inputs import Reader, flows_of, order_of, records_of, texts_of, writer_of
from iot_pipeline.flows.dataset import Rows, ordered_rows, pool_size, sampled_rows, side_texts
from iot_pipeline.flows.split import stage_rows
from iot_pipeline.teacher_factory import as_objects


def prompt_of(step: Reader, track: str) -> PromptFile:
    """Load the prompt snapshot of a track."""
    return load_prompt(step.input("prompt", track) / "prompt.md", model=step.settings.teacher.model)


def increment(step: Reader, stage: str) -> tuple[Rows, int | None]:
    """Return the rows that a stage adds, and the size of the train pool if it is smaller than the stage."""
    order = order_of(step)
    start, stop, requested = stage_rows(stage, pool_size(order))
    return ordered_rows(order, start, stop), stop if requested and stop < requested else None


def validation_rows(step: Reader) -> Rows:
    """Return the validation flows that the teacher explains."""
    settings = step.settings
    return sampled_rows(records_of(step), "validation", settings.teacher.validation_flows, settings.data.split_seed)


def track_config(step: Reader) -> TrackConfig:
    """Return the track config: what the teacher receives besides flow and label."""
    chosen = step.settings
    return TrackConfig(
        spec=writer_of(step).spec,
        words=chosen.teacher.explanation_words,
        order=chosen.teacher.answer_order,
        serialisation=chosen.data.serialisation,
        seed=chosen.teacher.seed,
        objects=as_objects(chosen),
        marked=chosen.teacher.facts == "marked",
    )


def track_plan(
    step: Reader, track: str, rows: Rows, prompt: PromptFile, folder: Path, originals: Path | None = None
) -> TrackPlan:
    """Return the plan of a track.

    Args:
        step: Reader of the lake.
        track: Name of the track.
        rows: Rows of the track.
        prompt: Prompt file of the track.
        folder: Folder of requests.parquet.
        originals: Folder of the same rows' original track, for the other tracks.
    """
    plan = TrackPlan(rows, texts_of(step), prompt, track_config(step), folder / "requests.parquet")
    if originals is not None:
        plan.answers = read_answers(originals)
    if track == "feature_varied":
        plan.flows = flows_of(step)
        teacher = step.settings.teacher
        config = VariationConfig(
            Variation(teacher.variation), teacher.variation_min_p, teacher.seed, step.settings.data.source == "simulate"
        )
        plan.varier = fit_varier(config, rows, plan.flows, records_of(step), step.input("flow_texts"), step.spec)
    return plan


def zero_shot_requests(step: Reader, prompt: PromptFile) -> dict[str, FlowRequest]:
    """Return the zero-shot teacher's request by flow group, for a sample of the distinct test flows."""
    flows = side_texts(texts_of(step), records_of(step), "test").set_index("flow_group")["text"]
    count, seed = step.settings.evaluation.zero_shot_flows, step.settings.data.seed
    config = track_config(step)
    return {
        group: zero_shot_request(flows[group], prompt, config)
        for group in sample_groups(flows.index.tolist(), count, seed)
    }
