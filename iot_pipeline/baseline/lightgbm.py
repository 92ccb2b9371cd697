"""LightGBM baseline with fixed parameters, reproducible in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, Floats, check_tables, spread
from iot_pipeline.flows.matrix import numbered, words_of

ROUNDS = 200
PARAMETERS: dict[str, Any] = {
    "objective": "multiclass",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "min_data_in_leaf": 5,
    "min_sum_hessian_in_leaf": 1.0,  # without it, leaves diverge with many equal rows
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 2,
    "verbosity": -1,
}


def train_model(
    values: Floats, codes: Any, weights: Floats, classes: int, categories: Sequence[int] = (), **changed: Any
) -> Any:
    """Train LightGBM on distinct rows.

    Args:
        values: Features [n, features].
        codes: Class numbers [n].
        weights: Number of rows that each one stands for [n].
        classes: Number of classes, two or more.
        categories: Places of the categories among the features.
        changed: Parameters that differ from PARAMETERS.
    """
    import lightgbm

    parameters = {**PARAMETERS, "num_class": classes, **changed}
    if len(values) < 4 * PARAMETERS["min_data_in_leaf"]:
        parameters["min_data_in_leaf"] = 1
    native: Any = list(categories) or "auto"
    data = lightgbm.Dataset(values, codes, weight=weights, categorical_feature=native)
    return lightgbm.train(parameters, data, num_boost_round=ROUNDS)


def places(features: list[str], words: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the places of the categories among the features."""
    return [place for place, name in enumerate(features) if name in words]


def distinct_rows(train: pd.DataFrame, features: list[str], present: list[str]) -> tuple[pd.DataFrame, Any, Floats]:
    """Collapse equal rows: features [n, features], class numbers in `present` [n], rows that each stands for [n]."""
    collapsed = train.groupby([*features, "label"], sort=False).size().rename("__rows").reset_index()
    codes = pd.Categorical(collapsed["label"], categories=present).codes.astype(int)
    return collapsed[features], codes, collapsed["__rows"].to_numpy(np.float64)


def run_lightgbm(
    train: pd.DataFrame, test: pd.DataFrame, features: list[str], classes: list[str], seed: int
) -> BaselineResult:
    """Train LightGBM on `train` and predict `test`.

    Equal rows are passed once, weighted by their number, which is the same training set. Below 20 distinct rows a leaf
    may have one row instead of 5; a single class is predicted without a model. Categories are split by their values,
    and a value that no training row has counts as none of the known ones.

    Args:
        train: Rows with features and label.
        test: flow_group and features.
        features: Feature columns.
        classes: All classes, in the order of the result.
        seed: Seed of LightGBM.
    """
    import lightgbm

    started = time.perf_counter()
    present = check_tables(train, test, classes)
    words = words_of(train, features)
    rows, codes, weights = distinct_rows(train, features, present)
    if len(present) == 1:
        probabilities = np.ones((len(test), 1))
    else:
        model = train_model(
            numbered(rows, features, words), codes, weights, len(present), places(features, words), seed=seed
        )
        probabilities = np.asarray(model.predict(numbered(test, features, words)))
    return BaselineResult(
        name="lightgbm",
        group_ids=test["flow_group"].tolist(),
        log_probs=spread(probabilities, present, classes),
        report={
            "train_rows": len(train),
            "distinct_train_rows": len(rows),
            "classes_trained": present,
            "rounds": ROUNDS,
            "parameters": {key: value for key, value in PARAMETERS.items() if key != "verbosity"},
            "seed": seed,
            "version": lightgbm.__version__,
        },
        timings={"total_s": time.perf_counter() - started},
    )
