"""Right reasons of students' explanations: expected evidence, deletion on the student, free baselines beside."""

from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from iot_pipeline.defs.evaluation.free_file import FREE, read_free
from iot_pipeline.defs.evaluation.students import DATA, class_scores, explained_flows, student
from iot_pipeline.defs.inputs import records_of, writer_of
from iot_pipeline.defs.partitions import checkpoint_dep, stage_dep, student_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.predictions import EXPLANATIONS
from iot_pipeline.evaluation.right_reasons import STUDENT, compare_reasons
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.vocabulary import STAGES, staged


def reasons(stage: str) -> dg.AssetsDefinition:
    """Define the right-reason asset of one stage."""

    @dg.asset(
        group_name="evaluation",
        name=staged("reasons", stage),
        partitions_def=student_partitions(),
        deps=[
            *DATA,
            checkpoint_dep(staged("lora_checkpoint", stage)),
            staged("explanation_quality", stage),
            stage_dep("reason_baselines", stage),
        ],
        pool="gpu",
        description=f"Reasons that students of stage {stage} give for test flows in free writing, by rule: expected "
        "evidence named, deletion on the student, agreement with LightGBM's SHAP values, class without class words; "
        "paired with a template over LightGBM and SHAP and with a shallow tree in words.",
    )
    def judged(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            result = judge(step, stage)
            step.json("reasons.json", result)
            step.summarise(
                **result["sentences"], **{row["measure"]: row["value"] for row in result["measures"][STUDENT]}
            )
            step.table("measures", [{"of": who, **row} for who, rows in result["measures"].items() for row in rows])
            step.table(
                "verdicts", [{"against": who, **row} for who, rows in result["verdicts"].items() for row in rows]
            )
        return step.result()

    return judged


def judge(step: Step, stage: str) -> dict[str, Any]:
    """Judge the student's explanations of test flows beside the free baselines'."""
    classes, partition = step.spec.classes, step.artefact.partition
    groups, texts = explained_flows(step)
    folder = step.input(staged("explanation_quality", stage), partition)
    written = pq.read_table(folder / EXPLANATIONS).to_pandas().set_index("flow_group").loc[groups]
    free = read_free(step.input("reason_baselines", stage) / FREE, groups, classes)
    side = read_side(side_records(records_of(step), "test"), classes)
    label_of = {group: classes[code] for group, code in zip(side.group_ids, side.majority, strict=True)}
    with student(step, stage) as model:
        return compare_reasons(
            writer_of(step),
            dict(zip(groups, texts, strict=True)),
            [label_of[group] for group in groups],
            (written["label"].tolist(), written["free"].tolist()),
            free,
            lambda asked: class_scores(step, model, asked),
            step.settings.evaluation.deletion_flows,
            step.settings.data.seed,
        )


reason_assets = [reasons(stage) for stage in STAGES]
