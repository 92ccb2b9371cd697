"""Prediction sets: coverage as promised, for any student, and sets that say what cannot be ruled out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.evaluation.conformal import LEVELS, fit_thresholds, measure_sets, prediction_sets
from iot_pipeline.evaluation.metrics import normalise_log_probs
from iot_pipeline.evaluation.views import Side, read_side

CLASSES = ["a", "b", "c", "d"]


def drawn(flows: int, seed: int, skill: float) -> tuple[Side, np.ndarray]:
    """A side of distinct flows and a student's log-probabilities, in the order of the side's groups."""
    random = np.random.default_rng(seed)
    label = random.choice(4, flows, p=[0.6, 0.2, 0.15, 0.05])
    logits = random.normal(0, 1, (flows, 4)) + skill * np.eye(4)[label]
    groups = [f"g{place:05d}" for place in range(flows)]
    records = pd.DataFrame({"flow_group": groups, "label": [CLASSES[c] for c in label], "rows": 1, "group_rows": 1})
    return read_side(records, CLASSES), normalise_log_probs(logits)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 6))
def test_sets_hold_the_label_as_often_as_promised_for_any_student(seed: int, skill: float) -> None:
    fit, thresholds_of = drawn(2000, seed, skill), {}
    thresholds_of = fit_thresholds(*fit)
    found = measure_sets(*drawn(2000, seed + 1, skill), thresholds_of)
    for level in LEVELS:
        # Both sides are drawn: four standard deviations of each.
        spread = 4 * (2 * level * (1 - level) / 2000) ** 0.5
        assert abs(found[str(level)]["coverage"] - level) < spread + 2 / 2000


def test_too_few_flows_for_a_level_rule_no_class_out() -> None:
    thresholds = fit_thresholds(*drawn(30, 1, 5.0))
    assert thresholds["0.99"] == 1.0 and thresholds["0.9"] < 1.0
    assert prediction_sets(np.log([[1.0, 1e-300, 1e-300, 1e-300]]), 1.0).all()


def test_a_better_student_has_smaller_sets_and_an_empty_one_says_that_no_class_is_likely_enough() -> None:
    weak, strong = (
        measure_sets(*drawn(1500, 8, skill), fit_thresholds(*drawn(1500, 7, skill)))["0.9"] for skill in (1.0, 4.0)
    )
    assert strong["size"] < weak["size"] and weak["by_class"].keys() == set(CLASSES)
    assert prediction_sets(np.log([[0.4, 0.3, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01]]), 0.1).sum(axis=1).tolist() == [0, 1]


def test_a_flow_under_two_labels_counts_for_each_by_its_rows() -> None:
    records = pd.DataFrame({"flow_group": ["g", "g"], "label": ["a", "b"], "rows": [3, 1], "group_rows": [4, 4]})
    found = measure_sets(read_side(records, CLASSES), np.log([[0.9, 0.05, 0.03, 0.02]]), {"0.9": 0.5})
    assert found["0.9"]["coverage"] == pytest.approx(0.75)
    assert found["0.9"]["by_class"] == {"a": 1.0, "b": 0.0, "c": None, "d": None}
