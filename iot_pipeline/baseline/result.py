"""Result type of all baselines, and their shared helpers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from iot_pipeline.errors import UserError

Floats = npt.NDArray[np.float64]
SMOOTHING = 1e-6  # probability spread over all classes, so no log-probability is infinite


@dataclass(frozen=True)
class BaselineResult:
    """Predictions of one baseline. `report` is the same for the same inputs; `timings` (seconds) is not."""

    name: str
    classes: list[str]
    group_ids: list[str]  # [n], flow_group of each row of the test table, in order
    log_probs: Floats  # [n, n_classes], normalised
    report: dict[str, Any]
    timings: dict[str, Any] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """Return flow_group and one probability column per class, for Parquet."""
        columns: dict[str, Any] = {"flow_group": self.group_ids}
        columns |= {name: np.exp(self.log_probs[:, index]) for index, name in enumerate(self.classes)}
        return pa.table(columns)


def to_frame(table: pd.DataFrame | pa.Table, columns: list[str], what: str) -> pd.DataFrame:
    """Return `columns` of a table as pandas with a fresh index; UserError if a column is missing or no row exists."""
    frame = table.to_pandas() if isinstance(table, pa.Table) else table
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"the {what} table lacks the column(s) {', '.join(missing)}")
    if not len(frame):
        raise UserError(f"the {what} table has no row")
    return frame[columns].reset_index(drop=True)


def check_labels(labels: pd.Series, classes: list[str]) -> list[str]:
    """Return the classes that occur in `labels`, in the order of `classes`; UserError for any other label."""
    found = set(labels)
    unknown = sorted(found - set(classes))
    if unknown:
        raise UserError(f"training rows hold unknown labels: {', '.join(map(str, unknown))}")
    return [name for name in classes if name in found]


def spread(probabilities: Floats, present: list[str], classes: list[str]) -> Floats:
    """Convert probabilities [n, len(present)] to smoothed log-probabilities [n, len(classes)]."""
    whole = np.zeros((len(probabilities), len(classes)))
    whole[:, [classes.index(name) for name in present]] = probabilities
    whole = (1 - SMOOTHING) * whole / whole.sum(axis=1, keepdims=True) + SMOOTHING / len(classes)
    return np.log(whole)
