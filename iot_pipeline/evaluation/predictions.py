"""Predictions on disk, one log-probability per class for each flow group, and explanations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.lake.atomic import write_table

EXPLANATIONS = "explanations.parquet"


def write_explanations(
    path: Path, groups: Sequence[str], labels: Sequence[str], ways: Mapping[str, Sequence[tuple[str, bool]]]
) -> None:
    """Write the explanations of test flows: flow group, scored class, and the text of each way of decoding.

    Args:
        path: Parquet file to write.
        groups: Flow groups [n].
        labels: Class that was scored highest [n].
        ways: Explanations by way [n], each with True if it ended.
    """
    columns = {"flow_group": list(groups), "label": list(labels)}
    write_table(path, pa.table(columns | {way: [text for text, _ in written] for way, written in ways.items()}))


def write_predictions(path: Path, groups: Sequence[str], log_probs: np.ndarray, classes: Sequence[str]) -> None:
    """Write log-probabilities with their flow groups; columns are named by class.

    Args:
        path: Parquet file to write.
        groups: Flow group of each row.
        log_probs: Log-probabilities [n_groups, n_classes].
        classes: Class of each column.
    """
    columns = {"flow_group": pa.array(list(groups))}
    # float32 stores log-probabilities to 1e-7 in half the size of float64.
    columns |= {name: pa.array(log_probs[:, i].astype(np.float32)) for i, name in enumerate(classes)}
    write_table(path, pa.table(columns))


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Read flow groups and log-probabilities [n_groups, n_classes], with columns in the order of `classes`."""
    table = pq.read_table(path)
    return table["flow_group"].to_pylist(), np.column_stack([table[name].to_numpy() for name in classes]).astype(float)
