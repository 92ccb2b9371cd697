"""1-NN baseline: the label of the train flow that differs in the fewest printed values."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, check_tables, class_shares, flow_shares, spread
from iot_pipeline.flows.distance import differing_features, printed_codes
from iot_pipeline.flows.spec import DatasetSpec


def run_nearest(train: pd.DataFrame, test: pd.DataFrame, spec: DatasetSpec, classes: list[str]) -> BaselineResult:
    """Predict each flow from its nearest train flows: those with the fewest differing printed values.

    This is the distance of the near-duplicate report, so the two belong together: one says how near test flows are, the
    other what copying the nearest answer is worth. A scaled Euclidean distance needs a choice of scales, and most rows
    of a train pool are repeats of few flows that would set them; this one has nothing to choose and cannot be tuned.

    Distinct flows at the same distance vote together, each with its label shares; the votes and one vote of the class
    prior give the probabilities, so a tie goes to the class that is more frequent in training. `report.distance_mean`
    is the mean number of differing features to the nearest train flow.

    Args:
        train: Rows with flow_group, label and features.
        test: flow_group and features.
        spec: Spec with the scales that texts apply.
        classes: All classes, in the order of the result.
    """
    started = time.perf_counter()
    check_tables(train, test, classes)
    prior = class_shares(train, classes)
    distinct = train.drop_duplicates("flow_group")
    shares = flow_shares(train, classes).loc[distinct["flow_group"]].to_numpy(np.float64)
    own, others = printed_codes(spec, test, distinct)
    votes, distance = np.zeros((len(test), len(classes))), np.zeros(len(test))
    for place, far in enumerate(differing_features(own, others)):
        distance[place] = far.min()
        votes[place] = shares[far == far.min()].sum(axis=0)
    probabilities = (votes + prior) / (votes.sum(axis=1, keepdims=True) + 1)
    return BaselineResult(
        name="nearest",
        group_ids=test["flow_group"].tolist(),
        log_probs=spread(probabilities, classes, classes),
        report={
            "train_rows": len(train),
            "distinct_train_flows": len(distinct),
            "distance": "features whose printed values differ",
            "distance_mean": float(distance.mean()),
        },
        timings={"total_s": time.perf_counter() - started},
    )
