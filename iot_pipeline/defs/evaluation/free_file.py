"""File of the free baselines' classes, contributions and answers: `reason_baselines` writes it, `reasons` reads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.baseline.contributions import Contributions, TreePaths
from iot_pipeline.evaluation.right_reasons import FreeBaselines
from iot_pipeline.lake.atomic import write_table

FREE = "free_explanations.parquet"


def write_free(
    path: Path, groups: list[str], made: Contributions, tree: TreePaths, answers: list[str], classes: list[str]
) -> None:
    """Write LightGBM's class and contributions to each class, and the tree's class and answer, by flow group.

    Args:
        path: Parquet file to write.
        groups: Flow groups of the test flows [n].
        made: Classes and contributions of LightGBM; the first n are theirs.
        tree: Classes of the tree [n].
        answers: Answers of the tree [n].
        classes: Class names.
    """
    found: dict[str, Any] = {"flow_group": groups, "label": made.labels[: len(groups)]}
    found |= {"tree_label": tree.labels, "tree_answer": answers}
    values = made.values[: len(groups)].astype(np.float32)  # half the size
    found |= {f"toward {name}": list(values[:, code]) for code, name in enumerate(classes)}
    write_table(path, pa.table(found))


def read_free(path: Path, groups: list[str], classes: list[str]) -> FreeBaselines:
    """Read what `write_free` wrote of these flow groups, in their order; KeyError for one that it lacks."""
    table = pq.read_table(path).to_pandas().set_index("flow_group").loc[groups]
    toward = [np.stack(table[f"toward {name}"].tolist()) for name in classes]
    values = np.stack(toward, axis=1).astype(np.float64)
    return FreeBaselines(table["label"].tolist(), values, table["tree_label"].tolist(), table["tree_answer"].tolist())
