"""The zero-shot teacher: how well it names test flows by itself, beside students and baselines on the same flows."""

from collections import Counter
from typing import Any

import dagster as dg
import pyarrow as pa

from iot_pipeline.augmentation.zero_shot import accept, named_class
from iot_pipeline.defs.evaluation.arms import BASELINES, baseline_arms, student_arms
from iot_pipeline.defs.inputs import records_of
from iot_pipeline.defs.partitions import prompt_dep
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import EMBEDDED_LABEL, TeacherResource
from iot_pipeline.defs.tracks import prompt_of, zero_shot_requests
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.evaluation.zero_shot import compare_teacher
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.teacher.request import EMBEDDED_MODEL, Answer, is_embedded
from iot_pipeline.teacher.store.store import NO_ANSWER
from iot_pipeline.vocabulary import STAGES, ZERO_SHOT, staged

METRICS = [staged("eval_metrics", stage) for stage in STAGES]
NAMED, NO_VALID_CLASS = "named a class", "no valid class"


@dg.asset(
    group_name="evaluation",
    pool="teacher",
    deps=["flow_texts", "evaluation_split", prompt_dep(ZERO_SHOT), "automl_baseline", *METRICS],
)
def zero_shot_teacher(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource
) -> dg.MaterializeResult:
    """Zero-shot teacher: its classes for IOT_ZERO_SHOT_FLOWS test flows, beside every model's; 0: it is not asked."""
    with lake.step(context) as step:
        if step.settings.evaluation.zero_shot_flows:
            compare(step, *ask_classes(step, teacher))
        else:
            step.json("zero_shot.json", {"asked": 0})
            step.summarise(asked=0)
    return step.result()


def ask_classes(step: Step, teacher: TeacherResource) -> tuple[dict[str, Answer], str]:
    """Ask for the class of each sampled test flow; return the answers by flow group, and the teacher's source.

    Raises UserError if a request brought no answer at all, which says nothing about the teacher.
    """
    requests = zero_shot_requests(step, prompt_of(step, ZERO_SHOT))
    found: dict[str, Answer] = {}
    with teacher.open(step) as engine:
        engine.stream(requests.values(), accept, lambda answer: found.update({answer.key: answer}))
        step.json("usage.json", engine.summary.to_json(), volatile=True)
    answers = {group: found[request.key] for group, request in requests.items()}
    reasons = (answer.reasons[0] for answer in answers.values() if answer.reasons)
    missing = [reason.removeprefix(NO_ANSWER) for reason in reasons if reason.startswith(NO_ANSWER)]
    if missing:
        reason = Counter(missing).most_common(1)[0][0]
        raise UserError(
            f"{len(missing)} of {len(answers)} flows have no answer ({reason}); run again, the rest is kept"
        )
    return answers, engine.source


def compare(step: Step, answers: dict[str, Answer], source: str) -> None:
    """Score the teacher's classes beside every model's on the same flows, and write them with the answers."""
    classes, models = step.spec.classes, sorted({answer.model for answer in answers.values() if answer.model})
    embedded = is_embedded(source) or EMBEDDED_MODEL in models
    if embedded:
        step.provenance["label"] = EMBEDDED_LABEL
    named = {group: class_of(answer, classes) for group, answer in answers.items()}
    outcomes = Counter(outcome(answer, named[group]) for group, answer in answers.items())
    records = side_records(records_of(step), "test")
    records = records[records["flow_group"].isin([*answers])]
    side = read_side(records, classes)
    students, left_out = student_arms(step, side)
    arms = students | baseline_arms(step, side, {**BASELINES, "1-NN": "nearest", "majority class": "majority"})
    result = compare_teacher(records, named, arms, classes, step.settings.data.seed, " + ".join(models))
    told = {"asked": len(answers), "outcomes": outcomes, "embedded": embedded, "source": source, "left_out": left_out}
    step.json("zero_shot.json", told | result)
    write_answers(step, answers, named)
    step.summarise(asked=len(answers), **{name.replace(" ", "_"): count for name, count in outcomes.items()})
    step.table("arms", arm_rows(result))
    step.table("contrasts", result["contrasts"])


def class_of(answer: Answer, classes: list[str]) -> str | None:
    """Return the class that an answer names; None for one that was refused or cut off."""
    return named_class(answer.text, classes) if answer.status == "ok" else None


def outcome(answer: Answer, named: str | None) -> str:
    """Return what became of an answer: a class, none, or the engine's reason (refused, cut off)."""
    if answer.status != "ok":
        return answer.reasons[0].split(":")[0]
    return NAMED if named else NO_VALID_CLASS


def write_answers(step: Step, answers: dict[str, Answer], named: dict[str, str | None]) -> None:
    """Write each answer with its flow group and the class that it names; being of test flows, they feed no track."""
    rows = [
        {"flow_group": group, "class": named[group], "outcome": outcome(answer, named[group]), "answer": answer.text}
        for group, answer in answers.items()
    ]
    schema = pa.schema([(name, pa.string()) for name in rows[0]])
    write_table(step.folder / "answers.parquet", pa.Table.from_pylist(rows, schema))


def arm_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """List the models with mean and interval of each metric, for a table."""
    return [
        {"model": name}
        | {f"{metric}_{part}": of[part] for metric, of in arm.items() for part in ("mean", "low", "high")}
        for name, arm in result["arms"].items()
    ]
