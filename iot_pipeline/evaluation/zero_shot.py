"""Zero-shot teacher compared with trained models on the flows that it was asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import Ints, read_side

NO_CLASS = "(no class)"  # an answer that names none is wrong, whatever the flow's class


def compare_teacher(
    records: pd.DataFrame,
    named: Mapping[str, str | None],
    arms: Mapping[str, Sequence[Ints]],
    classes: Sequence[str],
    seed: int,
    model: str,
) -> dict[str, Any]:
    """Compare every model with the teacher on the same flows, each difference with its interval over flow groups.

    Args:
        records: Records of the flows that the teacher was asked about.
        named: Class that the teacher named by flow group; None if it named none.
        arms: Predicted class index [n_groups] of each training seed by model, in the order of the flow groups.
        classes: Classes of the data set.
        seed: Seed of the bootstrap.
        model: Model that answered.

    Returns:
        What compare_seeds returns, with `teacher`: the name of its arm.
    """
    columns, name = [*classes, NO_CLASS], f"zero-shot {model}"
    side = read_side(records, columns)
    answers = np.array([columns.index(named[group] or NO_CLASS) for group in side.group_ids], dtype=np.int64)
    found = compare_seeds(side, {name: [answers], **arms}, [(arm, name) for arm in arms], seed)
    return found | {"teacher": name}
