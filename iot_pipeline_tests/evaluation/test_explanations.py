"""Explanations are held against their own flow: each kind of falsehood is found and named."""

from __future__ import annotations

import pytest

from iot_pipeline.evaluation.explanations import importance_agreement, score_explanation, score_explanations
from iot_pipeline.flows.texts import RankTable

CLASSES = ["Normal", "TCP_Flood"]
FLOW = "orig_pkts: -0.068\nfwd_pkts_payload.tot: 1.204\nflow_iat.avg: 0.000"
RANKED = "orig_pkts: -0.068 p97\nfwd_pkts_payload.tot: 1.204 p12\nflow_iat.avg: 0.000 p50"
GOOD = (
    "CLASSIFICATION: TCP_Flood\n"
    "ANALYSIS: A single packet (orig_pkts \u22120.068), fwd_pkts_payload.tot at 1.204. Much like TCP_Flood.\n"
    "KEY_INDICATORS: orig_pkts -0.068 (below the mean); fwd_pkts_payload.tot 1.204 (above the mean); "
    "flow_iat.avg 0.000"
)


def test_a_true_explanation_passes_everything() -> None:
    found = score_explanations([FLOW], [(GOOD, True)], ["TCP_Flood"], CLASSES)["aggregate"]
    shares = ["schema_valid", "label_matches", "numbers_grounded", "fully_grounded", "features_real"]
    assert [found[name] for name in [*shares, "values_true", "directions_true", "ended"]] == [1.0] * 8
    assert found["explained"] == 1 and found["features_cited_mean"] == 3 and found["faultless"] == 1.0


def test_the_other_order_is_as_good() -> None:
    first, rest = GOOD.split("\n", 1)
    assert score_explanation(FLOW, f"{rest}\n{first}", "TCP_Flood", CLASSES)["schema"]


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ("orig_pkts -0.068 (", "orig_pkts -0.07 (", "ungrounded", ["-0.07"]),
        ("at 1.204", "at 99 bytes", "ungrounded", ["99"]),
        ("orig_pkts -0.068 (", "orig_pkts 1.204 (", "values_true", 2),
        ("fwd_pkts_payload.tot at", "fwd_pkts_burst.tot at", "unknown_features", ["fwd_pkts_burst.tot"]),
        ("; flow_iat.avg", "; flow_gap.avg", "unknown_features", ["flow_gap.avg"]),
        ("(below the mean)", "(above the mean)", "false_directions", ["orig_pkts"]),
        ("CLASSIFICATION: TCP_Flood", "CLASSIFICATION: Normal", "label_matches", False),
        ("CLASSIFICATION: TCP_Flood", "CLASSIFICATION: UDP_Flood", "label", None),
        ("KEY_INDICATORS:", "REASONS:", "schema", False),
        ("ANALYSIS:", "ANALYSIS: x\nANALYSIS:", "schema", False),
    ],
)
def test_each_falsehood_is_found(old: str, new: str, key: str, value: object) -> None:
    assert old in GOOD
    found = score_explanation(FLOW, GOOD.replace(old, new, 1), "TCP_Flood", CLASSES)
    assert found[key] == value and found["faults"]


def test_percentiles_decide_directions_where_they_are_known() -> None:
    ranked = score_explanation(RANKED, GOOD, "TCP_Flood", CLASSES)
    assert ranked["false_directions"] == ["fwd_pkts_payload.tot", "orig_pkts"]
    said = GOOD.replace("-0.068 (below the mean)", "-0.068 (above the median, p97)")
    found = score_explanation(RANKED, said, "TCP_Flood", CLASSES)
    assert found["false_directions"] == ["fwd_pkts_payload.tot"] and found["ungrounded"] == []
    assert score_explanation(RANKED, said.replace("p97", "p96"), "TCP_Flood", CLASSES)["ungrounded"] == ["p96"]


def test_values_that_are_no_z_scores_need_ranks() -> None:
    none = frozenset[str]()
    unknown = score_explanation(FLOW, GOOD, "TCP_Flood", CLASSES, standardised=none)
    assert (unknown["directions"], unknown["directions_true"]) == (2, 0)
    ranks = RankTable(10, {"orig_pkts": [-1.0, -0.068], "fwd_pkts_payload.tot": [0.0, 1.204]},
                      {"orig_pkts": [9, 10], "fwd_pkts_payload.tot": [1, 10]})  # fmt: skip
    found = score_explanation(FLOW, GOOD, "TCP_Flood", CLASSES, ranks, none)
    assert found["false_directions"] == ["orig_pkts"]


def test_nothing_to_measure_is_none_and_junk_does_not_crash() -> None:
    for junk in ("", "\n\n", "CLASSIFICATION:", "1e999 ;;; p400 \u2212", "KEY_INDICATORS: orig_pkts"):
        item = score_explanation(FLOW, junk, "Normal", CLASSES)
        assert not item["schema"] and not item["label_matches"]
    found = score_explanations([FLOW], [("", False)], ["Normal"], CLASSES)["aggregate"]
    assert found["numbers_grounded"] is None and found["directions_true"] is None and found["ended"] == 0.0
    assert score_explanations([], [], [], CLASSES)["aggregate"]["schema_valid"] is None


def test_agreement_counts_named_features_among_the_most_important_beside_chance() -> None:
    importances = {"a": 0.5, "b": 0.3, "c": 0.3, "d": 0.1, "e": 0.0, "f": -0.2, "g": 0.0, "h": 0.0}
    items = [{"cited_features": ["a", "b", "h"]}, {"cited_features": ["f"]}, {"cited_features": []}]
    assert importance_agreement(items, importances, most=2) == {
        "features": ["a", "b"], "explanations": 2, "share": (2 / 3 + 0) / 2, "chance": 2 / 8
    }  # fmt: skip
    # A feature that costs nothing is not important, however few there are.
    found = importance_agreement(items, importances)
    assert found is not None and found["features"] == ["a", "b", "c", "d"] and found["chance"] == 4 / 8
    assert importance_agreement(items[2:], importances) is None
    assert importance_agreement(items, dict.fromkeys(importances, 0.0)) is None


def explained(name: str, value: str) -> str:
    """A true explanation of a flow in which one value differs."""
    return (
        GOOD.replace("1.204", value)
        .replace("\u22120.068", "-0.068")
        .replace("CLASSIFICATION: TCP_Flood", f"CLASSIFICATION: {name}")
    )


def test_each_share_stands_beside_its_interval_and_the_level_of_another_flow_of_the_same_class() -> None:
    values = ["1.204", "2.104", "3.304", "1.904"]
    labels = ["TCP_Flood", "TCP_Flood", "Normal", "Normal"]
    flows = [FLOW.replace("1.204", value) for value in values]
    written = [(explained(label, value), True) for label, value in zip(labels, values, strict=True)]
    shares = {row["share"]: row for row in score_explanations(flows, written, labels, CLASSES)["shares"]}
    grounded = shares["numbers_grounded"]
    # Two of five numbers are the varied value, which no other flow has.
    assert (grounded["value"], grounded["high"], grounded["chance"]) == (1.0, 1.0, 3 / 5)
    assert grounded["low"] == pytest.approx(0.025 ** (1 / len(flows)))  # so few explanations show little
    assert shares["values_true"]["chance"] == 2 / 3 and shares["prose_values_true"]["chance"] == 1 / 2
    assert "percentiles_true" not in shares


def test_an_interval_is_over_explanations_and_needs_no_second_flow() -> None:
    wrong = GOOD.replace("at 1.204", "at 9.9").replace("tot 1.204", "tot 9.9")
    found = score_explanations([FLOW] * 40, [(GOOD, True), (wrong, True)] * 20, ["TCP_Flood"] * 40, CLASSES)["shares"]
    grounded = next(row for row in found if row["share"] == "numbers_grounded")
    assert grounded["value"] == 0.8 and 0.70 < grounded["low"] < 0.77 and 0.83 < grounded["high"] < 0.9
    false = score_explanations([FLOW] * 48, [(wrong, True)] * 48, ["TCP_Flood"] * 48, CLASSES)["shares"]
    faultless = next(row for row in false if row["share"] == "faultless")
    assert (faultless["value"], faultless["low"]) == (0, 0) and faultless["high"] == pytest.approx(0.074, abs=0.001)
    alone = score_explanations([FLOW], [(GOOD, True)], ["TCP_Flood"], CLASSES)["shares"]
    assert {row["chance"] for row in alone} == {None}


def test_a_percentile_is_no_copied_value() -> None:
    said = GOOD.replace("-0.068 (below the mean)", "-0.068 (above the median, p97)")
    found = score_explanation(RANKED, said, "TCP_Flood", CLASSES)
    plain = score_explanation(RANKED, said.replace(", p97", ""), "TCP_Flood", CLASSES)
    assert found["numbers"] == plain["numbers"] == 5 and (found["percentiles"], found["percentiles_true"]) == (1, 1)
    # p12 stands in the flow, but at another feature.
    other = score_explanation(RANKED, said.replace("p97", "p12"), "TCP_Flood", CLASSES)
    assert (other["percentiles"], other["percentiles_true"]) == (1, 0)
