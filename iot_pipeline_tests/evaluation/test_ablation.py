"""Deletion and sufficiency on a made model: 200 explanations that name what it reads, and 200 that do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.ablation import MedianFlow, ablation_measures
from iot_pipeline.flows.serialise import parse_text
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline_tests.evaluation.made_flows import CLASSES, FEATURES, SPEC, at_random, flows, ranks, writer

KINDS = ("values", "ranked", "compact")
READ = FEATURES[4:7]  # what the made model reads


def scores(texts: list[str]) -> np.ndarray:
    """Two classes by the sum of the distances of three features from the median."""
    found = [sum(abs(float(value)) for name, value, _ in parse_text(text) if name in READ) for text in texts]
    return np.log(np.stack([1 / (1 + np.exp(-4 * np.array(found))), 1 / (1 + np.exp(4 * np.array(found)))], axis=1))


def test_features_that_matter_to_a_model_are_told_from_those_that_do_not() -> None:
    texts = flows(200)
    other = [name for name in FEATURES if name not in READ]
    named = {"planted": [frozenset(READ)] * 200, "random": [frozenset(at_random(3, i, other)) for i in range(200)]}
    found = ablation_measures(writer(), texts, np.zeros(200, dtype=np.int64), named, scores, 1)
    (lost, kept), (lost_at_random, kept_at_random) = found["planted"], found["random"]
    for good, poor in ((lost, lost_at_random), (kept, kept_at_random)):
        assert np.mean(good.values > poor.values + 1e-6) >= 0.99
        row = good.row()
        assert row["over_chance_low"] > 0 and poor.row()["over_chance_value"] <= 0
    assert np.abs(kept.values).max() < 0.01 and np.abs(lost_at_random.values).max() == 0


def test_each_text_is_scored_once_and_naming_nothing_changes_nothing() -> None:
    asked: list[str] = []

    def score(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return scores(texts)

    none, every = [frozenset[str]()] * 5, [frozenset(FEATURES)] * 5
    found = ablation_measures(writer(), flows(5), np.zeros(5, dtype=np.int64), {"none": none, "all": every}, score, 1)
    assert len(asked) == len(set(asked)) == 6  # the flows, and the one flow of medians
    assert (found["none"][0].values == 0).all() and (found["all"][1].values == 0).all()
    assert (found["none"][1].values == -found["all"][0].values).all()
    assert (
        ablation_measures(writer(), [], np.zeros(0, dtype=np.int64), {"none": []}, score, 1)["none"][0].row()["value"]
        is None
    )


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 399), st.sets(st.sampled_from(FEATURES)))
def test_only_named_features_are_set_to_the_median(kind: str, place: int, named: set[str]) -> None:
    flow, median = flows(serialisation=kind)[place], MedianFlow(writer(kind))
    assert median.without(flow, ()) == median.only(flow, FEATURES) == flow
    changed = {name: (value, rank) for name, value, rank in parse_text(median.without(flow, named))}
    for name, value, rank in parse_text(flow):
        if name not in named:
            assert changed[name] == (value, rank)
        else:
            assert float(changed[name][0]) == ranks().median(name)
            assert changed[name][1] == (50 if kind == "ranked" else None)
    other = {*FEATURES} - named
    assert median.only(flow, other) == median.without(flow, named)


def test_a_median_is_a_printed_value_with_half_of_the_rows_at_or_below_it() -> None:
    for name in FEATURES:
        median, values = ranks().median(name), ranks().values[name]
        upto = ranks().cumulative[name][values.index(median)]
        before = ranks().cumulative[name][values.index(median) - 1] if values.index(median) else 0
        assert before < ranks().rows / 2 <= upto


def test_without_ranks_there_is_no_median() -> None:
    with pytest.raises(UserError, match="rank table of the train pool"):
        MedianFlow(FlowTextWriter(SPEC, "values"))
    assert len(CLASSES) > 2
