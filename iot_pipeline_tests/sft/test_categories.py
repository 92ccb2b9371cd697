"""Categories in class rows, in the control that shuffles names, in the deletion test and in the tiny base's tasks."""

from __future__ import annotations

import numpy as np
import pytest

from iot_pipeline.evaluation.ablation import MedianFlow
from iot_pipeline.evaluation.reasons import directions, evidence_measures, read_explanations
from iot_pipeline.flows.serialise import SERIALISATIONS, parse_text
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.sft.class_rows import labelled, masked
from iot_pipeline.sft.controls import ShuffledNames
from iot_pipeline.tiny_base.build import cited_values
from iot_pipeline.tiny_base.pretraining_tasks import masked as filled
from iot_pipeline.tiny_base.pretraining_tasks import parse
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.flows.category_table import CLASSES, NUMBERS, connections

SPEC = connections()
COUNTS = {"proto": {"tcp": 8, "udp": 2}, "service": {"http": 4, "-": 3, "3pc": 3}, "flag": {"SF": 9, "S0": 1}}
RANKS = RankTable(10, {name: [0.0, 1.0, 2.0] for name in NUMBERS}, {name: [4, 6, 10] for name in NUMBERS}, COUNTS)
CHOICES = [("tcp", "http", "SF"), ("udp", "-", "S0"), ("tcp", "3pc", "S0")]


def texts(kind: str) -> list[str]:
    writer = FlowTextWriter(SPEC, kind, RANKS)
    return [writer.text([*words, *[float(place)] * len(NUMBERS)]) for place, words in enumerate(CHOICES)]


@pytest.mark.parametrize("kind", ["values", "ranked"])
def test_copies_of_class_rows_mask_words_and_numbers(kind: str) -> None:
    questions = labelled([(text, str(place), "smurf") for place, text in enumerate(texts(kind))], list(CLASSES))
    copies = masked(questions, 60, seed=1).texts
    assert any("proto = ?\n" in text for text in copies) and any("count: ?\n" in text for text in copies)
    assert [line.split(" ", 1)[0].rstrip(":") for line in copies[7].split("\n")] == SPEC.feature_names
    compact = labelled([(text, "g", "smurf") for text in texts("compact")], list(CLASSES))
    assert masked(compact, 5, seed=1).texts == compact.texts


@pytest.mark.parametrize("kind", SERIALISATIONS)
def test_shuffled_names_leave_words_in_their_places(kind: str) -> None:
    names = ShuffledNames(tuple(SPEC.feature_names), kind, 1, frozenset(SPEC.category_names))
    for text in texts(kind):
        shown = parse_text(names.flow(text))
        assert [value for _, value, _ in shown] == [value for _, value, _ in parse_text(text)]
        assert [name for name, _, _ in shown] == [names.shown[name] for name in SPEC.feature_names]


@pytest.mark.parametrize("kind", SERIALISATIONS)
def test_a_deleted_category_reads_as_its_commonest_value(kind: str) -> None:
    median, (_, flow, _) = MedianFlow(FlowTextWriter(SPEC, kind, RANKS)), texts(kind)
    without = {name: value for name, value, _ in parse_text(median.without(flow, ["proto", "flag"]))}
    assert (without["proto"], without["service"], without["flag"]) == ("tcp", "-", "SF")
    only = {name: value for name, value, _ in parse_text(median.only(flow, ["proto"]))}
    assert (only["proto"], only["service"], only["flag"]) == ("udp", "http", "SF")


@pytest.mark.parametrize("kind", SERIALISATIONS)
def test_the_tiny_base_reads_and_fills_in_words(kind: str) -> None:
    flows = parse(texts(kind), SPEC.feature_names)
    assert [cell.split(" ")[0] for cell in flows.printed[1][:3]] == ["udp", "-", "S0"]
    assert flows.numbers[:, 0].tolist() == [0.0, 1.0, 0.0]
    for seed in range(20):
        text, answer = filled(flows, 2, np.random.default_rng(seed))
        assert answer.startswith("FILL:") and "?" in text
    items = "service 3pc (30%); count 2 (above the median, p80); flag S0"
    answer = f"CLASSIFICATION: smurf\nANALYSIS: x\nKEY_INDICATORS: {items}"
    assert [answer[start:end] for start, end in cited_values(answer)] == ["3pc", "2", "S0"]
    tokenizer = build_tokenizer(texts(kind) * 20, [], 500)
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in texts(kind))


def test_expected_evidence_of_a_category_is_its_value() -> None:
    expected = {
        "smurf": [
            {"feature": "service", "value": "http", "why": "w"},
            {"feature": "count", "direction": "below", "why": "w"},
        ]
    }
    spec = connections(expected_evidence=expected)
    flow = texts("ranked")[0]
    assert directions(flow, RANKS)["proto"] == ""
    items = "service http; proto tcp; flag SF"
    said = f"CLASSIFICATION: smurf\nANALYSIS: The service is http and so it is.\nKEY_INDICATORS: {items}"
    found = read_explanations([flow], [said], ["smurf"], spec, RANKS)
    named, share = evidence_measures(found, spec.expected_evidence, RANKS)
    assert named.values.tolist() == [1.0] and share.values[0] == pytest.approx(1 / 3)
    other = texts("ranked")[1]
    assert evidence_measures(read_explanations([other], [said], ["smurf"], spec, RANKS), spec.expected_evidence, RANKS)[
        0
    ].values.tolist() == [0.0]
