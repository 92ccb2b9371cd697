"""Result type of all baselines, and their shared helpers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.errors import UserError

Floats = npt.NDArray[np.float64]
SMOOTHING = 1e-6  # probability spread over all classes, so no log-probability is infinite


@dataclass(frozen=True)
class BaselineResult:
    """Predictions of one baseline. `report` is the same for the same inputs; `timings` (seconds) is not."""

    name: str
    group_ids: list[str]  # [n], flow_group of each row of the test table, in order
    log_probs: Floats  # [n, n_classes], normalised
    report: dict[str, Any]
    timings: dict[str, Any]


def check_tables(train: pd.DataFrame, test: pd.DataFrame, classes: list[str]) -> list[str]:
    """Return the classes of the training rows in the order of `classes`; UserError for no rows or an unknown label."""
    for what, table in (("training", train), ("test", test)):
        if table.empty:
            raise UserError(f"the {what} table has no row")
    found = set(train["label"])
    if unknown := sorted(found - set(classes)):
        raise UserError(f"training rows hold unknown labels: {', '.join(map(str, unknown))}")
    return [name for name in classes if name in found]


def class_shares(train: pd.DataFrame, classes: list[str]) -> Floats:
    """Compute the share of each class in the training rows [n_classes]."""
    codes = pd.Categorical(train["label"], categories=classes).codes
    return np.bincount(codes, minlength=len(classes)) / len(codes)


def flow_shares(train: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Compute the label shares of each distinct training flow: one row a flow_group, one column a class."""
    shares = pd.crosstab(train["flow_group"], train["label"], normalize="index")
    return shares.reindex(columns=classes, fill_value=0.0)


def spread(probabilities: Floats, present: list[str], classes: list[str]) -> Floats:
    """Convert probabilities [n, len(present)] to smoothed log-probabilities [n, len(classes)]."""
    whole = np.zeros((len(probabilities), len(classes)))
    whole[:, [classes.index(name) for name in present]] = probabilities
    whole = (1 - SMOOTHING) * whole / whole.sum(axis=1, keepdims=True) + SMOOTHING / len(classes)
    return np.log(whole)
