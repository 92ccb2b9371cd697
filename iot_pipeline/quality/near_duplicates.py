"""Near-duplicates: test flows that differ from a train flow in a few printed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.flows.dataset import distinct_flows, side_records
from iot_pipeline.flows.distance import differing_features, printed_codes
from iot_pipeline.flows.spec import DatasetSpec

WITHIN = (1, 3)


def near_duplicates(flows: Path, records: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Measure the distance of each distinct test flow to the nearest train flow, in differing printed values.

    Exact: every test flow is compared with every train flow. `spec` has the scales that texts apply. Returns {features,
    train_flows, test_flows, median, within, by_class}: `within[n]` is the share of test flows with a train flow that
    differs in at most n features, `median` the median distance; `by_class` has both and the number of test flows for
    each class (a flow counts for its majority label). Raises UserError without train or test flows.
    """
    train, test = (distinct_flows(flows, records, side) for side in ("train", "test"))
    if train.empty or test.empty:
        raise UserError("the split has no train or no test flow, so near-duplicates cannot be counted")
    own, others = printed_codes(spec, test, train)
    nearest = np.array([int(far.min()) for far in differing_features(own, others)])
    labels = side_records(records, "test").sort_values(["rows", "label"], ascending=[False, True])
    majority = labels.drop_duplicates("flow_group").set_index("flow_group")["label"]
    classes = majority.loc[test["flow_group"]].to_numpy()
    return {
        "features": len(spec.feature_names),
        "train_flows": len(train),
        **_shares(nearest),
        "by_class": {name: _shares(nearest[classes == name]) for name in spec.classes if (classes == name).any()},
    }


def _shares(nearest: np.ndarray) -> dict[str, Any]:
    return {
        "test_flows": len(nearest),
        "median": float(np.median(nearest)),
        "within": {str(most): float((nearest <= most).mean()) for most in WITHIN},
    }
