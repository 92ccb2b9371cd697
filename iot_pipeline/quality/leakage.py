"""Leakage of this split against a row-wise 80:20 split: shared flows and their effect on one model's accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.errors import UserError
from iot_pipeline.flows.matrix import numbered
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import opened
from iot_pipeline.vocabulary import SIDES

Floats = npt.NDArray[np.float64]
TRAIN_SHARE = 0.8


class Halves(NamedTuple):
    """A split of records: train rows and test rows of each record [n]."""

    train: Floats
    test: Floats


@dataclass(frozen=True)
class Records:
    """Records of a table, each a flow group under one label; arrays are [n].

    Attributes:
        group: Number of the flow group.
        label: Number of the class.
        side: Index in SIDES, -1 without a side.
        rows: Rows in the table.
        left_out: Those of them that a publisher's split leaves out.
        recorded: Rows that the split states.
        classes: Number of classes.
        values: Features [n, features], categories by number; None where no model is measured.
        words: Places of the categories among the features.
    """

    group: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    side: npt.NDArray[np.int8]
    rows: Floats
    left_out: Floats
    recorded: Floats
    classes: int
    values: Floats | None
    words: list[int]

    @property
    def groups(self) -> int:
        """Number of flow groups."""
        return int(self.group.max()) + 1


def leakage_report(
    flows: Path, records: Path, spec: DatasetSpec, seed: int, with_model: bool = True, dropped: Path | None = None
) -> dict[str, Any]:
    """Compare the split in records.parquet with a seeded row-wise 80:20 split of the same rows.

    Returns {passed, rows_without_side, records_with_wrong_rows, sides, pairs, leak_free, row_wise, known_leak, seed}:

    - pairs: flow groups and rows shared by any two sides.
    - passed: True only if no pair shares a group, every row is on a side, and every record states its true rows.
    - leak_free, row_wise: per protocol shared_groups, shared_test_rows, shared_test_share, row_ceiling, and accuracies
      of a small LightGBM (`model`) and a table look-up (`lookup`): by row, by distinct flow, on seen and unseen flows.
    - known_leak: a leak that no split removes: values published scaled by statistics of the whole table; else None.
    - publisher, only with `dropped`: the same protocol measures for the publisher's own split, as papers use it (its
      train rows with those that repeat a test flow), and dropped_rows.

    Args:
        flows: flows.parquet.
        records: records.parquet of the split.
        spec: Spec of the data set.
        seed: Seed of the row-wise split and the model.
        with_model: False to skip the LightGBM.
        dropped: Rows that a publisher's split leaves out; None where the test side was drawn.
    """
    of = _load(flows, records, spec, with_model, dropped)
    rows = of.rows - of.left_out
    sided = of.side >= 0
    ours = Halves(*(np.where(of.side == SIDES.index(name), rows, 0.0) for name in ("train", "test")))
    if not ours.train.any() or not ours.test.any():
        raise UserError("the split has no train or no test rows, so its leakage cannot be measured")
    holds = np.zeros((of.groups, len(SIDES)), dtype=bool)  # groups with a record on each side
    holds[of.group[sided], of.side[sided]] = True
    pairs = _shared_pairs(of, rows, holds)
    wrong = int(((rows != of.recorded) & sided).sum())
    unknown = int(rows[~sided].sum())
    report = {
        "passed": wrong == 0 and unknown == 0 and all(pair["groups"] == 0 for pair in pairs),
        "rows_without_side": unknown,
        "records_with_wrong_rows": wrong,
        "sides": {name: _side(rows[of.side == place], holds[:, place], rows) for place, name in enumerate(SIDES)},
        "pairs": pairs,
        "leak_free": _protocol(ours, of, seed),
        "row_wise": _protocol(_row_wise(of.rows, seed), of, seed),
        "known_leak": spec.scaling_note if spec.scaling == "given" else None,
        "seed": seed,
    }
    if dropped is not None:
        published = _protocol(Halves(of.rows - ours.test, ours.test), of, seed)
        report["publisher"] = published | {"dropped_rows": int(of.left_out.sum())}
    return report


def _load(flows: Path, records: Path, spec: DatasetSpec, with_model: bool, dropped: Path | None) -> Records:
    """Load the records of flows.parquet with their sides; the arguments are those of `leakage_report`."""
    # Only the model needs features.
    features, joined = (f", {spec.feature_columns}", "JOIN flows f ON f.row_id = c.row_id") if with_model else ("", "")
    left_out, tables = "0", {"flows": flows, "records": records}
    if dropped is not None:
        left_out, tables["dropped"] = "coalesce(d.rows, 0)", dropped
        joined += " LEFT JOIN dropped d ON d.flow_group = c.flow_group AND d.label = c.label"
    with opened(**tables) as connection:
        table = connection.execute(
            f"""SELECT c.flow_group, c.label, c.rows, r.rows AS recorded, r.side, {left_out} AS left_out{features}
            FROM (SELECT flow_group, label, count(*) AS rows, arg_min(row_id, occurrence) AS row_id
                FROM flows GROUP BY ALL) c {joined}
            LEFT JOIN records r ON r.flow_group = c.flow_group AND r.label = c.label
            ORDER BY c.flow_group, c.label, r.side"""
        ).df()
    return Records(
        group=pd.factorize(table["flow_group"])[0],
        label=pd.Categorical(table["label"], categories=spec.classes).codes.astype(np.int64),
        side=pd.Categorical(table["side"], categories=SIDES).codes,
        rows=table["rows"].to_numpy(np.float64),
        left_out=table["left_out"].to_numpy(np.float64),
        recorded=table["recorded"].to_numpy(np.float64),
        classes=len(spec.classes),
        values=numbered(table, spec.feature_names) if with_model else None,
        words=[spec.feature_names.index(name) for name in spec.category_names],
    )


def _side(rows: Floats, groups: npt.NDArray[np.bool_], every: Floats) -> dict[str, Any]:
    """Count the rows and groups of one side, and its share of all rows."""
    return {"rows": int(rows.sum()), "groups": int(groups.sum()), "share": float(rows.sum() / every.sum())}


def _shared_pairs(of: Records, rows: Floats, holds: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count groups on both of any two sides, and the rows of those groups on the second side."""
    pairs = []
    for first, second in combinations(range(len(SIDES)), 2):
        both = holds[:, first] & holds[:, second]
        inside = (of.side == second) & both[of.group]
        counts = {"groups": int(both.sum()), "rows": int(rows[inside].sum())}
        pairs.append({"first": SIDES[first], "second": SIDES[second], **counts})
    return pairs


def _row_wise(rows: Floats, seed: int) -> Halves:
    """Assign rows at random to train (80 %) or test; rows of a record are alike, so only counts are drawn."""
    rng = np.random.default_rng(seed)
    counts = rows.astype(np.int64)
    # The choice of round(0.2 n) rows out of n without replacement, counted by record.
    test = rng.multivariate_hypergeometric(counts, round((1 - TRAIN_SHARE) * counts.sum()), method="marginals")
    return Halves((counts - test).astype(np.float64), test.astype(np.float64))


def _protocol(halves: Halves, of: Records, seed: int) -> dict[str, Any]:
    """Measure what train and test share under one protocol, and the accuracies of the quick models."""
    trained = np.bincount(of.group, weights=halves.train, minlength=of.groups) > 0
    tested = np.bincount(of.group, weights=halves.test, minlength=of.groups)
    seen = trained[of.group]
    total = halves.test.sum()
    best = np.zeros(of.groups)
    np.maximum.at(best, of.group, halves.test)
    result: dict[str, Any] = {
        "train_rows": int(halves.train.sum()),
        "test_rows": int(total),
        "shared_groups": int((trained & (tested > 0)).sum()),
        "test_groups": int((tested > 0).sum()),
        "shared_test_rows": int(halves.test[seen].sum()),
        "shared_test_share": float(halves.test[seen].sum() / total),
        "row_ceiling": float(best.sum() / total),
        "lookup": _accuracies(_lookup(halves.train, of), of, halves, seen),
    }
    if of.values is not None:
        result["model"] = _accuracies(_quick_model(of.values, of, halves, seed), of, halves, seen)
    return result


def _lookup(train: Floats, of: Records) -> npt.NDArray[np.int64]:
    """Predict [n] the majority label of the same flow text in training, else the most frequent class."""
    votes = np.bincount(of.group * of.classes + of.label, weights=train, minlength=of.groups * of.classes)
    votes = votes.reshape(of.groups, of.classes)
    answer = np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1), votes.sum(axis=0).argmax())
    return answer[of.group].astype(np.int64)


def _quick_model(values: Floats, of: Records, halves: Halves, seed: int) -> npt.NDArray[np.int64]:
    """Predict [n] with one small, fixed LightGBM trained on the train rows (as record weights)."""
    import lightgbm

    used = halves.train > 0
    present, target = np.unique(of.label[used], return_inverse=True)
    if len(present) < 2:
        return np.full(len(of.label), present[0], dtype=np.int64)
    parameters = {
        "objective": "multiclass",
        "num_class": len(present),
        "num_leaves": 15,
        "learning_rate": 0.1,
        "min_data_in_leaf": 5,
        "min_sum_hessian_in_leaf": 1.0,  # without it a few heavy records make leaves diverge
        "lambda_l2": 1.0,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # two spinning threads are far slower on shared cores
        "verbosity": -1,
    }
    data = lightgbm.Dataset(values[used], target, weight=halves.train[used], categorical_feature=of.words or "auto")
    model = lightgbm.train(parameters, data, num_boost_round=60)
    answer = np.full(len(of.label), -1, dtype=np.int64)
    wanted = halves.test > 0
    answer[wanted] = present[np.asarray(model.predict(values[wanted])).argmax(axis=1)]
    return answer


def _accuracies(
    predicted: npt.NDArray[np.int64], of: Records, halves: Halves, seen: npt.NDArray[np.bool_]
) -> dict[str, float | None]:
    right = (predicted == of.label).astype(np.float64)
    size = np.bincount(of.group, weights=halves.test)[of.group]
    distinct = np.divide(halves.test, size, out=np.zeros_like(size), where=size > 0)
    return {
        "row": _mean(right, halves.test),
        "distinct": _mean(right, distinct),
        "seen_rows": _mean(right, halves.test * seen),
        "never_seen_rows": _mean(right, halves.test * ~seen),
        "never_seen_distinct": _mean(right, distinct * ~seen),
    }


def _mean(right: Floats, weight: Floats) -> float | None:
    return float((right * weight).sum() / weight.sum()) if weight.any() else None
