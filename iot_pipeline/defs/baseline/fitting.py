"""Rows that baselines learn from, their configurations, and how each is scored."""

import os

import pandas as pd

from iot_pipeline.baseline.automl import AutoMLConfig
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.defs.inputs import flows_of, labelled_rows, records_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.evaluation.evaluate import align, evaluate_predictions
from iot_pipeline.evaluation.metrics import apply_temperature, fit_temperature
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import distinct_flows, side_records
from iot_pipeline.reporting import figures


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
