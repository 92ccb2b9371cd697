"""Studies over several training seeds: what three single runs once said, planted differences, and no false verdicts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.study import (
    EQUIVALENT,
    FEW_SEEDS,
    NOTHING_SHOWN,
    ONE_SEED,
    WITHIN_SPREAD,
    compare_seeds,
    holm,
    stage_pairs,
    verdict,
)
from iot_pipeline.evaluation.views import read_side
from iot_pipeline_tests.evaluation.simulated_runs import side_of, simulate_runs, verdicts

FLOWS = 2_000
LABELS = np.zeros(FLOWS, np.int64)


def wrong_on(flows: range) -> np.ndarray:
    """Predictions that are wrong on some flows."""
    predicted = LABELS.copy()
    predicted[list(flows)] = 1
    return predicted


def test_the_three_verdicts_that_one_seed_each_gave_come_out_as_no_difference() -> None:
    # Accuracy of feature_varied minus paraphrased in three runs that differed in nothing but the luck of training.
    lead = [-0.0084, -0.0055, 0.0055]
    arms = {
        "feature_varied": [wrong_on(range(round((0.025 - d) * FLOWS))) for d in lead],
        "paraphrased": [wrong_on(range(round(0.025 * FLOWS))) for _ in lead],
    }
    found = compare_seeds(side_of(LABELS), arms, [("feature_varied", "paraphrased")], 1)
    row = found["contrasts"][0]
    assert found["seeds"] == 3 and row["difference"] == pytest.approx(np.mean(lead), abs=4e-4)
    assert row["low"] < 0 < row["high"] and row["verdict"] == NOTHING_SHOWN


def test_one_seed_gives_figures_and_no_verdict() -> None:
    arms = {"a": [wrong_on(range(10))], "b": [wrong_on(range(1_000))]}
    found = compare_seeds(side_of(LABELS), arms, [("a", "b")], 1)
    for row in found["contrasts"]:
        assert row["verdict"] == ONE_SEED and row["p_holm"] is None and row["low"] > 0
    assert found["arms"]["a"]["accuracy"]["mean"] == 1 - 10 / FLOWS and found["arms"]["a"]["accuracy"]["spread"] is None


def test_a_model_without_seeds_is_paired_with_every_seed_of_another() -> None:
    arms = {"student": [wrong_on(range(n)) for n in (150, 160, 155, 152, 158)], "AutoML": [wrong_on(range(10))]}
    found = compare_seeds(side_of(LABELS), arms, [("student", "AutoML")], 1)
    assert found["contrasts"][0]["verdict"] == "AutoML is better"
    assert found["arms"]["AutoML"]["accuracy"]["spread"] == pytest.approx(0)
    with pytest.raises(UserError, match="every arm at the same seeds \\(5\\), but b has 2"):
        compare_seeds(side_of(LABELS), arms | {"b": arms["student"][:2]}, [], 1)


def test_a_difference_within_the_spread_of_training_is_not_put_into_words() -> None:
    row = {"first": "a", "second": "b", "difference": 0.004, "spread": 0.005, "p_holm": 0.001, "p_equivalent": 0.5}
    assert verdict(row, 5) == WITHIN_SPREAD
    assert verdict(row | {"spread": 0.003}, 5) == "a is better"
    assert verdict(row | {"spread": 0.003, "difference": -0.004}, 5) == "b is better"


def test_a_difference_that_is_shown_to_be_below_the_margin_is_not_called_better_alone() -> None:
    row = {"first": "a", "second": "b", "difference": 0.003, "spread": 0.001, "p_holm": 0.001, "p_equivalent": 0.001}
    assert verdict(row, 5) == "a is better, by less than the margin"
    assert verdict(row | {"spread": 0.004}, 5) == EQUIVALENT
    assert verdict(row | {"p_equivalent": 0.9}, 5) == "a is better"


@pytest.mark.parametrize("significant", ["p_holm", "p_equivalent"])
def test_fewer_than_five_seeds_claim_neither_a_difference_nor_equivalence(significant: str) -> None:
    row = {"first": "a", "second": "b", "difference": 0.004, "spread": 0.001, "p_holm": 0.9, "p_equivalent": 0.9}
    assert [verdict(row, seeds) for seeds in (2, 4, 5)] == [NOTHING_SHOWN] * 3
    assert [verdict(row | {significant: 0.001}, seeds) for seeds in (2, 4)] == [FEW_SEEDS] * 2
    assert verdict(row | {significant: 0.001}, 5) in (EQUIVALENT, "a is better")


def test_equal_students_are_equivalent_and_their_interval_is_a_point() -> None:
    arms = {name: [wrong_on(range(n)) for n in (90, 95, 100, 105, 110)] for name in ("a", "b")}
    row = compare_seeds(side_of(LABELS), arms, [("a", "b")], 1)["contrasts"][0]
    assert row["verdict"] == EQUIVALENT and row["low"] == row["high"] == 0


@pytest.mark.parametrize("flows", [30, 200])
def test_students_that_answer_alike_on_few_flows_are_not_called_equivalent(flows: int) -> None:
    labels = np.arange(flows) % 3  # 600 flows without a differing answer would rule a difference of 0.005 out
    arms = {name: [labels.copy() for _ in range(5)] for name in ("a", "b")}
    rows = compare_seeds(side_of(labels), arms, [("a", "b")], 1, resamples=200)["contrasts"]
    assert [row["verdict"] for row in rows] == [NOTHING_SHOWN] * 2


def test_a_view_that_is_empty_in_some_resample_is_refused() -> None:
    labels, sizes = list("xyxyx"), [2, 2, 2, 2, 1]
    records = pd.DataFrame({"flow_group": list("aabbc"), "label": labels, "rows": 1, "group_rows": sizes})
    arms = {"a": [np.zeros(3, np.int64)] * 5, "b": [np.array([0, 0, 1])] * 5}
    with pytest.raises(UserError, match="the clean view of this side has too few flows for a bootstrap"):
        compare_seeds(read_side(records, ["x", "y"]), arms, [("a", "b")], 1, view="clean")


def test_five_seeds_give_few_false_verdicts_and_find_a_planted_hundredth() -> None:
    random = np.random.default_rng(2027)
    same = verdicts(random, {"a": 0.975, "b": 0.975}, 40)
    assert sum("better" in text for text in same) <= 3  # benchmarks/study_power.py has rate and power
    planted = verdicts(random, {"a": 0.985, "b": 0.975}, 20)
    assert planted.count("a is better") >= 5 and "b is better" not in planted


def test_a_difference_as_large_as_the_margin_is_seldom_called_equivalent() -> None:
    found = verdicts(np.random.default_rng(7), {"a": 0.980, "b": 0.975}, 20)
    assert found.count(EQUIVALENT) <= 2


def test_a_study_comes_out_alike_and_its_seeds_may_come_in_any_order() -> None:
    side, arms = simulate_runs(np.random.default_rng(3), {"a": 0.97, "b": 0.98}, 500, 5, 0.004)
    first = compare_seeds(side, arms, [("a", "b")], 11, resamples=200)
    assert first == compare_seeds(side, arms, [("a", "b")], 11, resamples=200)
    turned = compare_seeds(side, {name: runs[::-1] for name, runs in arms.items()}, [("a", "b")], 11, resamples=200)
    assert turned["contrasts"][0]["difference"] == pytest.approx(first["contrasts"][0]["difference"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_correction_keeps_the_order_and_never_lowers_a_p_value(values: list[float]) -> None:
    corrected = holm(values)
    assert all(0 <= p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    assert corrected[int(np.argmin(values))] == pytest.approx(min(1, min(values) * len(values)))
    order = np.argsort(values, kind="stable")
    assert all(corrected[a] <= corrected[b] + 1e-12 for a, b in zip(order, order[1:], strict=False))


def test_stages_are_compared_with_the_one_before() -> None:
    made = ["original 10K", "original 70K", "paraphrased 30K"]
    assert stage_pairs(["10K", "30K", "70K"], made, "original") == [("original 70K", "original 10K")]
