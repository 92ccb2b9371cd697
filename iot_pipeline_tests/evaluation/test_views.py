"""Views, metrics, ceilings and intervals on tables small enough to count by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.evaluate import check_ceiling, compare_predictions, evaluate_predictions
from iot_pipeline.evaluation.intervals import intervals, mcnemar
from iot_pipeline.evaluation.metrics import apply_temperature, ece, fit_temperature, reliability, score
from iot_pipeline.evaluation.views import read_side

CLASSES = ["Normal", "Flood", "Scan"]
# g1: 6 Normal + 2 Flood (conflict), g2: 4 Flood, g3: 1 Scan, g4: 1 Normal.
RECORDS = pd.DataFrame(
    [
        ("g1", "Normal", 6, 8),
        ("g1", "Flood", 2, 8),
        ("g2", "Flood", 4, 4),
        ("g3", "Scan", 1, 1),
        ("g4", "Normal", 1, 1),
    ],
    columns=["flow_group", "label", "rows", "group_rows"],
)
GROUPS = ["g4", "g3", "g2", "g1", "elsewhere"]


def certain(*labels: str) -> np.ndarray:
    """Log-probabilities that put 0.9 on each label."""
    return np.log(np.where(np.array([[name == label for name in CLASSES] for label in labels]), 0.9, 0.05))


@pytest.mark.parametrize("rare", [2, 10])
def test_rare_classes_that_are_all_wrong_do_not_lift_the_interval_of_macro_f1_off_its_value(rare: int) -> None:
    random, classes = np.random.default_rng(0), [f"c{number:02}" for number in range(5 + rare)]
    labels = np.append(np.arange(400) % 5, np.arange(5, 5 + rare))  # a flow of each rare class
    names = [classes[label] for label in labels]
    groups = [f"{number:03}" for number in range(len(labels))]
    records = pd.DataFrame({"flow_group": groups, "label": names, "rows": 1, "group_rows": 1})
    told = np.where(labels >= 5, 0, np.where(random.random(len(labels)) < 0.9, labels, (labels + 1) % 5))
    log_probs = np.log(np.eye(len(classes))[told] * 0.9 + 0.1 / len(classes))
    view = evaluate_predictions(records, groups, log_probs, classes, 1)["views"]["distinct"]
    low, high = view["intervals"]["macro_f1"]
    assert low < view["macro_f1"] < high and high - low < 0.06


def test_three_views_by_hand() -> None:
    result = evaluate_predictions(RECORDS, GROUPS, certain("Flood", "Scan", "Flood", "Normal", "Scan"), CLASSES, 1)
    row, distinct, clean = (result["views"][view] for view in ("row", "distinct", "clean"))
    assert row["accuracy"] == pytest.approx(11 / 14) and row["ceiling"] == pytest.approx(12 / 14)
    assert distinct["accuracy"] == pytest.approx(2.75 / 4) and distinct["ceiling"] == pytest.approx(3.75 / 4)
    assert clean["accuracy"] == pytest.approx(2 / 3) and clean["ceiling"] == 1.0
    assert row["confusion"] == [[6, 1, 0], [2, 4, 0], [0, 0, 1]]
    flood = row["per_class"]["Flood"]
    assert (flood["precision"], flood["support"]) == (pytest.approx(4 / 5), 6)
    assert flood["recall"] == pytest.approx(4 / 6) and flood["f1"] == pytest.approx(8 / 11)
    # Kish: Flood has 2 and 4 rows, (2 + 4)^2 / (4 + 16); by distinct flows it has 1/4 and 1 of a flow.
    assert flood["effective_size"] == pytest.approx(36 / 20)
    assert distinct["per_class"]["Flood"]["effective_size"] == pytest.approx(1.25**2 / (1 + 1 / 16))
    assert [clean["per_class"][name]["effective_size"] for name in CLASSES] == [1, 1, 1]
    assert row["macro_f1"] == pytest.approx((12 / 15 + 8 / 11 + 1) / 3)
    assert row["log_loss"] == pytest.approx(-(11 * np.log(0.9) + 3 * np.log(0.05)) / 14)
    for view in (row, distinct, clean):
        low, high = view["intervals"]["accuracy"]
        assert low <= view["accuracy"] <= high
    json.dumps(result, allow_nan=False)


def test_a_perfect_answer_reaches_the_ceiling_exactly() -> None:
    result = evaluate_predictions(RECORDS, GROUPS[:4], certain("Normal", "Scan", "Flood", "Normal"), CLASSES, 1)
    assert [view["share_of_ceiling"] for view in result["views"].values()] == pytest.approx([1.0] * 3)


def test_above_the_ceiling_is_refused() -> None:
    check_ceiling(0.9, 0.9, "row")
    with pytest.raises(UserError, match=r"0\.910000 in the row view lies above its ceiling 0\.900000"):
        check_ceiling(0.91, 0.90, "row")


@pytest.mark.parametrize(
    ("groups", "log_probs", "words"),
    [
        (["g1"], certain("Flood"), "3 flow groups have no prediction"),
        (GROUPS[:4], certain("Flood"), r"shape \(1, 3\), expected \(4, 3\)"),
        (GROUPS[:4], np.full((4, 3), np.nan), "NaN"),
    ],
)
def test_bad_predictions(groups: list[str], log_probs: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate_predictions(RECORDS, groups, log_probs, CLASSES, 1)


def test_bad_records() -> None:
    with pytest.raises(UserError, match="do not hold every label"):
        read_side(RECORDS.iloc[1:], CLASSES)
    with pytest.raises(UserError, match="labels that the data set spec does not list: Scan"):
        read_side(RECORDS, CLASSES[:2])
    with pytest.raises(UserError, match="given side of the split has no record"):
        read_side(RECORDS.iloc[:0], CLASSES)


def test_a_side_of_conflicts_alone_has_no_clean_view() -> None:
    result = evaluate_predictions(RECORDS.iloc[:2], ["g1"], certain("Normal"), CLASSES, 1)
    assert result["views"]["clean"] is None and result["views"]["row"]["accuracy"] == 0.75
    assert result["views"]["row"]["intervals"]["accuracy"] == [0.75, 0.75]


@st.composite
def sides(draw: st.DrawFn) -> pd.DataFrame:
    rows = []
    for group in range(draw(st.integers(1, 12))):
        labels = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
        counts = [draw(st.integers(1, 50)) for _ in labels]
        rows += [(f"g{group}", label, n, sum(counts)) for label, n in zip(labels, counts, strict=True)]
    return pd.DataFrame(rows, columns=RECORDS.columns)


@settings(max_examples=30, deadline=None)
@given(sides(), st.integers(0, 1000))
def test_no_function_of_the_text_passes_the_ceiling(records: pd.DataFrame, seed: int) -> None:
    groups = sorted(set(records["flow_group"]))
    guess = np.random.default_rng(seed).normal(size=(len(groups), 3))
    views = evaluate_predictions(records, groups, guess, CLASSES, 1, resamples=5)["views"]
    for view in filter(None, views.values()):
        assert view["accuracy"] <= view["ceiling"] + 1e-9
        assert 0 <= view["macro_f1"] <= 1 and 0 <= view["ece"] <= 1
    shuffled = evaluate_predictions(records[::-1], groups[::-1], guess[::-1], CLASSES, 1, resamples=5)["views"]
    assert shuffled == views
    best = np.log(np.eye(3) + 1e-9)[read_side(records, CLASSES).majority]
    order = read_side(records, CLASSES).group_ids
    for view in filter(None, evaluate_predictions(records, order, best, CLASSES, 1, resamples=5)["views"].values()):
        assert view["accuracy"] == pytest.approx(view["ceiling"])


def test_metrics_match_sklearn() -> None:
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.metrics import log_loss as reference

    rng = np.random.default_rng(0)
    true, weight = rng.integers(0, 3, 500), rng.random(500)
    probabilities = rng.dirichlet([1, 1, 1], 500)
    found = score(true, np.log(probabilities), weight, tuple(CLASSES))
    guess = probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, guess, sample_weight=weight))
    assert found["macro_f1"] == pytest.approx(f1_score(true, guess, average="macro", sample_weight=weight))
    assert found["log_loss"] == pytest.approx(reference(true, probabilities, sample_weight=weight))


def test_reliability_by_hand_and_independent_of_order() -> None:
    confidence, correct = np.array([0.5, 0.5, 0.9, 0.9]), np.array([1.0, 0.0, 1.0, 1.0])
    table = reliability(confidence, correct, np.ones(4), bins=2)
    assert [(row["confidence"], row["accuracy"], row["weight"]) for row in table] == [(0.5, 0.5, 2), (0.9, 1.0, 2)]
    assert ece(table) == pytest.approx(0.05)
    assert reliability(confidence[::-1], correct[::-1], np.ones(4), bins=2) == table


def many(count: int, classes: int = 7) -> tuple[pd.DataFrame, list[str], np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(classes)]
    groups = [f"{i:06d}" for i in range(count)]
    label = rng.integers(0, classes, count)
    rows = rng.integers(1, 30, count)
    records = pd.DataFrame({"flow_group": groups, "label": [names[i] for i in label], "rows": rows, "group_rows": rows})
    log_probs = rng.normal(size=(count, classes))
    log_probs[np.arange(count), label] += 2
    return records, groups, log_probs, names


def test_bootstrap_is_seeded_and_right() -> None:
    records, _, log_probs, names = many(10_000)
    side = read_side(records, names)
    found = intervals(side, log_probs.argmax(1), seed=1)
    assert found == intervals(side, log_probs.argmax(1), seed=1)
    low, high = found["distinct"]["accuracy"]
    right = (log_probs.argmax(1) == side.label).mean()
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(right * (1 - right) / 10_000), rel=0.15)
    assert low < right < high


def test_paired_difference() -> None:
    records, groups, log_probs, names = many(2_000)
    worse = log_probs + np.random.default_rng(1).normal(size=log_probs.shape) * 1.5
    found = compare_predictions(records, (groups, log_probs), (groups, worse), names, seed=1)
    assert found["views"]["distinct"]["difference"] > 0 and found["views"]["distinct"]["excludes_zero"]
    assert found["mcnemar"]["p_exact"] < 1e-3
    same = compare_predictions(records, (groups, log_probs), (groups, log_probs), names, seed=1)
    assert same["views"]["row"] == {"difference": 0.0, "interval": [0.0, 0.0], "excludes_zero": False}
    assert same["mcnemar"] == {"only_first": 0, "only_second": 0, "p_exact": 1.0, "p_mid": 1.0}


def test_mcnemar_by_hand() -> None:
    found = mcnemar(1, 5)  # 2 * (1 + 6) / 64, less 6 / 64
    assert found["p_exact"] == pytest.approx(14 / 64) and found["p_mid"] == pytest.approx(8 / 64)
    assert mcnemar(3, 3)["p_exact"] == 1.0


def test_a_few_flows_named_rightly_do_not_make_a_model_certain() -> None:
    def fitted(flows: int) -> dict[str, float]:
        groups = [f"g{number:04}" for number in range(flows)]
        records = pd.DataFrame({"flow_group": groups, "label": "Flood", "rows": 1, "group_rows": 1})
        return fit_temperature(read_side(records, CLASSES), certain(*["Flood"] * flows))

    few, many_more = fitted(10), fitted(5_000)
    assert 0.5 < few["temperature"] < 1 and many_more["temperature"] < 0.4
    assert few["log_loss_before"] == pytest.approx(-np.log(0.9))
    assert 0 < few["log_loss_after"] < few["log_loss_before"]


def test_temperature_undoes_overconfidence() -> None:
    records, groups, log_probs, names = many(4_000)
    side = read_side(records, names)
    honest = log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True))
    base = fit_temperature(side, honest)["temperature"]
    found = fit_temperature(side, honest * 4)
    assert found["temperature"] == pytest.approx(4 * base, rel=0.02)
    assert found["log_loss_after"] < found["log_loss_before"]
    scaled = apply_temperature(honest * 4, found["temperature"])
    assert np.allclose(np.exp(scaled).sum(1), 1) and (scaled.argmax(1) == honest.argmax(1)).all()
    result = evaluate_predictions(records, groups, honest * 4, names, 1, found["temperature"], resamples=5)
    view = result["views"]["distinct"]
    assert view["calibrated"]["ece"] < view["ece"]
