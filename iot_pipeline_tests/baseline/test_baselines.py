"""Baselines: same interface, same classes, fixed results, and small or odd data that do not break them."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl, validation_rows
from iot_pipeline.baseline.hash_lookup import run_hash_lookup
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.baseline.majority import run_majority
from iot_pipeline.baseline.nearest import run_nearest
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.errors import UserError
from iot_pipeline_tests.quality.factories import CLASSES, flow_table, made_spec, random_flows, record_table

FEATURES = ["pkts", "iat.avg"]
Run = Callable[[pd.DataFrame, pd.DataFrame], BaselineResult]


def lookup(train: pd.DataFrame, test: pd.DataFrame) -> BaselineResult:
    return run_hash_lookup(train, test, CLASSES)


def majority(train: pd.DataFrame, test: pd.DataFrame) -> BaselineResult:
    return run_majority(train, test, CLASSES)


def nearest(train: pd.DataFrame, test: pd.DataFrame) -> BaselineResult:
    return run_nearest(train, test, made_spec(), CLASSES)


def boosted(train: pd.DataFrame, test: pd.DataFrame) -> BaselineResult:
    return run_lightgbm(train, test, FEATURES, CLASSES, seed=1)


def automl(train: pd.DataFrame, test: pd.DataFrame) -> BaselineResult:
    return run_automl(train, test, FEATURES, CLASSES, AutoMLConfig(seed=1))


def split(flows: list) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of train groups, representatives of test groups."""
    frame = flow_table(made_spec(), flows)
    records = record_table(frame)
    train = frame[frame["flow_group"].isin(records.loc[records["side"] == "train", "flow_group"])]
    test = frame.loc[~frame["flow_group"].isin(train["flow_group"]) & (frame["occurrence"] == 0)]
    return train, test


def right(result: BaselineResult, test: pd.DataFrame) -> float:
    truth = np.where(test["pkts"] > 1.6, 1, np.where(test["iat.avg"] > 1.4, 2, 0))
    return float((result.log_probs.argmax(1) == truth).mean())


def check(result: BaselineResult, test: pd.DataFrame) -> None:
    assert result.group_ids == test["flow_group"].tolist()
    assert result.log_probs.shape == (len(test), 3) and np.isfinite(result.log_probs).all()
    assert np.allclose(np.exp(result.log_probs).sum(1), 1)


def test_lookup_answers_the_majority_and_the_prior() -> None:
    train, test = split(random_flows(600, conflict=0.0))
    result = run_hash_lookup(train, pd.concat([test, train.iloc[:4]]), CLASSES)
    check(result, pd.concat([test, train.iloc[:4]]))
    prior = train["label"].value_counts(normalize=True).reindex(CLASSES).to_numpy()
    assert np.allclose(np.exp(result.log_probs[: len(test)]), prior, atol=1e-5)
    seen = [CLASSES[i] for i in result.log_probs[len(test) :].argmax(1)]
    assert seen == train["label"].iloc[:4].tolist()
    assert result.report["seen_groups"] == 4 and 0 < result.report["seen_share"] < 1


def test_the_majority_class_is_counted_over_distinct_flows() -> None:
    spec = made_spec()
    flows = [*[(1.0, 1.0, "Normal")] * 8, (1.0, 1.0, "Flood"), (2.0, 2.0, "Scan"), (3.0, 3.0, "Scan")]
    train, test = flow_table(spec, flows), flow_table(spec, [(9.0, 9.0, "Normal"), (2.0, 2.0, "Flood")])
    result = majority(train, test)
    check(result, test)
    assert np.allclose(np.exp(result.log_probs), np.array([8 / 9, 1 / 9, 2]) / 3, atol=1e-5)
    assert result.report["majority_class"] == "Scan" and result.report["distinct_train_flows"] == 3


def test_the_nearest_flows_vote_by_distinct_flow() -> None:
    spec = made_spec()
    # (1, 9) differs in one value from (1, 1), of 5 Flood rows and one Normal, and from (2, 9) and (3, 9), both Scan;
    # the nine rows of (7, 7) differ in two.
    near = [*[(1.0, 1.0, "Flood")] * 5, (1.0, 1.0, "Normal"), (2.0, 9.0, "Scan"), (3.0, 9.0, "Scan")]
    train = flow_table(spec, near + [(7.0, 7.0, "Normal")] * 9)
    test = flow_table(spec, [(1.0, 9.0, "Normal"), (7.0, 7.0004, "Flood")])
    result = run_nearest(train, test, spec, CLASSES)
    prior = np.array([10, 5, 2]) / 17
    wanted = [(np.array([1 / 6, 5 / 6, 2.0]) + prior) / 4, (np.array([1.0, 0, 0]) + prior) / 2]
    assert np.allclose(np.exp(result.log_probs), wanted, atol=1e-5)
    assert result.report["distance_mean"] == 0.5  # the second prints as a train flow does


def test_lightgbm_learns_and_repeats() -> None:
    train, test = split(random_flows(2000, conflict=0.02))
    result = boosted(train, test)
    check(result, test)
    assert right(result, test) > 0.9
    assert np.array_equal(result.log_probs, boosted(train, test).log_probs)


def test_automl_learns_repeats_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train, test = split(random_flows(900, conflict=0.02))
    heard = logging.getLogger("somebody.else")
    result = run_automl(train, test, FEATURES, CLASSES, AutoMLConfig(seed=1), log=heard.warning)
    # The libraries keep quiet, and nobody else is silenced for it.
    assert [record.name for record in caplog.records] == ["somebody.else"]
    check(result, test)
    assert right(result, test) > 0.85
    again = automl(train, test)
    assert np.array_equal(result.log_probs, again.log_probs) and result.report == again.report
    assert {item["model"] for item in result.report["models"]} >= {"LightGBM", "XGBoost", "ExtraTrees"}
    assert set(result.report["importances"]) == set(FEATURES)
    assert result.report["reproducible"] and "total_s" in result.timings
    assert list(tmp_path.glob("automl-*")) == []


def test_a_time_limited_preset_records_its_models_and_is_not_reproducible() -> None:
    train, test = split(random_flows(300, conflict=0.02))
    result = None
    for seconds in (6, 75):  # what suffices for one good model depends on the machine, and on who else is on it
        with contextlib.suppress(UserError):
            config = AutoMLConfig("best_quality", seconds=seconds, seed=1)
            result = run_automl(train, test, FEATURES, CLASSES, config)
            if right(result, test) > 0.85:
                break
    assert result is not None
    check(result, test)
    assert right(result, test) > 0.85
    report = result.report
    assert result.name == "automl_best_quality" and report["reproducible"] is False
    assert report["config"] == {"preset": "best_quality", "seconds": seconds, "seed": 1, "cores": 2}
    names = [item["model"] for item in report["models"]]
    assert report["predicted_with"] == report["best"] in names and any("_BAG_L1" in name for name in names)
    assert all(np.isfinite(item["validation_log_loss"]) for item in report["models"])
    assert result.timings["fitted_s"] > 0 and set(result.timings["models_s"]) == set(names)
    assert report["hyperparameters"] is None and set(report["importances"]) == set(FEATURES)


def test_a_time_limit_that_leaves_no_model_says_which_setting_to_raise() -> None:
    train, test = split(random_flows(200))
    with pytest.raises(UserError, match=r"trained no model in 0.001 s .*IOT_AUTOML_SECONDS"):
        run_automl(train, test, FEATURES, CLASSES, AutoMLConfig("best_quality", seconds=0.001))


@pytest.mark.parametrize("run", [lookup, majority, nearest, boosted, automl])
def test_a_class_without_training_rows_and_another_with_one(run: Run) -> None:
    train, test = split(random_flows(200))
    scarce = pd.concat([train[train["label"] == "Normal"], train[train["label"] == "Flood"].iloc[:1]])
    result = run(scarce, test)
    check(result, test)
    assert (np.exp(result.log_probs[:, 2]) < 1e-3).all()


@pytest.mark.parametrize("run", [lookup, majority, nearest, boosted, automl])
def test_one_class_alone(run: Run) -> None:
    train, test = split(random_flows(100))
    result = run(train[train["label"] == "Scan"].iloc[:3], test)
    check(result, test)
    assert (result.log_probs.argmax(1) == 2).all()


@pytest.mark.parametrize("run", [lookup, majority, nearest, boosted, automl])
def test_bad_tables(run: Run) -> None:
    train, test = split(random_flows(100))
    with pytest.raises(UserError, match="training table has no row"):
        run(train.iloc[:0], test)
    with pytest.raises(UserError, match="test table has no row"):
        run(train, test.iloc[:0])
    with pytest.raises(UserError, match="unknown labels: Worm"):
        run(train.assign(label="Worm"), test)


def test_validation_rows_share_no_flow_and_leave_every_class_in_training() -> None:
    train, _ = split(random_flows(500))
    held = validation_rows(train["flow_group"], train["label"], seed=3)
    assert 0.05 < held.mean() < 0.3
    assert not set(train["flow_group"][held]) & set(train["flow_group"][~held])
    assert set(train["label"][~held]) == set(CLASSES)
