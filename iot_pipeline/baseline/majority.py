"""Majority-class baseline: the most frequent class of the training rows for every flow."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, check_tables, class_shares, spread


def run_majority(train: pd.DataFrame, test: pd.DataFrame, classes: list[str]) -> BaselineResult:
    """Predict the class shares of the training rows for every flow, so the most frequent class always leads.

    Its macro-F1 and lowest recall show what an accuracy is worth without looking at a flow. On a leak-free split the
    hash lookup predicts the same: it has seen no test flow and falls back on these shares.
    """
    started = time.perf_counter()
    check_tables(train, test, classes)
    shares = class_shares(train, classes)
    return BaselineResult(
        name="majority",
        group_ids=test["flow_group"].tolist(),
        log_probs=spread(np.tile(shares, (len(test), 1)), classes, classes),
        report={
            "train_rows": len(train),
            "majority_class": classes[int(shares.argmax())],
            "shares": dict(zip(classes, shares.tolist(), strict=True)),
        },
        timings={"total_s": time.perf_counter() - started},
    )
