"""AutoML on a split by row, as the prior work held rows out: most flows that it is measured on were trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl

HELD_OUT = 0.2


def run_row_split(
    rows: pd.DataFrame,
    features: list[str],
    classes: list[str],
    config: AutoMLConfig,
    log: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train AutoGluon on 80 % of the rows, drawn at random, and measure it on the others, duplicates included.

    Args:
        rows: All rows of the table with flow_group, features and label.
        features: Feature columns.
        classes: All classes.
        config: Preset, time limit, seed and cores.
        log: Receives progress messages.

    Returns:
        {train_rows, test_rows, shared_test_share, accuracy, macro_f1, config}, where shared_test_share is the share of
        the held-out rows whose flow group has a row in training; and the timings in seconds.
    """
    from sklearn.metrics import accuracy_score, f1_score

    held = np.random.default_rng(config.seed).permutation(len(rows)) < HELD_OUT * len(rows)
    train, test = rows[~held], rows[held]
    # Equal values are predicted once. With sort=False groups are numbered in the order in which they occur.
    number = test.groupby(features, sort=False, dropna=False).ngroup().to_numpy()
    distinct = test.loc[~test.duplicated(features), ["flow_group", *features]]
    result = run_automl(train, distinct, features, classes, config, log)
    predicted = np.array(classes, dtype=object)[result.log_probs.argmax(axis=1)][number]
    occurring = sorted(set(test["label"]))  # the F1 of other views is over the classes that occur, too
    return {
        "train_rows": len(train),
        "test_rows": len(test),
        "shared_test_share": float(test["flow_group"].isin(set(train["flow_group"])).mean()),
        "accuracy": float(accuracy_score(test["label"], predicted)),
        "macro_f1": float(f1_score(test["label"], predicted, labels=occurring, average="macro", zero_division=0)),
        "config": result.report["config"],
    }, result.timings
