"""Verdicts follow from the numbers and can come out each way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.reporting import claims
from iot_pipeline.reporting.arithmetic import qwen2_parameters
from iot_pipeline.reporting.claims import Claim, claims_audit, load_claims, show
from iot_pipeline.reporting.gather import Facts, Track, Used
from iot_pipeline.reporting.measurements import Measurement, collect, conditions
from iot_pipeline.vocabulary import Partition
from iot_pipeline_tests.reporting.example_facts import make_facts


def claim(**given: Any) -> Claim:
    values: dict[str, Any] = {
        "id": "x",
        "topic": "data",
        "text": "t",
        "figure": 0.95,
        "source": "s",
        "measure": "m",
        "rule": "at_least",
        "unit": "accuracy",
    }
    return Claim(**(values | given))


def verdict(of: Claim, value: Any = None, met: tuple[str, ...] = ()) -> tuple[str, str]:
    measured = {} if value is None else {"m": Measurement(value, "asset", "seen")}
    row = claims_audit([of], measured, met)[0]
    return row["verdict"], row["why"]


@pytest.mark.parametrize(
    ("given", "value", "wanted"),
    [
        ({}, 0.96, ("holds", "seen")),
        ({}, 0.94, ("does not hold", "claimed 0.9500, found 0.9400; seen")),
        ({"rule": "at_most"}, 0.96, ("does not hold", "claimed 0.9500, found 0.9600; seen")),
        ({"rule": "at_most"}, 0.95, ("holds", "seen")),
        ({"rule": "below"}, 0.95, ("does not hold", "claimed 0.9500, found 0.9500; seen")),
        ({"rule": "equal", "tolerance": 0.01}, 0.941, ("holds", "seen")),
        ({"rule": "equal"}, 0.941, ("does not hold", "claimed 0.9500, found 0.9410; seen")),
        ({"rule": "none", "reason": "other sets"}, 0.1, ("cannot be compared", "other sets; seen")),
        ({"missing": "not run"}, None, ("not measured here", "not run")),
        ({"needs": ["gpu"]}, 0.99, ("cannot be compared", "no GPU was used; seen")),
    ],
)
def test_verdict(given: dict[str, Any], value: float | None, wanted: tuple[str, str]) -> None:
    assert verdict(claim(**given), value) == wanted


def test_needs_that_are_met_let_a_claim_be_judged() -> None:
    assert verdict(claim(needs=["gpu"]), 0.99, ("gpu",)) == ("holds", "seen")


def test_figures_by_name_are_compared_one_by_one() -> None:
    by_class = claim(figure={"a": 0.5, "b": 0.6}, rule="equal", unit="share", tolerance=0.001)
    assert verdict(by_class, {"a": 0.5, "b": 0.6})[0] == "holds"
    assert verdict(by_class, {"a": 0.5, "b": 0.7}) == ("does not hold", "b: claimed 60.00 %, found 70.00 %; seen")
    assert verdict(by_class, {"a": 0.5})[0] == "does not hold"


def test_the_published_parameter_counts() -> None:
    assert qwen2_parameters() == (4_358_144, 1_548_072_448)


def test_audit_of_a_simulated_lake() -> None:
    found = make_facts().claims_audit or []
    audit = {row["id"]: row for row in found}
    assert len(audit) == len(load_claims())
    assert audit["class_table"]["verdict"] == "does not hold"  # 347,634 where 347,685 is stated
    assert audit["trainable"]["verdict"] == "holds"
    assert audit["trainable_elsewhere"]["verdict"] == "does not hold"
    assert audit["duplicates"]["verdict"] == "cannot be compared"
    assert audit["loss_original"]["verdict"] == "not measured here"
    assert audit["row_split_leaks"]["verdict"] == "holds"
    assert "simulated" in audit["row_split_leaks"]["why"]
    assert claims.counted(found).startswith("10 hold, 4 do not hold, ")


def test_real_farm_flow_lets_the_data_claims_be_judged() -> None:
    facts = make_facts()
    facts.used = replace(facts.used, source="Farm-Flow_*.csv")
    measured, met = collect(facts)
    audit = {row["id"]: row["verdict"] for row in claims_audit(load_claims(), measured, met)}
    assert audit["duplicates"] == audit["distinct_flows"] == audit["duplicates_by_class"] == "holds"
    assert audit["published_rows"] == "cannot be compared"  # eight classes there, seven here


def test_nothing_measured_is_said_for_every_claim_but_arithmetic() -> None:
    audit = claims_audit(load_claims(), *collect(Facts()))
    judged = {row["id"] for row in audit if row["verdict"] != "not measured here"}
    arithmetic = {"trainable", "parameters", "trainable_elsewhere", "accuracy_beside_f1", "accuracy_of_always_attack"}
    assert judged == arithmetic
    assert all(row["why"] for row in audit if row["verdict"] == "not measured here")


def test_conditions_follow_what_was_used() -> None:
    used = Used(dataset="farm_flow", source="x.csv", teacher="openai", base_model="Qwen/Qwen2.5-1.5B-Instruct")
    facts = Facts(used=used, tracks={Partition("ALL", "original"): Track()})
    assert conditions(facts) == {"real_flows", "captured_flows", "gpt_teacher", "qwen_base", "stage_all"}
    assert conditions(Facts(used=replace(used, source="simulate", teacher="embedded", base_model="tiny"))) == set()


def test_claimed_costs() -> None:
    assert claims.claimed_costs() == {"original": 150.0, "paraphrased": 200.0, "feature_varied": 211.0}


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("- {id: a, topic: t, text: x, source: s, rule: perhaps}\n")
    with pytest.raises(UserError, match=r"claims.yaml: rule: "):
        load_claims(path)
    path.write_text("- &a {id: a, topic: t, text: x, source: s, rule: none}\n- *a\n")
    with pytest.raises(UserError, match="the id a occurs twice"):
        load_claims(path)


def test_the_old_protocol_is_judged_by_what_it_did() -> None:
    measured, met = collect(make_facts())
    audit = {row["id"]: row for row in claims_audit(load_claims(), measured, met)}
    for name in ("truncation", "label_never_trained", "never_stops", "held_out_seen", "protocol_accuracy_uncut"):
        assert audit[name]["verdict"] == "holds", audit[name]
    assert audit["protocol_accuracy_uncut"]["measured"] == pytest.approx(0.16)
    assert audit["loss_on_prompt"]["verdict"] == "cannot be compared"


def test_stages_are_told_in_their_order() -> None:
    assert show({"10K": 1, "150K": 3, "30K": 2, "ALL": 4}, "rows") == "10K 1\n30K 2\n150K 3\nALL 4"
    assert show({"Normal": 1, "Attack": 2}, "rows") == "Normal 1\nAttack 2"
