"""Minimal baseline: the majority label of the identical flow text in training."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, check_tables, class_shares, spread


def run_hash_lookup(train: pd.DataFrame, test: pd.DataFrame, classes: list[str]) -> BaselineResult:
    """Predict each flow of `test` from the labels of its flow_group in `train`; unseen groups get the class prior.

    A seen group's probabilities are its label counts plus one row of the prior, so the majority label leads; ties go to
    the class that is more frequent in training. `report` has seen_groups and seen_share: both are 0 on a leak-free
    split. The result has the classes in the order of `classes`.
    """
    started = time.perf_counter()
    check_tables(train, test, classes)
    groups = test["flow_group"]
    codes = pd.Categorical(train["label"], categories=classes).codes
    prior = class_shares(train, classes)
    known, position = np.unique(train["flow_group"].to_numpy(dtype=object), return_inverse=True)
    counts = np.bincount(position * len(classes) + codes, minlength=len(known) * len(classes))
    counts = counts.reshape(len(known), len(classes))
    place = pd.Index(known).get_indexer(groups)
    seen = place >= 0
    probabilities = np.tile(prior, (len(groups), 1))
    votes = counts[place[seen]]
    probabilities[seen] = (votes + prior) / (votes.sum(axis=1, keepdims=True) + 1)
    return BaselineResult(
        name="hash_lookup",
        group_ids=groups.tolist(),
        log_probs=spread(probabilities, classes, classes),
        report={
            "train_rows": len(train),
            "train_groups": len(known),
            "seen_groups": int(seen.sum()),
            "seen_share": float(seen.mean()),
            "prior": dict(zip(classes, prior.tolist(), strict=True)),
        },
        timings={"total_s": time.perf_counter() - started},
    )
