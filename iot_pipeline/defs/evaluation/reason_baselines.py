"""Free baselines of explanations on a stage's rows, and the teacher, by the rules of right reasons."""

import json

import dagster as dg
import pandas as pd

from iot_pipeline.augmentation.answers import parse_answer
from iot_pipeline.baseline.contributions import explain_lightgbm, explain_tree
from iot_pipeline.defs.evaluation.free_file import FREE, write_free
from iot_pipeline.defs.evaluation.students import explained_flows
from iot_pipeline.defs.inputs import flows_of, labelled_rows, records_of, texts_of, writer_of
from iot_pipeline.defs.partitions import stage_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.free_explanations import tree_answers
from iot_pipeline.evaluation.right_reasons import teacher_reasons
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import distinct_flows, side_records, side_texts


@dg.asset(
    group_name="evaluation",
    partitions_def=stage_partitions,
    deps=["flows", "flow_texts", "evaluation_split", "training_order", "validation_answers"],
)
def reason_baselines(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Free baselines of explanations on the stage's rows (LightGBM with SHAP, a shallow tree); the teacher judged."""
    with lake.step(context) as step:
        spec, seed, writer = step.spec, step.settings.data.seed, writer_of(step)
        groups, texts = explained_flows(step)
        asked = teacher_answers(step)
        train, table = (
            labelled_rows(step, step.artefact.partition),
            features_of(step, {"test": groups, "validation": [row[0] for row in asked]}),
        )
        made = explain_lightgbm(train, table, spec.feature_names, spec.classes, seed)
        tree = explain_tree(train, validation_flows(step), table[: len(groups)], spec.feature_names, seed)
        assert writer.ranks is not None
        write_free(step.folder / FREE, groups, made, tree, tree_answers(texts, tree, writer.ranks), spec.classes)
        teacher = teacher_reasons(asked, made.values[len(groups) :], writer, seed)
        step.json("reason_baselines.json", {"flows": len(groups), "tree_depth": tree.depth, "teacher": teacher})
        step.summarise(flows=len(groups), tree_depth=tree.depth, teacher_explanations=teacher["explanations"])
        step.table("teacher", teacher["measures"])
    return step.result()


def features_of(step: Step, wanted: dict[str, list[str]]) -> pd.DataFrame:
    """Return flow_group and features of some flow groups of each side, in the order given."""
    tables = [
        distinct_flows(flows_of(step), records_of(step), side).set_index("flow_group").loc[of]
        for side, of in wanted.items()
    ]
    return pd.concat(tables).reset_index()


def validation_flows(step: Step) -> pd.DataFrame:
    """Return the distinct validation flows with their majority labels, on which the tree's depth is chosen."""
    side = read_side(side_records(records_of(step), "validation"), step.spec.classes)
    table = features_of(step, {"validation": side.group_ids})
    return table.assign(label=[step.spec.classes[code] for code in side.majority])


def teacher_answers(step: Step) -> list[tuple[str, str, str, str]]:
    """Return flow group, flow text, answer and given class of each validation flow that the teacher explained."""
    flows = side_texts(texts_of(step), records_of(step), "validation")
    groups = dict(zip(flows["text"], flows["flow_group"], strict=True))
    with (step.input("validation_answers") / "track.jsonl").open(encoding="utf-8") as lines:
        told = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    return [(groups[flow], flow, answer, parse_answer(answer).label) for flow, answer in told]
