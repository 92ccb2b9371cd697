"""Asset group baseline: models that the student is compared with, on the same rows and the same test set."""

import os

import dagster as dg
import pandas as pd

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl
from iot_pipeline.baseline.hash_lookup import run_hash_lookup
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.baseline.majority import run_majority
from iot_pipeline.baseline.nearest import run_nearest
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.baseline.row_split import run_row_split
from iot_pipeline.defs.inputs import flows_of, labelled_rows, printed_spec, records_of
from iot_pipeline.defs.partitions import baseline_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.evaluate import align, evaluate_predictions
from iot_pipeline.evaluation.metrics import apply_temperature, fit_temperature
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import distinct_flows, side_records
from iot_pipeline.reporting import figures
from iot_pipeline.vocabulary import STAGES


@dg.asset(
    group_name="baseline", partitions_def=baseline_partitions, deps=["flows", "evaluation_split", "training_order"]
)
def automl_baseline(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """AutoGluon, LightGBM, 1-NN, hash lookup and majority class on the stage's rows (`ALL`: the train pool), scored."""
    with lake.step(context) as step:
        train, sides = rows_and_sides(step)
        both = pd.concat(sides.values(), ignore_index=True)
        names, classes, seed = step.spec.feature_names, step.spec.classes, step.settings.data.seed
        step.summarise(rows=len(train))
        for result in (
            *(run_automl(train, both, names, classes, config, step.log) for config in configurations(step)),
            run_lightgbm(train, both, names, classes, seed),
            run_nearest(train, both, printed_spec(step), classes),
            run_hash_lookup(train, both, classes),
            run_majority(train, both, classes),
        ):
            score(step, result)
        if step.artefact.partition == STAGES[-1]:
            measure_row_split(step, names, classes)
    return step.result()


def rows_and_sides(step: Step) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the stage's training rows, exactly the student's, and the distinct flows of calibration and test side."""
    flows, records = flows_of(step), records_of(step)
    train = labelled_rows(step, step.artefact.partition)
    return train, {side: distinct_flows(flows, records, side) for side in ("calibration", "test")}


def configurations(step: Step) -> list[AutoMLConfig]:
    """Return AutoGluon's configurations: the fixed one, and a time-limited preset if one is set.

    Students are compared with the fixed one. Only the preset reads IOT_AUTOML_SECONDS.
    """
    preset, seed = step.settings.baseline.preset, step.settings.data.seed
    cores = step.settings.run.threads or os.cpu_count() or 1
    fixed = AutoMLConfig(seed=seed, cores=cores)
    if preset == "fixed":
        return [fixed]
    return [fixed, AutoMLConfig(preset, step.settings.baseline.seconds, seed, cores)]


def measure_row_split(step: Step, names: list[str], classes: list[str]) -> None:
    """Write the accuracy that AutoML's fixed configuration has on a split by row, as the prior work measured it.

    Costs one more training on the whole table, so it is done once, beside the whole train pool.
    """
    rows = pd.read_parquet(flows_of(step), columns=["flow_group", *names, "label"])
    found, timings = run_row_split(rows, names, classes, configurations(step)[0], step.log)
    step.json("row_split.json", found)
    step.json("timing_row_split.json", timings, volatile=True)
    step.summarise(row_split_accuracy=found["accuracy"], row_split_seconds=round(timings["total_s"], 1))


def score(step: Step, result: BaselineResult) -> None:
    """Calibrate and evaluate one baseline; write calibrated predictions and metrics under its name."""
    records = records_of(step)
    classes, seed = step.spec.classes, step.settings.data.seed
    calibration = read_side(side_records(records, "calibration"), classes)
    fitted = fit_temperature(calibration, align(calibration, result.group_ids, result.log_probs))
    facts = evaluate_predictions(
        side_records(records, "test"), result.group_ids, result.log_probs, classes, seed, fitted["temperature"]
    )
    calibrated = apply_temperature(result.log_probs, fitted["temperature"])
    write_predictions(step.folder / f"predictions_{result.name}.parquet", result.group_ids, calibrated, classes)
    step.json(f"eval_{result.name}.json", facts | {"calibration": fitted, "model": result.report})
    step.json(f"timing_{result.name}.json", result.timings, volatile=True)
    distinct = facts["views"]["distinct"]
    for view in ("distinct", "row"):
        step.summarise(**{f"{result.name}_{view}": facts["views"][view]["accuracy"]})
    if result.name == "automl":
        title = f"AutoML, {step.artefact.partition}"
        step.png("confusion.png", figures.confusion(distinct["confusion"], classes, title), f"Confusion, {title}")
