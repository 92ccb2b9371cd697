"""Every feature name that a spec takes can be cited, and a true answer that cites it is judged true."""

from __future__ import annotations

import json
import random
from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answers import facts_of, format_answer, parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.mentions import names_pattern
from iot_pipeline.augmentation.plan import TrackConfig
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.names import feature_name, name_fault
from iot_pipeline.flows.serialise import SERIALISATIONS, parse_text
from iot_pipeline.flows.spec import DatasetSpec, Feature, Scale, load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.inference.grammar import facts_to_cite, gbnf, lark
from iot_pipeline.inference.grounding import NumberTokens, numbers_for, spellings
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.inference.test_grammar import taken
from iot_pipeline_tests.inference.test_grounding import write

# Columns of CICIDS2017, Edge-IIoTset, N-BaIoT, UNSW-NB15, NSL-KDD, CICIoT2023, TON_IoT, Bot-IoT, Suricata, and others.
GIVEN = [
    "Flow_Bytes/s", "Down/Up_Ratio", "Fwd_Header_Length.1", "HH_L0.01_mean", "MI_dir_L5_weight", "tcp.connection.fin",
    "icmp.seq_le", "src-bytes", "loss%", "#pkts", "_ws_len", "L4_SRC_BYTES", "Std", "duração", "Größe_tot", "流量",
    "x+y", "Tot_sum", "AVG", "IAT", "Rate", "rate", "Number", "service", "state", "hot", "land", "urgent",
    "duration", "HTTP", "TCP", "dur", "sbytes", "ct_src_dport_ltm", "a", "e", "temperature", "flag", "count", "score",
    "flow_duration", "Min", "packets", "длина", "حجم", "a.b.c.d", "Fwd_IAT-Mean", "p_len", "Magnitue",
    "len<0", "len<1519_pkts", "s", "last", "near", "_#x",
]  # fmt: skip
REFUSED = [
    "pkt_count(in)", "2nd_gap", "flow,count", "a;b", "flow=rate", "bytes[0]", "p50", "p97_len", "at", "above", "value",
    "record", "mean",
    "n", "a/2", "src-1", "x.", "-x", "a..b", "x*y", "a|b", "12", "1e5", "tx.p95", "e\u0301x", "a" * 101, "a\u2011b",
    "{x}", "a\\b", "a&b", "$x", "a?b", "_", "#__",
]  # fmt: skip
OTHERS = (("other_a", "5"), ("other_b", "7"))
FORMS = pytest.mark.parametrize("form", ["text", "json", "marked"])


@pytest.mark.parametrize("name", GIVEN)
def test_given_names_are_taken_as_they_are(name: str) -> None:
    assert name_fault(name) == "" and feature_name(name) == name


@pytest.mark.parametrize("name", REFUSED)
def test_other_names_are_refused_in_a_sentence_and_rewritten(name: str) -> None:
    assert name_fault(name)
    assert name_fault(feature_name(name)) == ""


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.text("ap_.#%/-+;5(é <>", max_size=9))
def test_whatever_a_column_is_called_a_spec_takes_the_name_of_its_feature(column: str) -> None:
    assert name_fault(feature_name(column)) == ""
    assert feature_name(feature_name(column)) == feature_name(column)


@cache
def prompt(track: str) -> PromptFile:
    return load_prompt(PROJECT_ROOT / "iot_pipeline" / "prompts" / f"{track}.md")


def spec_of(names: list[str], signed: bool) -> DatasetSpec:
    """The Farm-Flow data set with other features, standardised or in raw units."""
    scale = Scale(kind="zscore", mean=0, std=1) if signed else None
    features = [Feature(name=name, unit="", meaning="made", expression="1", scale=scale) for name in names]
    known = load_spec("farm_flow")
    return known.model_copy(update={"features": features, "expected_evidence": {}})


def said(track: str, config: TrackConfig, flow: str, label: str, seed: int, form: str, answer: str = "") -> str:
    """The embedded teacher's answer to the prompt of a track."""
    messages = prompt(track).render(**config.variables(), flow=flow, label=label, answer=answer)
    fields = ("classification", "analysis", "key_indicators") if form == "json" else ()
    return write_answer(messages, 0.9, seed, 4096, fields)[0]


def faults(names: list[str], seed: int, form: str) -> list[str]:
    """Reasons against the teacher's answers that cite features of these names, in all serialisations and tracks."""
    draw, found = random.Random(seed), []
    serialisation = SERIALISATIONS[seed % len(SERIALISATIONS)]
    spec = spec_of(names, signed=serialisation == "compact")
    values = [draw.choice([-1.5, 0.25, 3.0, 12.0, 120.5]) for _ in names]
    ranks = RankTable(4, {name: [-1.5, 0.5, 4.0, 200.0] for name in names}, {name: [1, 2, 3, 4] for name in names})
    flow = FlowTextWriter(spec, serialisation, ranks).text(values)
    assert [name for name, _, _ in parse_text(flow)] == names
    config = TrackConfig(spec, 60, "label_first", serialisation, seed, marked=form == "marked")
    label = spec.classes[seed % len(spec.classes)]
    original = said("original", config, flow, label, seed, form)
    original = format_answer(parse_answer(original), "label_first", form == "marked")
    reworded = said("paraphrased", config, flow, label, seed, form, original)
    for text, of in ((original, ""), (reworded, original)):
        reasons = check_answer(text, flow, label, spec.classes, spec.standardised, of, 60, marked=form == "marked")
        found += [f"{reason} | {text} | {flow}" for reason in reasons]
        assert {item.feature for item in parse_answer(text).indicators} <= {*names}, text
    return found


@FORMS
def test_true_answers_that_cite_any_name_are_judged_true(form: str) -> None:
    wrong = []
    for seed in range(12):
        wrong += faults(random.Random(seed).sample(GIVEN, 9), seed, form)
    assert wrong == []


def test_a_name_within_a_longer_one_is_not_cited_there() -> None:
    names = ["b>流__é", "#Z#e9", "feature_feature", "éeé", "W", "Z"]
    assert [fault for seed in range(30, 40) for fault in faults(names, seed, "json")] == []


@FORMS
@settings(max_examples=12, deadline=None, phases=[Phase.generate])  # an example takes 0.2 s
@given(st.data())
def test_so_are_those_that_cite_names_that_nobody_thought_of(form: str, data: st.DataObject) -> None:
    drawn = st.lists(
        st.text("abpeZtX_.#%/-+59éß流<>", min_size=1, max_size=8) | st.text(min_size=1, max_size=8),
        min_size=6, max_size=6,
    )  # fmt: skip
    names = list({name.lower(): name for name in map(feature_name, data.draw(drawn))}.values())
    names += [f"filler_{place}" for place in range(6 - len(names))]
    assert faults(names, data.draw(st.integers(0, 99)), form) == []


@pytest.mark.parametrize("name", GIVEN)
def test_a_planted_fault_beside_any_name_is_refused(name: str) -> None:
    flow = f"{name}: 12.34 p90\nother_a: 5 p10\nother_b: 7 p50"
    true = (
        f"CLASSIFICATION: DoS\nANALYSIS: Here {name} of 12.34, p90, lies above the median, and other_a stands at 5.\n"
        f"KEY_INDICATORS: {name} 12.34 (above the median, p90); other_a 5 (below the median, p10); other_b 7"
    )
    classes = ["DoS", "Normal"]
    assert check_answer(true, flow, "DoS", classes) == []
    items = [{"feature": name, "value": "12.34", "note": "p90"}, *({"feature": o, "value": v} for o, v in OTHERS)]
    parts = {"classification": "DoS", "analysis": parse_answer(true).analysis, "key_indicators": items}
    assert check_answer(json.dumps(parts), flow, "DoS", classes) == []
    for old, new in (
        (f"{name} of 12.34", f"{name} of 12.35"), (f"{name} of 12.34", f"{name} of 5"), ("lies above", "lies below"),
        (f"{name} 12.34", f"{name} 12.3"), (f"{name} 12.34", f"{name}x 12.34"),
        ("(above the median", "(below the median"),        ("p90)", "p91)"), ("12.34, p90, lies", "12.34, p10, lies"),
    ):  # fmt: skip
        assert old in true and check_answer(true.replace(old, new), flow, "DoS", classes), (old, new)


def test_a_word_of_prose_is_a_name_only_where_it_is_cited() -> None:
    names = names_pattern(("rate", "orig_pkts"))
    for text, cited in (
        ("rate (12) is high", 1), ("the rate lies far above the median", 1), ("with 12, rate is odd", 1),
        ("looking at rate, we find 12, above", 1), ("`rate` = 12", 1), ("a reading of 12 puts rate above", 1),
        ("a reading of 12 (p90) puts rate above", 1), ("orig_pkts (p90) in a high rate", 1),
        ("rate is elevated", 1), ("packets come at a high rate", 0), ("the rate of a flood, above all", 0),
        ("orig_pkts (12), which tells of the rate", 1), ("a rate of 12 packets", 0),
    ):  # fmt: skip
        assert len(names.findall(text)) == cited, text


@pytest.mark.parametrize("name", GIVEN)
def test_the_grammar_of_answers_takes_any_name(name: str) -> None:
    flow = f"{name}: 12.34 p90\nother_a: 5 p10\nother_b: 7 p50"
    grammar = lark(gbnf(facts_to_cite(flow), ["DoS", "Normal"], "label_first"))
    marked = f"`{name}` = 12.34 (above, p90)"
    items = "; ".join([marked, "`other_a` = 5 (below, p10)", "`other_b` = 7 (at, p50)"])
    text = f"CLASSIFICATION: DoS\nANALYSIS: We see {marked}, so `{name}` speaks for it.\nKEY_INDICATORS: {items}"
    assert check_answer(text, flow, "DoS", ["DoS", "Normal"], marked=True) == []
    assert taken(grammar, text) is None
    assert taken(grammar, text.replace(f"`{name}` = 12.34", f"`{name}` = 12.35")) is not None
    assert taken(grammar, text.replace(f"`{name}` speaks", f"`{name}x` speaks")) is not None


def test_a_number_behind_a_word_that_is_a_name_is_held_to_it() -> None:
    flow = "rate: 12.34 p90\norig_pkts: 5 p10\nservice: 7 p50"
    facts, written = facts_of(flow), spellings(flow)
    for before in ("the value of rate is ", "orig_pkts is 5, and rate reads ", "rate (", "ANALYSIS: rate"):
        assert numbers_for(before, facts, written, False) == {"12.34"}, before
    assert numbers_for("at a high rate, ", facts, written, False) == {"12.34"}  # as a check would read it
    assert numbers_for("at a rate of ", facts, written, False) == {"12.34", "5", "7"}  # a name has no article


@pytest.mark.parametrize("name", ["Flow_Bytes/s", "loss%", "_ws_len", "HH_L0.01_mean", "len<1519_pkts", "src-bytes"])
def test_a_student_held_to_its_flows_numbers_can_write_any_name(name: str) -> None:
    flow = f"{name}: 12.34\nother_a: 5\nother_b: 7"
    known = build_tokenizer([flow, "0123456789"] * 5, ["KEY_INDICATORS:"], 300)
    held = (known, NumberTokens(known, len(known) + 3))
    assert write(flow, "KEY_INDICATORS: ", f"{name} 12.35;", held).startswith(f"KEY_INDICATORS: {name} 12.34")
