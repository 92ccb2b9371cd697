"""Majority-class baseline: the most frequent class of distinct training flows for every flow."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, check_tables, flow_shares, spread


def run_majority(train: pd.DataFrame, test: pd.DataFrame, classes: list[str]) -> BaselineResult:
    """Predict the class shares of the distinct training flows for every flow, so their majority always leads.

    Its accuracy, macro-F1 and lowest recall are what answers reach that look at no flow. Flows count once, as in the
    view that sentences are about; the class with the most rows is what the hash lookup answers where it has seen
    nothing, and on simulated Farm-Flow it is another.
    """
    started = time.perf_counter()
    check_tables(train, test, classes)
    shares = flow_shares(train, classes).mean().to_numpy(np.float64)
    return BaselineResult(
        name="majority",
        group_ids=test["flow_group"].tolist(),
        log_probs=spread(np.tile(shares, (len(test), 1)), classes, classes),
        report={
            "train_rows": len(train),
            "distinct_train_flows": int(train["flow_group"].nunique()),
            "majority_class": classes[int(shares.argmax())],
            "shares": dict(zip(classes, shares.tolist(), strict=True)),
        },
        timings={"total_s": time.perf_counter() - started},
    )
