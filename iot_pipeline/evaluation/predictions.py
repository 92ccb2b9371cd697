"""Predictions on disk: one row a flow group, one log-probability a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.lake.atomic import write_table


def write_predictions(path: Path, groups: Sequence[str], log_probs: np.ndarray, classes: Sequence[str]) -> None:
    """Write log-probabilities [n_groups, n_classes] beside their flow groups; columns are named by class."""
    columns = {"flow_group": pa.array(list(groups))}
    # float32 holds log-probabilities to 1e-7, half the size of float64.
    columns |= {name: pa.array(log_probs[:, i].astype(np.float32)) for i, name in enumerate(classes)}
    write_table(path, pa.table(columns))


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(flow groups, log-probabilities [n_groups, n_classes]) in the order of `classes`."""
    table = pq.read_table(path)
    return table["flow_group"].to_pylist(), np.column_stack([table[name].to_numpy() for name in classes]).astype(float)
