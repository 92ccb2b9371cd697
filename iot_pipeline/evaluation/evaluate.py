"""Evaluation shared by students and baselines: three views, each with its ceiling and confidence intervals."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.intervals import RESAMPLES, intervals, paired
from iot_pipeline.evaluation.metrics import apply_temperature, normalise_log_probs, predict, score
from iot_pipeline.evaluation.views import Floats, Side, read_side
from iot_pipeline.vocabulary import VIEWS


def evaluate_predictions(
    records: pa.Table | pd.DataFrame,
    group_ids: list[str],
    log_probs_by_group: Floats,
    classes: list[str],
    seed: int,
    temperature: float | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Score log-probabilities on the records of one side, in the row, distinct and clean views.

    Args:
        records: Rows of evaluation_split/records.parquet of that side.
        group_ids: Flow group of each row of `log_probs_by_group`.
        log_probs_by_group: Log-probabilities [n_groups, n_classes].
        classes: Class of each column.
        seed: Seed of the bootstrap.
        temperature: If given, each view also has `calibrated` log-loss, Brier, ECE and reliability.
        resamples: Number of bootstrap resamples.

    Returns:
        {classes, groups, records, resamples, seed, temperature, views: {row|distinct|clean: {accuracy, macro_f1, ...,
        ceiling, share_of_ceiling, intervals}, or None if the view is empty}}.

    Raises:
        UserError: A group has no prediction, a prediction is NaN or has no finite value, or an accuracy exceeds its
            ceiling.
    """
    side = read_side(records, classes)
    log_probs = align(side, group_ids, log_probs_by_group)
    bounds = intervals(side, predict(log_probs), seed, resamples)
    views: dict[str, Any] = {}
    for view in VIEWS:
        ceiling, weight = side.ceilings[view], side.weights[view]
        if ceiling is None:
            views[view] = None
            continue
        result = score(side.label, log_probs[side.group], weight, side.classes)
        check_ceiling(result["accuracy"], ceiling, view)
        result["ceiling"] = ceiling
        result["share_of_ceiling"] = result["accuracy"] / ceiling
        result["intervals"] = bounds[view]
        if temperature is not None:
            scaled = score(side.label, apply_temperature(log_probs, temperature)[side.group], weight, side.classes)
            result["calibrated"] = {key: scaled[key] for key in ("log_loss", "brier", "ece", "reliability")}
        views[view] = result
    return {
        "classes": list(classes),
        "groups": len(side.group_ids),
        "records": len(side.label),
        "resamples": resamples,
        "seed": seed,
        "temperature": temperature,
        "views": views,
    }


def compare_predictions(
    records: pa.Table | pd.DataFrame,
    first: tuple[list[str], Floats],
    second: tuple[list[str], Floats],
    classes: list[str],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compare two predictors by a paired test (intervals.paired), first minus second.

    Args:
        records: Rows of evaluation_split/records.parquet of one side.
        first: (group_ids, log_probs_by_group) of one predictor.
        second: The same of the other predictor.
        classes: Class of each column.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    side = read_side(records, classes)
    return paired(side, predict(align(side, *first)), predict(align(side, *second)), seed, resamples)


def align(side: Side, group_ids: list[str], log_probs_by_group: Floats) -> Floats:
    """Align rows of `log_probs_by_group` with side.group_ids and normalise them; other groups are dropped.

    Raises UserError for a wrong shape, a group without prediction, NaN, or a row without a finite value.
    """
    log_probs = np.asarray(log_probs_by_group, dtype=np.float64)
    if log_probs.shape != (len(group_ids), len(side.classes)):
        raise UserError(
            f"predictions have shape {log_probs.shape}, expected {(len(group_ids), len(side.classes))} "
            "(one row a flow group, one column a class)"
        )
    position = {group: index for index, group in enumerate(group_ids)}
    missing = [group for group in side.group_ids if group not in position]
    if missing:
        raise UserError(f"{len(missing)} flow groups have no prediction, the first is {missing[0]}")
    rows = log_probs[[position[group] for group in side.group_ids]]
    top = rows.max(axis=1)
    if np.isnan(rows).any() or not np.isfinite(top).all():
        raise UserError("predictions hold NaN, or a row with no finite log-probability")
    return normalise_log_probs(rows)


def check_ceiling(accuracy: float, ceiling: float, view: str) -> None:
    """Raise UserError if `accuracy` exceeds the ceiling, the best of any function of the flow text in `view`."""
    if accuracy > ceiling + 1e-9:
        raise UserError(
            f"accuracy {accuracy:.6f} in the {view} view lies above its ceiling {ceiling:.6f}: the predictor "
            "has seen more than the flow text, or records and predictions do not belong together"
        )
