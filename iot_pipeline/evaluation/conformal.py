"""Conformal prediction sets: the classes that a student cannot rule out, at a stated share of right sets.

Split conformal prediction with the least ambiguous sets (Sadinle, Lei and Wasserman, JASA 2019): a class is in the set
if its probability is at least 1 - t, with t such that sets of the calibration side hold the label of a share `level` of
its flows. Flows like those of that side then have sets with their label at that share or more, whatever the student.
The one temperature that scales its probabilities is fitted on the same flows, so the share is not exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from iot_pipeline.evaluation.views import Floats, Side

LEVELS = (0.9, 0.95, 0.99)


def fit_thresholds(side: Side, log_probs_by_group: Floats) -> dict[str, float]:
    """Fit on distinct flows of the calibration side how improbable a class of the set may be: level -> 1 - probability.

    1 admits every class: the side has too few flows for the level. `log_probs_by_group`: [n_groups, n_classes] in the
    order of side.group_ids, as they will be judged (calibrated or not).
    """
    weight = side.weights["distinct"]
    improbable = 1 - np.exp(log_probs_by_group[side.group, side.label])
    order = np.argsort(improbable, kind="stable")
    upto = np.cumsum(weight[order])
    found = {}
    for level in LEVELS:
        # The flow to be judged counts as one more, and as the most improbable one.
        place = int(np.searchsorted(upto, level * (upto[-1] + 1) - 1e-9))
        found[str(level)] = float(improbable[order][place]) if place < len(order) else 1.0
    return found


def prediction_sets(log_probs: Floats, threshold: float) -> np.ndarray:
    """Return which classes each set has, bool [n, n_classes]; a set may be empty: no class is likely enough."""
    sets: np.ndarray = 1 - np.exp(log_probs) <= threshold + 1e-12
    return sets


def measure_sets(side: Side, log_probs_by_group: Floats, thresholds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Measure the sets on distinct flows of another side.

    Args:
        side: The side, such as the test side.
        log_probs_by_group: Log-probabilities [n_groups, n_classes] in the order of side.group_ids.
        thresholds: Threshold of each level, see `fit_thresholds`.

    Returns:
        For each level: threshold, coverage (share of flows whose label is in the set), by_class (coverage of each
        class, None without a flow), size (mean number of classes), single and empty (shares of such sets).
    """
    weight, found = side.weights["distinct"], {}
    whole = float(weight.sum())
    for level, threshold in thresholds.items():
        sets = prediction_sets(log_probs_by_group, threshold)[side.group]
        size, hit = sets.sum(axis=1), sets[np.arange(len(side.label)), side.label]
        by_class = {}
        for number, name in enumerate(side.classes):
            mine = weight * (side.label == number)
            by_class[name] = float((mine * hit).sum() / mine.sum()) if mine.sum() else None
        found[level] = {
            "threshold": threshold,
            "coverage": float((weight * hit).sum() / whole),
            "by_class": by_class,
            "size": float((weight * size).sum() / whole),
            "single": float((weight * (size == 1)).sum() / whole),
            "empty": float((weight * (size == 0)).sum() / whole),
        }
    return found
