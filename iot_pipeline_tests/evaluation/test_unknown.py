"""Unknown flows: false alarms as stated for any student, strange flows found, reasons that are true of the flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.exact import exact_interval
from iot_pipeline.evaluation.metrics import normalise_log_probs
from iot_pipeline.evaluation.unknown.choice import DEFAULT, OWN, PLAYED, Choice, auroc, choose_score
from iot_pipeline.evaluation.unknown.detector import Unknown, choose_reference, false_alarms
from iot_pipeline.evaluation.unknown.features import FeatureSpace
from iot_pipeline.evaluation.unknown.left_out_class import Sides, measured
from iot_pipeline.evaluation.unknown.measure import Judged, blocks, curve, measure, summary, told
from iot_pipeline.evaluation.unknown.outputs import Outputs, load_outputs, save_outputs
from iot_pipeline.evaluation.unknown.scores import SCORES, Reference
from iot_pipeline.flows.feature import Format

CLASSES = ["a", "b", "c"]
FORM = Format(decimals=3)
FEATURES = ["bytes", "pkts", "proto"]
CENTRES = {"a": (0.0, 0.0), "b": (6.0, 0.0), "c": (0.0, 6.0), "new": (40.0, 40.0)}
ROWS = np.random.default_rng(5).normal(0, 1, (3, 9)).astype(np.float32)  # the head's, with a bias


def flows(kinds: list[str], seed: int) -> tuple[pd.DataFrame, list[str], Outputs]:
    """Flows about the centre of their kind, and a student whose states say the same."""
    random = np.random.default_rng(seed)
    places = np.array([CENTRES[kind] for kind in kinds]) + random.normal(0, 1, (len(kinds), 2))
    words = ["udp" if kind == "new" else "tcp" for kind in kinds]
    table = pd.DataFrame({"bytes": places[:, 0], "pkts": places[:, 1], "proto": words})
    known = np.array([CENTRES[name] for name in CLASSES])
    scores = normalise_log_probs(-((places[:, None] - known[None]) ** 2).sum(2) / 2)
    states = np.column_stack([places, random.normal(0, 0.1, (len(kinds), 6))])
    return table, kinds, Outputs.of(scores, states, ROWS)


def drawn(count: int, seed: int) -> tuple[pd.DataFrame, list[str], Outputs]:
    return flows(np.random.default_rng(seed).choice(CLASSES, count).tolist(), seed)


def reference_of(count: int = 150, seed: int = 0) -> Reference:
    table, labels, outputs = drawn(count, seed)
    return Reference.of(table, FEATURES, FORM, labels, outputs)


def detector(score: str, count: int = 400, seed: int = 1) -> Unknown:
    table, _, outputs = drawn(count, seed)
    return Unknown.fit(Choice(score, {}), CLASSES, reference_of(), ROWS, outputs, table)


@pytest.mark.parametrize("score", SCORES)
def test_known_flows_are_called_unknown_as_often_as_stated(score: str) -> None:
    table, labels, outputs = drawn(3000, 2)
    found = false_alarms(detector(score, 3000).p_values(outputs, table), [{label} for label in labels], CLASSES)
    for alarm, of in found.items():
        share = float(alarm)
        assert abs(of["share"] - share) < 4 * (2 * share * (1 - share) / 3000) ** 0.5 + 1 / 3000
        assert of["by_class"].keys() == set(CLASSES)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 300))
def test_p_values_are_conformal_whatever_the_size(seed: int, size: int) -> None:
    fitted = detector("features", size, seed)
    table, _, outputs = drawn(50, seed + 1)
    p_values = fitted.p_values(outputs, table)
    assert ((p_values >= fitted.least) & (p_values <= 1)).all()
    scores = fitted.reference.scores(outputs, table, ["features"])["features"]
    for alarm, threshold in fitted.describe()["thresholds"].items():
        called = scores > threshold if threshold is not None else np.zeros(50, dtype=bool)
        assert np.array_equal(called, p_values <= float(alarm))


def test_a_flow_unlike_any_is_unknown_and_the_reasons_are_true_of_it() -> None:
    fitted = detector("features+class_distance")
    table, _, outputs = flows(["new", "a"], 3)
    strange, usual = fitted.score(outputs.log_probs, outputs.states, table)
    assert strange.unknown and strange.p_value == fitted.least and strange.nearest in CLASSES
    assert not usual.unknown and usual.p_value > 0.01 and usual.nearest == "a"
    told = {reason.feature: reason for reason in strange.reasons}
    assert told["proto"].kind == "new value" and str(told["proto"]) == "proto = udp: no known flow has it"
    number = told["bytes"]
    assert number.kind == "out of range" and number.high is not None and number.value > number.high
    assert number.by == pytest.approx((number.value - number.high) / (number.high - number.low))
    assert usual.reasons == []
    told_apart = fitted.score(outputs.log_probs, outputs.states, table, alarm=1.0)[1].reasons
    assert told_apart and all(reason.kind == "far" and reason.nearest is not None for reason in told_apart)


def test_the_score_that_finds_left_out_classes_is_chosen_without_the_unknown_one() -> None:
    (table, labels, _), noise = drawn(200, 4), np.random.default_rng(0).normal(0, 1, (400, 8))
    blind = Outputs.of(normalise_log_probs(noise[:, :3]), noise, ROWS)
    train, names, _ = drawn(200, 0)
    space = Reference.of(train, FEATURES, FORM, names, blind.at(np.arange(200)))
    choice = choose_score(space, blind.at(np.arange(200, 400)), table, [{label} for label in labels], CLASSES)
    assert choice.evidence.keys() == set(CLASSES) and choice.score == f"{max(choice.means, key=choice.means.get)}+{OWN}"  # type: ignore[arg-type]
    assert choice.means["features"] > 0.9 and choice.means.keys() == set(PLAYED)
    nothing = choose_score(space, blind.at(np.arange(200)), table, [{"a", "b"}] * 200, CLASSES)
    assert nothing.score == f"{DEFAULT}+{OWN}" and not nothing.evidence and nothing.means == {}


def test_a_class_taken_out_leaves_scores_as_if_it_had_no_name() -> None:
    _, _, outputs = drawn(20, 6)
    logits = outputs.states @ ROWS[:, :-1].T + ROWS[:, -1]
    whole = Outputs.of(normalise_log_probs(logits), outputs.states, ROWS).without(1)
    rest = Outputs.of(normalise_log_probs(logits[:, [0, 2]]), outputs.states, ROWS[[0, 2]])
    assert np.allclose(whole.log_probs, rest.log_probs) and np.allclose(whole.energy, rest.energy)


@pytest.mark.parametrize("score", ["features", "features+class_distance"])
def test_a_detector_is_the_same_when_it_is_read_again(tmp_path: Path, score: str) -> None:
    fitted = detector(score)
    fitted.save(tmp_path, {"false_alarms": {}})
    read = Unknown.load(tmp_path)
    assert read is not None and read.needs_states == (score != "features")
    table, _, outputs = drawn(40, 9)
    states = outputs.states if read.needs_states else None
    again = [one.p_value for one in read.score(outputs.log_probs, states, table)]
    assert np.allclose(again, fitted.p_values(outputs, table), atol=0.005)
    assert Unknown.load(tmp_path / "none") is None
    told = json.loads((tmp_path / "unknown.json").read_text())
    (tmp_path / "unknown.json").write_text(json.dumps({name: of for name, of in told.items() if name != "format"}))
    with pytest.raises(UserError, match="`iot-pipeline run` fits it again"):
        Unknown.load(tmp_path)


def test_too_few_calibration_flows_call_nothing_unknown_and_say_so() -> None:
    table, _, outputs = flows(["new"] * 3, 1)
    few = detector("features", 40)
    assert not any(one.unknown for one in few.score(outputs.log_probs, None, table))
    assert few.too_few() == (
        "no flow is called unknown at 1.00% false alarms: that needs 99 calibration flows, there are 40"
    )
    assert "that needs 33 calibration" in detector("features", 32).too_few(0.03)
    assert detector("features", 33).too_few(0.03) == ""
    assert few.too_few(0.05) == "" and all(one.unknown for one in few.score(outputs.log_probs, None, table, 0.05))
    with pytest.raises(UserError, match="needs the student's hidden states"):
        detector("neighbours").score(outputs.log_probs, None, table)


@pytest.mark.parametrize("value", [1e308, -1e308, 0.0])
def test_values_of_any_size_are_judged(value: float) -> None:
    table, _, outputs = drawn(2, 1)
    table["bytes"] = value
    found = detector("features+whitened+class_distance").score(outputs.log_probs, outputs.states, table)
    assert all(one.unknown == (value != 0.0) and 0 < one.p_value <= 1 for one in found)


def test_every_class_is_among_few_reference_flows() -> None:
    labels = ["a"] * 90 + ["b"] * 8 + ["c"] * 2
    kept = choose_reference(labels, 12, 1)
    assert sorted(labels[place] for place in kept) == ["a"] * 5 + ["b"] * 5 + ["c"] * 2
    assert choose_reference(labels, 500, 1).tolist() == list(range(100))


def test_a_feature_of_one_value_and_equal_scores_have_their_place() -> None:
    space = FeatureSpace.of(pd.DataFrame({"x": [2.0, 2.0], "y": [0.0, 1.0]}), ["x", "y"], FORM)
    far, place = space.nearest(pd.DataFrame({"x": [2.0, 5.0], "y": [1.0, 1.0]}))
    assert far[1] > far[0] + 1 > 1 and place.tolist() == [1, 1]
    reasons = space.reasons(pd.DataFrame({"x": [5.0], "y": [1.0]}), np.array([1]))[0]
    assert str(reasons[0]) == "x = 5: known flows have 2 to 2"
    assert auroc(np.array([1.0, 1.0, 1.0]), np.array([True, False, False])) == 0.5


def test_outputs_are_read_as_written(tmp_path: Path) -> None:
    _, _, outputs = drawn(5, 1)
    save_outputs(tmp_path / "o.npz", {"test": (["g1", "g2", "g3", "g4", "g5"], outputs)})
    groups, read = load_outputs(tmp_path / "o.npz")["test"]
    assert groups[1] == "g2" and np.allclose(read.log_probs, outputs.log_probs, rtol=1e-5)
    assert len(read) == 5 and np.allclose(read.states, outputs.states, atol=1e-4)


def test_measures_are_those_of_the_flows_and_of_resamples() -> None:
    random = np.random.default_rng(1)
    strange, scores = np.arange(400) >= 300, random.normal(0, 1, 400).round(1)
    scores[strange] += 2
    errors = np.where(strange, 1.0, (random.random(400) < 0.05) * 1.0)
    found = measure(Judged(scores, scores, strange, errors, 1 - scores / 10), 3, [0.8], 200)
    assert found["auroc"][0] == pytest.approx(auroc(scores, strange)) and len(found["auroc"]) == 201
    assert found["accuracy"][0] == pytest.approx(1 - errors[~strange].mean())
    assert found["found_0.8"][0] == (scores[strange] >= 2).mean()
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) > 0, True))  # flows of one score go together
    risk = np.cumsum(errors[order])[ends] / (ends + 1)
    best = max([(ends[place] + 1) / 400 for place in range(len(ends)) if risk[place] <= 0.01], default=0.0)
    assert found["coverage"][0] == pytest.approx(best)
    assert measure(Judged(scores, errors, strange, errors), 3, [], 1)["coverage"][0] > best  # errors are doubted most
    interval = told(found["auroc"])
    assert interval["low"] < interval["value"] < interval["high"]
    assert curve(Judged(scores, scores, strange, errors))[-1] == pytest.approx(errors.mean())
    parts = np.vstack(list(blocks(strange, 3, 200)))
    assert (parts[:, strange].sum(axis=1) == 100).all() and (parts[:, ~strange].sum(axis=1) == 300).all()


def left_out(strange_scores: list[float], seed: int = 1) -> dict[str, Any]:
    """What is measured of a class with so many test flows beside 300 known ones, by two models."""
    random, n = np.random.default_rng(seed), len(strange_scores)
    strange, errors = np.arange(n + 300) < n, np.array([1.0] * n + [0.0] * 300)
    known = random.normal(0, 1, 300)
    first, second = (np.append(np.array(strange_scores) + shift, known) for shift in (0.0, -0.5))
    judged = {
        name: Judged(scores, scores, strange, errors, np.where(scores > 2, 0.01, 0.5))
        for name, scores in (("student", first), ("lightgbm", second))
    }
    nowhere: Any = None
    return measured(judged, Sides(nowhere, nowhere, nowhere, strange, 0), 1)


def test_one_flow_of_a_class_says_next_to_nothing_of_the_class() -> None:
    found = left_out([1.5])
    for model in found["models"].values():
        auroc = model["auroc"]
        assert auroc["high"] - auroc["low"] > 0.9 and auroc["low"] <= auroc["value"] <= auroc["high"]
        assert model["false_alarms_0.01"]["high"] < 0.1  # of the 300 known flows much is known
    assert found["auroc_difference"]["low"] < 0 < found["auroc_difference"]["high"]
    found = left_out([9.0] * 30)["models"]["student"]
    assert found["auroc"]["value"] == 1 == found["auroc"]["high"] and found["found_0.01"]["value"] == 1
    assert found["auroc"]["low"] == found["found_0.01"]["low"] == pytest.approx(0.025 ** (1 / 30))
    assert left_out([2.5] * 30)["models"]["lightgbm"]["auroc"]["low"] > 0.95  # resamples differ: a bootstrap


@pytest.mark.parametrize("flows", [1, 3, 7, 19])
def test_intervals_of_few_flows_hold_the_truth_as_often_as_they_say(flows: int) -> None:
    random, held = np.random.default_rng(flows), 0
    for _ in range(300):
        places = random.beta(4.5, 0.5, flows)  # of mean 0.9
        low, high = exact_interval(float(places.mean()), flows)
        held += low <= 0.9 <= high
    assert held >= 0.95 * 300


def test_a_mean_over_classes_is_as_unsure_as_its_smallest_classes() -> None:
    many, one = (left_out(np.random.default_rng(n).normal(2, 1, n).tolist())["models"] for n in (200, 1))
    found = summary({"a": many, "b": one})["student"]
    values = [of["student"]["auroc"] for of in (many, one)]
    assert found["auroc"]["value"] == pytest.approx(np.mean([of["value"] for of in values]))
    assert values[1]["high"] - values[1]["low"] <= 2 * (found["auroc"]["high"] - found["auroc"]["low"]) < 1.1
    assert "curve" not in found and found.keys() >= {"accuracy", "coverage", "area", "found_0.05"}
    alike = summary(dict.fromkeys("abcd", many))["student"]["auroc"]
    assert alike["high"] - alike["low"] == pytest.approx((values[0]["high"] - values[0]["low"]) / 2)
    assert summary({}) == {}
