"""Facts marked in the text: asked for, written, kept by paraphrases, read, judged and counted."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answer_style import form_writer
from iot_pipeline.augmentation.answers import ORDERS, SCHEMA_VERSION, format_answer, parse_answer
from iot_pipeline.augmentation.ask import answer_checker, check_imported
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.flows.marked import MARKED
from iot_pipeline.sft.controls import ShuffledNames
from iot_pipeline_tests.augmentation.factories import CONFIG, SPEC, Direct, build, flow_rows, make_plan, prompt
from iot_pipeline_tests.augmentation.mutations import true_answers

FLOW = "orig_pkts: -0.068 p40\nresp_pkts: 2.265 p97\nflow_iat.avg: 0.500 p50"
CLASSES = ["Normal", "HTTP_Flood"]
ITEMS = "`resp_pkts` = 2.265 (above, p97); `orig_pkts` = -0.068 (below, p40); `flow_iat.avg` = 0.500 (at, p50)"
GOOD = (
    "CLASSIFICATION: HTTP_Flood\n"
    "ANALYSIS: `resp_pkts` = 2.265 (above, p97), so the target answers a lot, while it gets `orig_pkts` = -0.068 "
    f"(below, p40) alone.\nKEY_INDICATORS: {ITEMS}"
)
MARKED_CONFIG = replace(CONFIG, marked=True)


def faults(text: str, marked: bool = True, original: str = "") -> list[str]:
    return check_answer(text, FLOW, "HTTP_Flood", CLASSES, original_text=original, marked=marked)


def test_a_marked_answer_is_read_and_written_back_as_it_is() -> None:
    parsed = parse_answer(GOOD)
    assert parsed.analysis.startswith("`resp_pkts` = 2.265")  # the mark's first backtick was taken for the heading's
    assert format_answer(parsed, "label_first", marked=True) == GOOD
    assert faults(GOOD) == [] == faults(GOOD, marked=False)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("2.265 (above, p97), so", "2.266 (above, p97), so", "false fact"),
        ("2.265 (above, p97), so", "-0.068 (above, p97), so", "false fact"),
        ("2.265 (above, p97), so", "2.265 (below, p97), so", "false fact"),
        ("2.265 (above, p97), so", "2.265 (above, p40), so", "false fact"),
        ("2.265 (above, p97), so", "2.265 (at), so", "false fact"),
        ("(below, p40) alone", "(below, p40) or -0.068", "unmarked fact: -0.068"),
        ("so the target", "as resp_pkts says, the target", "unmarked fact: resp_pkts"),
        ("alone", "below the usual", "unmarked fact: below"),
        ("alone", "in `dst_port", "unmarked fact: `"),
        ("alone", "in `dst_port`", "unknown feature: dst_port"),
        ("`orig_pkts` = -0.068 (below, p40);", "`orig_pkts` = -0.067 (below, p40);", "ungrounded number"),
        ("`orig_pkts` = -0.068 (below, p40);", "`orig_pkts` = -0.068 (above, p40);", "wrong direction"),
    ],
)
def test_each_fault_is_named(old: str, new: str, kind: str) -> None:
    assert old in GOOD
    said = faults(GOOD.replace(old, new))
    assert any(reason.startswith(kind) for reason in said), said


def test_value_alone_or_name_alone_is_no_fault() -> None:
    assert faults(GOOD.replace("2.265 (above, p97), so", "2.265, so")) == []
    assert faults(GOOD.replace("alone", "as `flow_iat.avg` confirms")) == []


PIECES = ["`", "` = ", "orig_pkts", "2.265", " (above, p97)", "ANALYSIS: ", "\n", ITEMS, " ", "; ", "9" * 4400]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert isinstance(faults(text, original=GOOD), list)


def test_a_true_answer_of_every_kind_passes_in_the_marked_form() -> None:
    for case in true_answers(150, 5, marked=True):
        for order in ORDERS:
            text = format_answer(parse_answer(case.answer), order, marked=True)
            found = check_answer(
                text, case.flow, case.label, case.classes, case.signed, case.original, case.words, marked=True
            )
            assert found == [], (text, found)
        assert MARKED.search(case.answer)


def test_tracks_ask_for_marks_and_keep_them(tmp_path: Path) -> None:
    table = flow_rows(tmp_path, 120)
    original = build(Direct(), tmp_path / "original", "original", table, config=MARKED_CONFIG)
    tracks = [original] + [
        build(Direct(), tmp_path / track, track, table, originals=original.folder, config=MARKED_CONFIG)
        for track in ("paraphrased", "feature_varied")
    ]
    for track in tracks:
        assert track.report["rows"] and not track.report["quarantined"]
        for row in track.messages:
            items = row["messages"][1]["content"].split("KEY_INDICATORS: ")[1].split("; ")
            assert all(MARKED.fullmatch(item) for item in items)
    request = next(iter(make_plan(tmp_path / "again", "original", table, config=MARKED_CONFIG)))
    assert "`<feature>` = <value>" in request.messages[0]["content"]


def test_marks_are_asked_for_only_where_they_are_wanted(tmp_path: Path) -> None:
    for track in ("original", "feature_varied", "paraphrased"):
        for way in ("ranked", "values"):
            told = {**replace(CONFIG, serialisation=way).variables(), "flow": FLOW, "label": "Normal", "answer": GOOD}
            plain, marked = (prompt(track).render(**{**told, "marked": on})[0]["content"] for on in (False, True))
            assert "`" not in plain and "marked fact" not in plain and "marked fact" in marked


def test_a_json_answer_carries_marks_in_its_analysis(tmp_path: Path) -> None:
    told = {**replace(MARKED_CONFIG, serialisation="ranked", objects=True).variables(), "flow": FLOW, "label": "Normal"}
    messages = prompt("original").render(**told)
    fields = ("classification", "analysis", "key_indicators")
    said = json.loads(write_answer(messages, 0.7, 1, 2048, fields)[0])
    assert MARKED.search(said["analysis"])
    assert {item["note"] for item in said["key_indicators"]} <= {"above, p97", "below, p40", "at, p50"}


def test_the_checker_knows_the_form_and_so_does_an_imported_answer() -> None:
    assert answer_checker(SPEC, 60, True).version != answer_checker(SPEC, 60).version
    request = SimpleNamespace(schema_version=SCHEMA_VERSION)
    context = {"flow": FLOW, "label": "HTTP_Flood", "original": ""}
    bad = GOOD.replace("alone", "below the usual")
    for marked, found in ((True, 1), (False, 0)):
        data_set = json.dumps({"classes": CLASSES, "signed": []} | ({"marked": True} if marked else {}))
        reasons = check_imported(request, context | {"data_set": data_set}, bad)  # type: ignore[arg-type]
        assert sum(reason.startswith("unmarked fact") for reason in reasons) == found


def test_an_imported_answer_is_judged_by_the_known_values_of_categories() -> None:
    request = SimpleNamespace(schema_version=SCHEMA_VERSION)
    flow = "service = dns 12%\n" + FLOW
    items = "service dns (12%); orig_pkts -0.068 (below the median, p40); resp_pkts 2.265 (above the median, p97)"
    said = f"CLASSIFICATION: Normal\nANALYSIS: {{}} as resp_pkts of 2.265 and all else shows.\nKEY_INDICATORS: {items}"
    told: dict[str, Any] = {"classes": CLASSES, "signed": [], "known": [["service", "dns"], ["service", "http"]]}
    for data_set, wrong in ((told, True), (told | {"known": []}, False)):
        context = {"flow": flow, "label": "Normal", "original": "", "data_set": json.dumps(data_set)}
        for value, refused in (("dns", False), ("http", wrong)):
            reasons = check_imported(request, context, said.format(f"The service is {value},"))  # type: ignore[arg-type]
            assert any(reason.startswith("ungrounded value: service http") for reason in reasons) is refused, reasons
    broken = {"flow": flow, "label": "Normal", "original": "", "data_set": json.dumps(told | {"known": [1]})}
    assert check_imported(request, broken, "x")[0].startswith("no flow")  # type: ignore[arg-type]


def test_marked_facts_are_counted_where_they_were_asked_for() -> None:
    wrong = GOOD.replace("2.265 (above, p97), so", "2.265 (below, p97), so")
    found = score_explanations([FLOW] * 2, [(GOOD, True), (wrong, True)], ["HTTP_Flood"] * 2, CLASSES, marked=True)
    assert found["aggregate"]["facts_true"] == 9 / 10 and found["aggregate"]["faultless"] == 1 / 2
    assert "facts_true" in {share["share"] for share in found["shares"]}
    plain = score_explanations([FLOW], [(GOOD, True)], ["HTTP_Flood"], CLASSES)
    assert "facts_true" not in plain["aggregate"]


def test_the_tiny_base_reads_the_form_that_answers_have() -> None:
    text = "\n".join(f"{name}: 0.5 p60" for name in SPEC.feature_names)
    for marked in (False, True):
        said = form_writer(SPEC, 60, "label_first", marked)(text, "Normal", np.random.default_rng(1))
        assert (MARKED.search(said) is not None) is marked


def test_shuffled_names_stay_marked() -> None:
    names = ShuffledNames(("orig_pkts", "resp_pkts", "flow_iat.avg"), "ranked", 1)
    assert names.answer(GOOD) != GOOD and names.restored(names.answer(GOOD)) == GOOD
