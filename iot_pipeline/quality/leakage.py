"""Leakage of this split against a row-wise 80:20 split: shared flows and their effect on one model's accuracy."""

from __future__ import annotations

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
    group = pd.factorize(table["flow_group"])[0]
    label = pd.Categorical(table["label"], categories=spec.classes).codes.astype(np.int64)
    every = table["rows"].to_numpy(np.float64)
    left = table["left_out"].to_numpy(np.float64)
    rows = every - left
    # Index in SIDES of each record, -1 without side; `holds`: groups with a record on each side.
    side = pd.Categorical(table["side"], categories=SIDES).codes
    sided = side >= 0
    holds = np.zeros((group.max() + 1, len(SIDES)), dtype=bool)
    holds[group[sided], side[sided]] = True
    pairs = _shared_pairs(group, side, rows, holds)
    wrong = int(((rows != table["recorded"].to_numpy(np.float64)) & sided).sum())
    unknown = float(rows[~sided].sum())
    values = numbered(table, spec.feature_names) if with_model else None
    words = [spec.feature_names.index(name) for name in spec.category_names]
    ours = Halves(*(np.where(side == SIDES.index(name), rows, 0.0) for name in ("train", "test")))
    if not ours.train.any() or not ours.test.any():
        raise UserError("the split has no train or no test rows, so its leakage cannot be measured")
    row_wise = _row_wise(every, seed)
    report = {
        "passed": wrong == 0 and unknown == 0 and all(pair["groups"] == 0 for pair in pairs),
        "rows_without_side": int(unknown),
        "records_with_wrong_rows": wrong,
        "sides": {
            name: {
                "rows": int(rows[side == place].sum()),
                "groups": int(holds[:, place].sum()),
                "share": float(rows[side == place].sum() / rows.sum()),
            }
            for place, name in enumerate(SIDES)
        },
        "pairs": pairs,
        "leak_free": _protocol(ours, group, label, values, words, len(spec.classes), seed),
        "row_wise": _protocol(row_wise, group, label, values, words, len(spec.classes), seed),
        "known_leak": spec.scaling_note if spec.scaling == "given" else None,
        "seed": seed,
    }
    if dropped is not None:
        theirs = Halves(every - ours.test, ours.test)
        published = _protocol(theirs, group, label, values, words, len(spec.classes), seed)
        report["publisher"] = published | {"dropped_rows": int(left.sum())}
    return report


def _shared_pairs(
    group: npt.NDArray[Any], side: npt.NDArray[Any], rows: Floats, holds: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Count groups on both of any two sides, and the rows of those groups on the second side."""
    pairs = []
    for first, second in combinations(range(len(SIDES)), 2):
        both = holds[:, first] & holds[:, second]
        inside = (side == second) & both[group]
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


def _protocol(
    halves: Halves,
    group: npt.NDArray[Any],
    label: npt.NDArray[np.int64],
    values: Floats | None,
    words: list[int],
    n_classes: int,
    seed: int,
) -> dict[str, Any]:
    """Measure what train and test share under one protocol, and the accuracies of the quick models.

    Args:
        halves: Train and test rows of each record.
        group: Flow group of each record.
        label: Class of each record.
        values: Features of each record, categories by number; None to skip the model.
        words: Places of the categories.
        n_classes: Number of classes.
        seed: Seed of the model.
    """
    n_groups = int(group.max()) + 1
    trained = np.bincount(group, weights=halves.train, minlength=n_groups) > 0
    tested = np.bincount(group, weights=halves.test, minlength=n_groups)
    seen = trained[group]
    total = halves.test.sum()
    best = np.zeros(n_groups)
    np.maximum.at(best, group, halves.test)
    result: dict[str, Any] = {
        "train_rows": int(halves.train.sum()),
        "test_rows": int(total),
        "shared_groups": int((trained & (tested > 0)).sum()),
        "test_groups": int((tested > 0).sum()),
        "shared_test_rows": int(halves.test[seen].sum()),
        "shared_test_share": float(halves.test[seen].sum() / total),
        "row_ceiling": float(best.sum() / total),
        "lookup": _accuracies(_lookup(halves.train, group, label, n_classes, n_groups), label, group, halves, seen),
    }
    if values is not None:
        predicted = _quick_model(values, words, label, halves, seed)
        result["model"] = _accuracies(predicted, label, group, halves, seen)
    return result


def _lookup(
    train: Floats, group: npt.NDArray[Any], label: npt.NDArray[np.int64], n_classes: int, n_groups: int
) -> npt.NDArray[np.int64]:
    """Predict [n_records] the majority label of the same flow text in training, else the most frequent class."""
    votes = np.bincount(group * n_classes + label, weights=train, minlength=n_groups * n_classes)
    votes = votes.reshape(n_groups, n_classes)
    answer = np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1), votes.sum(axis=0).argmax())
    return answer[group].astype(np.int64)


def _quick_model(
    values: Floats, words: list[int], label: npt.NDArray[np.int64], halves: Halves, seed: int
) -> npt.NDArray[np.int64]:
    """Predict [n_records] with one small, fixed LightGBM trained on the train rows (as record weights).

    Args:
        values: Features of each record.
        words: Places of the categories among them.
        label: Class of each record.
        halves: Train and test rows of each record.
        seed: Seed of the model.
    """
    import lightgbm

    used = halves.train > 0
    present, target = np.unique(label[used], return_inverse=True)
    if len(present) < 2:
        return np.full(len(label), present[0], dtype=np.int64)
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
    data = lightgbm.Dataset(values[used], target, weight=halves.train[used], categorical_feature=words or "auto")
    model = lightgbm.train(parameters, data, num_boost_round=60)
    answer = np.full(len(label), -1, dtype=np.int64)
    wanted = halves.test > 0
    answer[wanted] = present[np.asarray(model.predict(values[wanted])).argmax(axis=1)]
    return answer


def _accuracies(
    predicted: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    group: npt.NDArray[Any],
    halves: Halves,
    seen: npt.NDArray[np.bool_],
) -> dict[str, float | None]:
    right = (predicted == label).astype(np.float64)
    size = np.bincount(group, weights=halves.test)[group]
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
