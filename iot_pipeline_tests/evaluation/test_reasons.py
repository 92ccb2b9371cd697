"""Right reasons: 200 planted cases of each kind are told apart at 99 %, and chance levels are exact."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.evaluation.class_guess import class_words, guess_measure, masked
from iot_pipeline.evaluation.measure import Measure, interval, sentence, verdicts
from iot_pipeline.evaluation.reasons import (
    NO_EVIDENCE,
    Explained,
    _random_hits,
    class_measures,
    consistency_measure,
    contribution_measure,
    evidence_measures,
    not_judged,
    read_explanations,
    rows_of,
)
from iot_pipeline_tests.evaluation.made_flows import CLASSES, FEATURES, SPEC, answer, at_random, flows, present, ranks

CASES, LEAST = 200, 0.99
LABELS = [CLASSES[place % len(CLASSES)] for place in range(400)]
JUDGED = [place for place in range(400) if len(present(flows()[place], LABELS[place])) >= 2][:CASES]


def explained(answers: list[str], chosen: list[int], labels: list[str] = LABELS) -> Explained:
    return read_explanations([flows()[i] for i in chosen], answers, [labels[i] for i in chosen], SPEC, ranks())


def told_apart(planted: np.ndarray, others: np.ndarray, threshold: float) -> float:
    """Share of cases on the right side of a threshold."""
    return float(np.mean([*(planted > threshold), *(others <= threshold)]))


def test_explanations_that_name_expected_evidence_are_told_from_random_features() -> None:
    named = [answer(flows()[i], LABELS[i], present(flows()[i], LABELS[i])) for i in JUDGED]
    drawn = [answer(flows()[i], LABELS[i], at_random(max(3, len(present(flows()[i], LABELS[i]))), i)) for i in JUDGED]
    good, poor = (
        evidence_measures(explained(found, JUDGED), SPEC.expected_evidence, ranks())[1] for found in (named, drawn)
    )
    assert len(JUDGED) == CASES and told_apart(good.values, poor.values, 0.7) >= LEAST
    assert good.values.min() == 1.0 and poor.values.mean() == pytest.approx(poor.chance.mean(), abs=0.03)
    assert np.nanmean(good.other_class) < 0.6  # the classes' lists overlap


def test_evidence_with_its_direction_turned_round_does_not_count() -> None:
    named = [answer(flows()[i], LABELS[i], present(flows()[i], LABELS[i]), turned=True) for i in JUDGED]
    for measure in evidence_measures(explained(named, JUDGED), SPEC.expected_evidence, ranks()):
        assert (measure.values == 0).mean() >= LEAST


def test_evidence_that_the_flow_does_not_have_does_not_count() -> None:
    answers = []
    for i in JUDGED:
        absent = {item.feature for item in SPEC.expected_evidence[LABELS[i]]} - {*present(flows()[i], LABELS[i])}
        answers.append(answer(flows()[i], LABELS[i], sorted(absent) or ["missed_bytes"]))
    found = evidence_measures(explained(answers, JUDGED), SPEC.expected_evidence, ranks())
    assert (found[0].values == 0).mean() >= LEAST


def test_names_in_the_prose_count_as_named() -> None:
    i = JUDGED[0]
    evidence = present(flows()[i], LABELS[i])[0]
    other = next(name for name in FEATURES if name not in present(flows()[i], LABELS[i]))
    written = answer(flows()[i], LABELS[i], [other], prose=f"Look at {evidence}.")
    found = explained([written], [i])
    assert found.named == [{evidence, other}]
    assert [measure.values[0] for measure in evidence_measures(found, SPEC.expected_evidence, ranks())] == [1.0, 0.5]


@given(st.integers(1, 7), st.data())
def test_the_chance_of_random_features_is_that_of_all_sets(features: int, data: st.DataObject) -> None:
    named, counting = data.draw(st.integers(0, features)), data.draw(st.integers(0, features))
    sets = list(combinations(range(features), named))
    hits = [sum(place < counting for place in chosen) for chosen in sets]
    at_least_one, share = _random_hits(counting, named, features)
    assert at_least_one == pytest.approx(np.mean([count > 0 for count in hits]))
    assert share == pytest.approx(np.mean(hits) / named if named else 0.0)


def test_without_expected_evidence_nothing_is_judged_and_that_is_said() -> None:
    found = explained([answer(flows()[0], "Normal", FEATURES[:3])], [0], ["Normal"])
    assert rows_of(evidence_measures(found, {}, ranks())) == []
    assert not_judged({}, found.labels) == {"explanations": 1, "reason": NO_EVIDENCE}
    assert not_judged(SPEC.expected_evidence, found.labels) == {}
    assert not_judged({"Normal": []}, ["Normal", "TCP_Flood"])["explanations"] == 1


def test_features_that_contribute_are_told_from_random_ones() -> None:
    random = np.random.default_rng(3)
    contributions = random.normal(0, 1, (CASES, len(CLASSES), len(FEATURES)))
    answers = {"planted": [], "random": []}
    for i in range(CASES):
        toward = np.abs(contributions[i, CLASSES.index(LABELS[i])])
        answers["planted"].append(answer(flows()[i], LABELS[i], [FEATURES[place] for place in np.argsort(-toward)[:5]]))
        answers["random"].append(answer(flows()[i], LABELS[i], at_random(5, i)))
    chosen = list(range(CASES))
    good, poor = (
        contribution_measure(explained(found, chosen), contributions, FEATURES, CLASSES) for found in answers.values()
    )
    assert told_apart(good.values, poor.values, 0.7) >= LEAST and good.values.min() == 1
    assert (good.chance == 5 / 29).all() and poor.values.mean() == pytest.approx(5 / 29, abs=0.05)


def test_flows_alike_that_are_explained_alike_are_told_from_those_that_are_not() -> None:
    texts, alike, unlike = [], [], []
    for i in range(CASES):  # pairs of flows that differ in one value
        first = flows()[i // 2].split("\n")
        first[0] = f"missed_bytes: {i % 2}.000 p50"
        texts.append("\n".join(first))
        alike.append(answer(texts[-1], "Normal", at_random(5, i // 2, FEATURES[1:])))
        unlike.append(answer(texts[-1], "Normal", at_random(5, 1000 + i, FEATURES[1:])))
    good, poor = (
        consistency_measure(read_explanations(texts, found, ["Normal"] * CASES, SPEC, ranks()))
        for found in (alike, unlike)
    )
    assert told_apart(good.values, poor.values, 0.7) >= LEAST
    assert poor.values.mean() == pytest.approx(poor.chance.mean(), abs=0.05)
    lone = consistency_measure(
        explained([answer(flows()[i], "Normal", FEATURES[:3]) for i in range(20)], list(range(20)))
    )
    assert np.isnan(lone.values).all() and rows_of([lone]) == []


def test_content_is_told_from_class_words() -> None:
    by_class = {name: FEATURES[3 * place : 3 * place + 3] for place, name in enumerate(CLASSES)}
    chosen = list(range(CASES))
    content = [answer(flows()[i], LABELS[i], by_class[LABELS[i]]) for i in chosen]
    words = [
        answer(
            flows()[i],
            LABELS[i],
            FEATURES[:3],
            prose=f"It is {LABELS[i]}, surely {LABELS[i].replace('_', ' ').lower()}s.",
        )
        for i in chosen
    ]
    groups = [str(i) for i in chosen]
    for numbers in (0, 1):  # 1: numbers masked too
        good, poor = (
            guess_measure(found, LABELS[:CASES], groups, CLASSES, 1)[0][numbers] for found in (content, words)
        )
        assert good.values.mean() >= LEAST and poor.values.mean() <= poor.chance.mean() + 0.1
    assert guess_measure(content, LABELS[:CASES], groups, CLASSES, 1)[1][0]["macro_f1"] >= LEAST
    assert guess_measure(content[:9], LABELS[:9], groups[:9], CLASSES, 1) == ([], [])


def test_a_text_of_the_same_flow_teaches_nothing_about_it() -> None:
    answers = [answer(flows()[i // 4], LABELS[i // 4], FEATURES[:3], prose=f"mark{i // 4}") for i in range(CASES)]
    groups, labels = [str(i // 4) for i in range(CASES)], [LABELS[i // 4] for i in range(CASES)]
    (with_numbers, _), _ = guess_measure(answers, labels, groups, CLASSES, 1)
    assert with_numbers.values.mean() < 0.4


@pytest.mark.parametrize("classes", [CLASSES, ["DOS_SYN_Hping", "NMAP_XMAS_TREE_SCAN", "Metasploit_Brute_Force_SSH"]])
def test_no_class_word_is_left_after_masking(classes: list[str]) -> None:
    words, left = class_words(classes), []
    for i in range(CASES):
        name = classes[i % len(classes)]
        plain = name.replace("_", " ")
        prose = f"{name}, {plain.lower()}s, a {plain.upper()}"
        text = f"CLASSIFICATION: {name}\nANALYSIS: {prose}\nKEY_INDICATORS: orig_pkts 1 ({name})"
        told = masked(text, words).lower()
        left += [piece for piece in name.lower().split("_") if piece in told]
        assert "orig_pkts 1" in masked(text, words) and "1" not in masked(text, words, numbers=True)
    assert left == []


def test_a_right_class_and_a_reason_are_counted_together_beside_chance() -> None:
    found = explained([answer(flows()[i], LABELS[i], present(flows()[i], LABELS[i])) for i in JUDGED[:4]], JUDGED[:4])
    true = [found.labels[0], found.labels[1], "other", "other"]
    evidence = evidence_measures(found, SPEC.expected_evidence, ranks())[0]
    right, both, faultless = class_measures(found, true, evidence)
    assert right.values.tolist() == both.values.tolist() == [1, 1, 0, 0] and right.chance.mean() == 0.5
    assert faultless.row()["chance"] is None and 0 < both.row()["chance"] < 0.5


def test_verdicts_are_paired_and_plain() -> None:
    random = np.random.default_rng(5)
    base, none = random.normal(0, 1, 300), np.full(300, np.nan)
    first = [
        Measure("a", base + 0.2 + random.normal(0, 0.1, 300), none),
        Measure("b", base, none),
        Measure("c", none, none),
    ]
    second = [Measure("a", base, none), Measure("b", base + random.normal(0, 1, 300), none), Measure("c", base, none)]
    rows = verdicts(first, second)
    assert [row["verdict"] for row in rows] == ["better", "no difference shown"] and rows[0]["flows"] == 300
    assert verdicts(second, first)[0]["verdict"] == "worse"
    assert sentence(rows, "template") == "Over 300 flows the student is better in a: it beats the template."
    assert "does not beat the tree" in sentence(verdicts(second, first), "tree")


def test_a_student_that_differs_in_nothing_seldom_beats_another_by_the_luck_of_ten_measures() -> None:
    random, none = np.random.default_rng(0), np.full(48, np.nan)

    def drawn() -> list[Measure]:
        return [Measure(str(number), random.normal(size=48), none) for number in range(10)]

    beats = sum("it beats" in sentence(verdicts(drawn(), drawn()), "template") for _ in range(100))
    assert beats <= 8  # 19 of 100 when each interval spoke for itself


def test_measures_without_spread_are_judged_too() -> None:
    ones, none = np.ones(20), np.full(20, np.nan)
    first, second = ([Measure(name, value * ones, none) for name in "ab"] for value in (1, 0))
    assert [row["verdict"] for row in verdicts(first, second)] == ["better"] * 2
    assert [row["p_holm"] for row in verdicts(first, first)] == [1, 1]


def test_few_flows_give_no_verdict() -> None:
    ones, none = np.ones(3), np.full(3, np.nan)
    rows = verdicts([Measure("a", ones, none)], [Measure("a", 0 * ones, none)])
    assert (rows[0]["low"], rows[0]["verdict"]) == (1, "too few flows for a verdict")
    assert sentence(rows, "tree") == "3 flows are too few to tell whether the student beats the tree: 20 are needed."


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5) | st.just(float("nan")), max_size=40))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    found = interval(np.array(values, dtype=float))
    if found["value"] is None:
        assert all(np.isnan(value) for value in values)
    else:
        low, high = found["low"], found["high"]
        assert low is not None and high is not None and low - 1e-9 <= found["value"] <= high + 1e-9
