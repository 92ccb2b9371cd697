"""Controls: each changes one thing of the original rows and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import parse_text
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.sft import controls
from iot_pipeline.sft.controls import ShuffledNames, explanation_of, label_of

SPEC = load_spec("farm_flow")
NAMES = tuple(SPEC.feature_names)
SEEDS = st.integers(0, 2**32 - 1)
# (flow, class, explanation): few values, so that rows share them as real ones do.
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=40)


def chat(flow: int, label: int, explanation: int, first: bool = True) -> dict[str, Any]:
    """A chat row with the class line first or last."""
    told, line = f"ANALYSIS: Case {explanation}.\nKEY_INDICATORS: orig_pkts {explanation}", f"CLASSIFICATION: C{label}"
    answer = f"{line}\n{told}" if first else f"{told}\n{line}"
    return {"messages": [{"role": "user", "content": f"orig_pkts: {flow}"}, {"role": "assistant", "content": answer}]}


def flows_and_labels(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["messages"][0]["content"], label_of(row)) for row in rows]


@given(ROWS, st.booleans())
def test_label_only_keeps_flows_and_class_lines_and_nothing_else(drawn: list[Any], first: bool) -> None:
    rows = [chat(*row, first) for row in drawn]
    found = list(controls.label_only(rows))
    assert flows_and_labels(found) == flows_and_labels(rows)
    assert all(row["messages"][1]["content"] == label_of(row) for row in found)


@given(ROWS, SEEDS, st.booleans())
@example([(0, 0, 1)] * 3 + [(1, 1, 2)], 0, True)
def test_shuffled_explanations_change_places_and_stay_where_they_must_alone(
    drawn: list[Any], seed: int, first: bool
) -> None:
    rows = [chat(*row, first) for row in drawn]
    found = list(controls.shuffled_explanations(rows, seed))
    assert flows_and_labels(found) == flows_and_labels(rows)
    before, after = [explanation_of(row) for row in rows], [explanation_of(row) for row in found]
    assert Counter(after) == Counter(before)
    kept = sum(one == other for one, other in zip(before, after, strict=True))
    assert kept == max(0, 2 * max(Counter(before).values()) - len(rows))
    assert found == list(controls.shuffled_explanations(rows, seed))
    place = 0 if first else -1
    assert all(row["messages"][1]["content"].split("\n")[place] == label_of(row) for row in found)


@given(ROWS, SEEDS)
def test_no_row_has_an_explanation_of_its_own_class(drawn: list[Any], seed: int) -> None:
    rows = [chat(flow, label, 10 * label + explanation) for flow, label, explanation in drawn]
    if len({label for _, label, _ in drawn}) == 1:
        with pytest.raises(UserError, match="rows of two classes"):
            list(controls.other_class_explanations(rows, seed))
        return
    found = list(controls.other_class_explanations(rows, seed))
    assert flows_and_labels(found) == flows_and_labels(rows)
    of_class = {explanation_of(row): label_of(row) for row in rows}
    assert all(of_class[explanation_of(row)] != label_of(row) for row in found)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 600), SEEDS)
def test_repeated_rows_end_within_a_row_of_the_budget_and_come_equally_often(
    lengths: list[int], budget: int, seed: int
) -> None:
    places = list(controls.repeated(lengths, budget, seed))
    tokens = sum(lengths[place] for place in places)
    assert budget - max(lengths) < tokens <= budget
    counts = [places.count(place) for place in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    for start in range(0, len(places) - len(lengths) + 1, len(lengths)):
        assert sorted(places[start : start + len(lengths)]) == list(range(len(lengths)))


def test_each_pass_over_repeated_rows_has_an_order_of_its_own() -> None:
    places = list(controls.repeated([1] * 30, 60, seed=1))
    assert places[:30] != places[30:]


def test_rows_are_distinct_by_flow_and_answer() -> None:
    rows = [chat(1, 0, 1), chat(1, 0, 1), chat(1, 1, 1), chat(2, 0, 1)]
    assert controls.distinct_rows(rows) == [rows[0], rows[2], rows[3]]


@pytest.mark.parametrize("serialisation", ["values", "ranked", "compact"])
@given(seed=SEEDS, values=st.lists(st.floats(-1e6, 1e6), min_size=len(NAMES), max_size=len(NAMES)))
def test_names_change_places_and_values_stay(serialisation: str, seed: int, values: list[float]) -> None:
    ranks = RankTable(1, {name: [0.0] for name in NAMES}, {name: [1] for name in NAMES})
    text = FlowTextWriter(SPEC, serialisation, ranks).text(values)
    names = ShuffledNames(NAMES, serialisation, seed)
    true, shown = parse_text(text), parse_text(names.flow(text))
    assert [line[1:] for line in shown] == [line[1:] for line in true]
    assert [line[0] for line in shown] == [names.shown[line[0]] for line in true]
    assert sorted(names.shown.values()) == sorted(NAMES)
    assert not any(own == other for own, other in names.shown.items())


@given(st.lists(st.sampled_from([*NAMES, "near", "fwd_iat", "; "]), max_size=12), SEEDS)
def test_an_answer_read_back_is_the_answer(words: list[str], seed: int) -> None:
    names, text = ShuffledNames(NAMES, "values", seed), " ".join(words)
    assert names.restored(names.answer(text)) == text
    assert names.answer(text) == " ".join(names.shown.get(word, word) for word in words)


def test_a_name_at_the_end_of_a_sentence_is_replaced_and_a_longer_one_whole() -> None:
    names = ShuffledNames(("fwd_iat.tot", "orig_pkts"), "values", 0)
    assert names.answer("High fwd_iat.tot. Not fwd_iat.total, my_orig_pkts; orig_pkts 1") == (
        "High orig_pkts. Not fwd_iat.total, my_orig_pkts; fwd_iat.tot 1"
    )


def test_a_flow_of_another_form_is_refused() -> None:
    with pytest.raises(UserError, match="not as values writes it: 'orig_pkts: 1'"):
        ShuffledNames(NAMES, "values", 0).flow("orig_pkts: 1")


def test_an_answer_without_class_line_is_refused() -> None:
    row = chat(1, 0, 1)
    row["messages"][1]["content"] = "ANALYSIS: none."
    with pytest.raises(UserError, match="no CLASSIFICATION: line"):
        list(controls.label_only([row]))


def test_many_rows_with_few_explanations_change_places() -> None:
    values = np.random.default_rng(0).zipf(1.3, 200_000) % 5000
    places = controls.deranged(values, np.random.default_rng(0))
    assert sorted(places.tolist()) == list(range(len(values)))
    assert int((values[places] == values).sum()) == max(0, 2 * int(np.bincount(values).max()) - len(values))
