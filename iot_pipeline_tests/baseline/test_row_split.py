"""AutoML on a split by row: repeated flows are measured where they were trained on."""

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.baseline import row_split
from iot_pipeline.baseline.automl import AutoMLConfig
from iot_pipeline.baseline.result import BaselineResult, spread
from iot_pipeline.baseline.row_split import run_row_split

CLASSES = ["a", "b", "c"]


def table(repeats: int, flows: int = 200) -> pd.DataFrame:
    """Flows of two features, each `repeats` times; the class cannot be told from the values, only remembered."""
    random = np.random.default_rng(3)
    once = pd.DataFrame(random.normal(size=(flows, 2)), columns=["x", "y"])
    once["label"] = random.choice(CLASSES, flows)
    once["flow_group"] = [f"g{number}" for number in range(flows)]
    return pd.concat([once] * repeats, ignore_index=True)


def remember(train: pd.DataFrame, test: pd.DataFrame, features: list[str], classes: list[str], config: AutoMLConfig,
             log: object = None) -> BaselineResult:  # fmt: skip
    """A stand-in for AutoML that knows the class of a flow it has seen, and answers `a` otherwise."""
    known = dict(zip(zip(train["x"], train["y"], strict=True), train["label"], strict=True))
    told = [known.get(values, "a") for values in zip(test["x"], test["y"], strict=True)]
    probabilities = np.array([[name == each for name in classes] for each in told], dtype=float)
    report = {"config": {"seed": config.seed}}
    return BaselineResult("automl", test["flow_group"].tolist(), spread(probabilities, classes, classes), report, {})


def test_held_out_rows_are_a_fifth_and_repeats_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_split, "run_automl", remember)
    rows = table(repeats=8)
    found, _ = run_row_split(rows, ["x", "y"], CLASSES, AutoMLConfig(seed=1))
    assert (found["train_rows"], found["test_rows"]) == (1280, 320)
    assert found["shared_test_share"] > 0.99 and found["accuracy"] > 0.99 and found["macro_f1"] > 0.99
    once, _ = run_row_split(table(repeats=1), ["x", "y"], CLASSES, AutoMLConfig(seed=1))
    assert once["shared_test_share"] == 0 and once["accuracy"] < 0.6


def test_each_row_counts_and_is_judged_by_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_split, "run_automl", remember)
    rows = table(repeats=8).sample(frac=1, random_state=5).reset_index(drop=True)
    found, _ = run_row_split(rows, ["x", "y"], CLASSES, AutoMLConfig(seed=1))
    held = np.random.default_rng(1).permutation(len(rows)) < 0.2 * len(rows)
    known = {(x, y): label for x, y, label in rows.loc[~held, ["x", "y", "label"]].itertuples(index=False)}
    right = [
        known.get((x, y), "a") == label for x, y, label in rows.loc[held, ["x", "y", "label"]].itertuples(index=False)
    ]
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_a_class_without_a_held_out_row_is_in_no_macro_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_split, "run_automl", remember)
    rows = table(repeats=2)
    rows["label"] = rows["label"].replace("a", "b")  # `remember` answers `a` to a flow that it has not seen
    held = np.random.default_rng(1).permutation(len(rows)) < 0.2 * len(rows)
    true, seen = rows.loc[held, "label"], rows.loc[held, "flow_group"].isin(rows.loc[~held, "flow_group"])
    found, _ = run_row_split(rows, ["x", "y"], CLASSES, AutoMLConfig(seed=1))
    scores = [2 * hits / (hits + (true == name).sum()) for name in "bc" if (hits := (seen & (true == name)).sum())]
    assert found["accuracy"] < 1 and found["macro_f1"] == pytest.approx(np.mean(scores))


def test_automl_itself_runs_on_a_row_split() -> None:
    rows = table(repeats=4, flows=60)
    rows["label"] = np.where(rows["x"] > 0, "a", "b")
    found, timings = run_row_split(rows, ["x", "y"], CLASSES, AutoMLConfig(seed=1))
    assert found["accuracy"] > 0.9 and timings["total_s"] > 0 and found["config"]["preset"] == "fixed"
