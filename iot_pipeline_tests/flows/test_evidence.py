"""Expected evidence in data set files: whole, inherited by class, one clear error for a fault."""

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DATASETS, load_spec

ITEM = "{feature: orig_pkts, direction: above, why: many packets}"


@pytest.mark.parametrize("name", ["farm_flow", "farm_flow_8", "rt_iot2022"])
def test_every_class_has_evidence_for_known_features_with_reasons(name: str) -> None:
    spec = load_spec(name)
    assert set(spec.expected_evidence) == set(spec.classes)
    for listed in spec.expected_evidence.values():
        assert 5 <= len(listed) <= 9 and all(item.why and item.feature in spec.feature_names for item in listed)


@pytest.mark.parametrize("name", ["farm_flow", "farm_flow_8", "rt_iot2022"])
def test_the_file_says_when_and_that_no_student_was_looked_at(name: str) -> None:
    lines = (DATASETS / f"{name}.yaml").read_text().partition("\nexpected_evidence:")[0].splitlines()
    told = " ".join(line.removeprefix("# ") for line in lines[-10:])
    assert "no student was looked at" in told and (name == "farm_flow_8" or "2026-11-28" in told)


def test_a_file_that_extends_keeps_the_evidence_of_its_classes_and_features(tmp_path: Path) -> None:
    assert set(load_spec("farm_flow_binary").expected_evidence) == {"Normal"}
    whole = load_spec("farm_flow").expected_evidence
    assert load_spec("farm_flow_8").expected_evidence.items() >= whole.items()
    (tmp_path / "mine.yaml").write_text(f"extends: farm_flow\nexpected_evidence: {{Normal: [{ITEM}]}}\n")
    mine = load_spec(tmp_path / "mine.yaml").expected_evidence
    assert [item.why for item in mine["Normal"]] == ["many packets"] and mine["TCP_Flood"] == whole["TCP_Flood"]
    parts = [f"{{name: {name}, unit: '', meaning: m}}" for name in load_spec("farm_flow").feature_names[1:12]]
    (tmp_path / "mine.yaml").write_text(f"extends: farm_flow\nfeatures: [{', '.join(parts)}]\n")
    assert {item.feature for item in load_spec(tmp_path / "mine.yaml").expected_evidence["TCP_Flood"]} == {
        "resp_pkts", "resp_ip_bytes", "down_up_ratio", "orig_pkts", "fwd_header_size_max"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (f"{{Nobody: [{ITEM}]}}", "mine.yaml: .*expected_evidence: Nobody: no such class; there are Normal, "),
        ("{Normal: [{feature: pkts, direction: above, why: x}]}", "expected_evidence: Normal: no such feature: pkts"),
        (f"{{Normal: [{ITEM}, {ITEM}]}}", "expected_evidence: Normal: orig_pkts stands twice"),
        ("{Normal: []}", "expected_evidence: Normal: the list is empty"),
        ("{Normal: [{feature: orig_pkts, direction: above}]}", "expected_evidence.Normal.0.why: Field required"),
        ("{Normal: [{feature: orig_pkts, direction: above, why: ' '}]}", "expected_evidence.Normal.0.why: "),
        ("{Normal: [{feature: orig_pkts, direction: up, why: x}]}", "expected_evidence.Normal.0.direction: "),
        ("{Normal: [{feature: orig_pkts, direction: above, why: x, by: me}]}", "expected_evidence.Normal.0.by: "),
        ("[1]", "expected_evidence: "),
    ],
)
def test_a_faulty_block_is_one_clear_error(tmp_path: Path, block: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: farm_flow\nexpected_evidence: {block}\n")
    with pytest.raises(UserError, match=message):
        load_spec(tmp_path / "mine.yaml")
