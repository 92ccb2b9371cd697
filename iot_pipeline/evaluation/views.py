"""Three views of a test side: the weight of each record, and the ceiling that label conflicts set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.vocabulary import VIEWS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """Records of one side; arrays are aligned by record, and `group` indexes `group_ids`."""

    group_ids: list[str]  # [n_groups], sorted
    group: Ints  # [n_records]
    label: Ints  # [n_records], index into classes
    classes: tuple[str, ...]
    weights: dict[str, Floats]  # view -> [n_records]
    ceilings: dict[str, float | None]  # None: the view is empty

    @property
    def majority(self) -> Ints:
        """Majority label [n_groups]: the label with the most rows of the group; ties go to the class listed first."""
        order = np.lexsort((self.label, -self.weights["row"], self.group))
        first = np.searchsorted(self.group[order], np.arange(len(self.group_ids)))
        return self.label[order][first]


def read_side(records: pa.Table | pd.DataFrame, classes: list[str]) -> Side:
    """Prepare the records of one side (rows of evaluation_split/records.parquet).

    Raises UserError for an empty side, an unknown label, or records that do not add up to their group.
    """
    frame = records.to_pandas() if isinstance(records, pa.Table) else records
    if not len(frame):
        raise UserError("the given side of the split has no record; use more rows or another seed")
    frame = frame.sort_values(["flow_group", "label"])
    group_ids, group = np.unique(frame["flow_group"].to_numpy(dtype=object), return_inverse=True)
    label = pd.Categorical(frame["label"], categories=classes).codes.astype(np.int64)
    if (label < 0).any():
        unknown = sorted(set(frame["label"]) - set(classes))
        raise UserError(f"records hold labels that the data set spec does not list: {', '.join(unknown)}")
    rows = frame["rows"].to_numpy(np.float64)
    group_rows = frame["group_rows"].to_numpy(np.float64)
    total = np.bincount(group, weights=rows)
    if not np.array_equal(total[group], group_rows):
        raise UserError("records do not hold every label of a flow group; make evaluation_split again")
    weights = {"row": rows, "distinct": rows / group_rows, "clean": (rows == group_rows).astype(np.float64)}
    return Side(
        group_ids=[str(item) for item in group_ids],
        group=group.astype(np.int64),
        label=label,
        classes=tuple(classes),
        weights=weights,
        ceilings={view: _ceiling(group, weights[view]) for view in VIEWS},
    )


def _ceiling(group: npt.NDArray[Any], weight: Floats) -> float | None:
    """Compute the best accuracy of any function of the flow text: each group's heaviest label is right."""
    total = float(weight.sum())
    if total == 0:
        return None
    best = np.zeros(int(group.max()) + 1)
    np.maximum.at(best, group, weight)
    return min(1.0, float(best.sum()) / total)
