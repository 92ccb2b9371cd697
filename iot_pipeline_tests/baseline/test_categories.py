"""Baselines on a table with categories, values that no training row has among them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.baseline.automl import AutoMLConfig, as_categories, run_automl
from iot_pipeline.baseline.contributions import explain_lightgbm, explain_tree
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.baseline.nearest import run_nearest
from iot_pipeline.flows.matrix import Columns, numbered, words_of
from iot_pipeline_tests.flows.category_table import NUMBERS, connections

SPEC = connections()
NAMES, CLASSES = SPEC.feature_names, SPEC.classes


def flows(rows: int, seed: int) -> pd.DataFrame:
    """Flows whose class is told by service alone; numbers say nothing."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 4, rows)
    service = np.array(["http", "private", "ecr_i", "other"], dtype=object)[label]
    table = pd.DataFrame({"proto": "tcp", "service": service, "flag": random.choice(["SF", "S0"], rows)})
    for name in NUMBERS:
        table[name] = random.normal(size=rows).round(2)
    return table.assign(flow_group=[f"{seed}-{n}" for n in range(rows)], label=np.array(CLASSES, dtype=object)[label])


TRAIN, TEST = flows(300, 1), flows(40, 2)
UNSEEN = TEST.assign(service="never-seen", flag="OTH")


def accuracy(log_probs: np.ndarray) -> float:
    return float((np.array(CLASSES, dtype=object)[log_probs.argmax(axis=1)] == TEST["label"].to_numpy()).mean())


def test_lightgbm_splits_values_and_takes_unseen_ones() -> None:
    assert accuracy(run_lightgbm(TRAIN, TEST, NAMES, CLASSES, seed=1).log_probs) == 1.0
    assert np.isfinite(run_lightgbm(TRAIN, UNSEEN, NAMES, CLASSES, seed=1).log_probs).all()


def test_contributions_lie_on_the_category_that_tells() -> None:
    made = explain_lightgbm(TRAIN, TEST, NAMES, CLASSES, seed=1)
    own = made.values[np.arange(len(TEST)), [CLASSES.index(name) for name in made.labels]]
    assert (own.argmax(axis=1) == NAMES.index("service")).all()
    tree = explain_tree(TRAIN, TEST, TEST, NAMES, seed=1)
    assert tree.labels == TEST["label"].tolist()
    assert all(path == [("service", None, None)] for path in tree.paths)
    assert len(explain_tree(TRAIN, TEST, UNSEEN, NAMES, seed=1).labels) == len(UNSEEN)


def test_automl_takes_categories_and_values_that_training_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"GBM": {"num_boost_round": 20}, "XGB": {"n_estimators": 10}, "XT": {"n_estimators": 10}}
    monkeypatch.setattr("iot_pipeline.baseline.automl.FIXED_MODELS", few)
    both = pd.concat([TEST, UNSEEN.assign(flow_group=UNSEEN["flow_group"] + "u")])
    result = run_automl(TRAIN, both, NAMES, CLASSES, AutoMLConfig(seed=1))
    assert accuracy(result.log_probs[: len(TEST)]) == 1.0
    assert np.isfinite(result.log_probs).all()
    assert max(result.report["importances"], key=result.report["importances"].get) == "service"


def test_the_nearest_flow_counts_differing_values() -> None:
    assert run_nearest(TRAIN, TRAIN, SPEC, CLASSES).report["distance_mean"] == 0.0


def test_matrices_number_words_by_the_training_rows() -> None:
    words = words_of(TRAIN, NAMES)
    assert words["service"] == ["ecr_i", "http", "other", "private"]
    table = pd.DataFrame({"service": ["http", "new"], "proto": "tcp", "flag": "SF"} | dict.fromkeys(NUMBERS, 0.0))
    assert numbered(table, NAMES, words)[:, NAMES.index("service")].tolist() == pytest.approx(
        [1.0, np.nan], nan_ok=True
    )
    assert as_categories(table, words)["service"].isna().tolist() == [False, True]
    columns = Columns.of(TRAIN, NAMES, most=2)
    assert sum(name == "service" for name, _ in columns.names) == 2
    assert columns.matrix(table).shape == (2, len(columns.names))
