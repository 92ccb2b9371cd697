"""Baseline's probabilities for a student to learn from, and the baseline that learns from them itself."""

from dataclasses import replace

import dagster as dg
import pandas as pd

from iot_pipeline.baseline.automl import run_automl
from iot_pipeline.baseline.distil import cross_fitted, pseudo_labelled
from iot_pipeline.defs.baseline.fitting import configurations, rows_and_sides, score
from iot_pipeline.defs.inputs import PROBABILITIES, flows_of, labelled_rows, probabilities_of, records_of
from iot_pipeline.defs.partitions import baseline_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.predictions import read_predictions, write_predictions
from iot_pipeline.flows.dataset import distinct_flows

PSEUDO = "automl_pseudo"


@dg.asset(
    group_name="baseline", partitions_def=baseline_partitions, deps=["flows", "evaluation_split", "training_order"]
)
def baseline_probabilities(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """AutoML's class probabilities for the train pool (IOT_DISTIL), by models that never saw the flow's own label."""
    with lake.step(context) as step:
        train, pool = labelled_rows(step, step.artefact.partition), train_pool(step)
        names, classes = step.spec.feature_names, step.spec.classes
        groups, log_probs = cross_fitted(train, pool, names, classes, configurations(step)[0], step.log)
        write_predictions(step.folder / PROBABILITIES, groups, log_probs, classes)
        told = dict(zip(groups, log_probs.argmax(axis=1), strict=True))
        first = train.drop_duplicates("flow_group")
        right = first["label"].map(classes.index).to_numpy() == first["flow_group"].map(told).to_numpy()
        step.summarise(
            labelled_flows=len(first),
            unlabelled_flows=len(groups) - len(first),
            out_of_fold_accuracy=float(right.mean()),
        )
    return step.result()


@dg.asset(
    group_name="baseline",
    partitions_def=baseline_partitions,
    deps=["flows", "evaluation_split", "training_order", "baseline_probabilities"],
)
def pseudo_label_baseline(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """AutoML trained on the stage's rows and on its own guesses for the rest of the train pool (IOT_DISTIL), scored.

    It read exactly what the distilled student reads, so the two compare fairly.
    """
    with lake.step(context) as step:
        train, sides = rows_and_sides(step)
        pool, names, classes = train_pool(step), step.spec.feature_names, step.spec.classes
        found = read_predictions(probabilities_of(step, step.artefact.partition), classes)
        rows = pseudo_labelled(train, pool, found, classes)
        both = pd.concat(sides.values(), ignore_index=True)
        result = run_automl(rows, both, names, classes, configurations(step)[0], step.log)
        score(step, replace(result, name=PSEUDO))
        step.summarise(rows=len(train), guessed_rows=len(rows) - len(train))
    return step.result()


def train_pool(step: Step) -> pd.DataFrame:
    """Return the distinct flows of the train side, without their labels."""
    return distinct_flows(flows_of(step), records_of(step), "train")
