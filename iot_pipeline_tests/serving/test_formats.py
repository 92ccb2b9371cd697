"""Every output format says the same of a flow, by the rules of its schema, and exactly as the golden files have it."""

from __future__ import annotations

import csv
import io
import ipaddress
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsf_emitter import validate
from ocsf_emitter._models import DetectionFinding
from pydantic import BaseModel

from iot_pipeline.serving.classifier import Explanation, Strangeness, Verdict
from iot_pipeline.serving.events import About, Row
from iot_pipeline.serving.evidence import Fact
from iot_pipeline.serving.formats import FORMS, SCHEMA, Encoder
from iot_pipeline.serving.identity import identity
from iot_pipeline_tests.serving.factories import classifier

GOLDEN = Path(__file__).parent / "golden"
ABOUT = About.of(classifier())
FLOW = {"ts": "1600000000.25", "uid": "CHhAvVGS1DHFjwGM9", "src_ip": "10.0.0.1", "src_port": "40000",
        "dest_ip": "2001:db8::2", "dest_port": "1883", "proto": "tcp", "service": "mqtt"}  # fmt: skip
SAID = Explanation(
    "CLASSIFICATION: TCP_Flood\nANALYSIS: Many packets.\nKEY_INDICATORS: orig_pkts 2.265", "grounded",
    ["length: ANALYSIS has 2 words, 24 at least"], [Fact("orig_pkts", "2.265", "p97")],
)  # fmt: skip
PROBABILITIES = {"Normal": 0.05, "TCP_Flood": 0.9, "MQTT_Flood": 0.05}
VERDICTS = {
    "1" * 64: Verdict("TCP_Flood", PROBABILITIES, ["TCP_Flood"], [], SAID, [Fact("resp_pkts", "-0.500", "p27")]),
    "2" * 64: Verdict("Normal", {"Normal": 0.6, "TCP_Flood": 0.4}, ["Normal", "TCP_Flood"], ["missed_bytes"], None,
                      [Fact("resp_pkts", "-0.500", "p27")]),
    "3" * 64: Verdict("TCP_Flood", {"Normal": 0.45, "TCP_Flood": 0.55}, None, [], None, []),
    "4" * 64: Verdict("Normal", {"Normal": 0.97, "TCP_Flood": 0.03}, ["Normal"], ["orig_pkts"], None, [],
                      Strangeness(0.0004, True, ["orig_pkts = 9000: known flows have -1 to 12"])),
}  # fmt: skip
ROWS = [
    Row("0123456789abcdef0123456789abcdef", "conn.log", 1, 1600000000.25, "flow", identity(FLOW), "1" * 64),
    Row("1123456789abcdef0123456789abcdef", "flows.csv", 2, 1700000000.0, "file", {}, "2" * 64),
    Row("2123456789abcdef0123456789abcdef", "=cmd()", 3, 1700000000.5, "reading",
        identity({"src_ip": "=cmd|'/c calc'!A0", "src_port": "99999", "proto": "<script>"}), "3" * 64),
    Row("3123456789abcdef0123456789abcdef", "conn.log", 4, 1600000001.5, "flow", identity(FLOW), "4" * 64),
]  # fmt: skip
# Types of the fields that we write, by the ECS reference 8.17.
ECS = {
    "@timestamp": "date", "ecs.version": "keyword", "message": "text", "event.id": "keyword", "event.kind": "keyword",
    "event.category": "keyword", "event.type": "keyword", "event.module": "keyword", "event.dataset": "keyword",
    "event.severity": "long", "event.risk_score": "float", "event.reason": "keyword", "rule.name": "keyword",
    "rule.ruleset": "keyword", "rule.version": "keyword", "observer.product": "keyword", "observer.vendor": "keyword",
    "observer.type": "keyword", "observer.version": "keyword", "log.file.path": "keyword", "source.ip": "ip",
    "source.address": "keyword", "source.port": "long", "destination.ip": "ip", "destination.address": "keyword",
    "destination.port": "long", "network.transport": "keyword", "network.protocol": "keyword", "related.ip": "ip",
}  # fmt: skip
KINDS = {"alert", "asset", "enrichment", "event", "metric", "state", "pipeline_error", "signal"}
TYPES = {  # event.type values that the reference allows in these categories
    "intrusion_detection": {"allowed", "denied", "info"},
    "network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
}
hostile = st.one_of(st.none(), st.integers(-5, 2**70), st.floats(), st.text())


def encoded(form: Any, rows: list[Row] = ROWS, verdicts: dict[str, Verdict] = VERDICTS) -> bytes:
    encoder = Encoder(form, ABOUT)
    return encoder.head() + encoder.encode(rows, verdicts)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "parquet"])
def test_the_output_is_that_of_the_golden_file(form: str) -> None:
    """After a wanted change delete the file and run the test twice."""
    path = GOLDEN / f"events.{form}"
    if not path.exists():
        path.write_bytes(encoded(form))
        pytest.fail(f"{path} was written; look at it")
    assert encoded(form).decode() == path.read_text()


def strays(model: Any, path: str = "") -> list[str]:
    """Fields that the OCSF schema does not have: its generated models let them pass."""
    if isinstance(model, list):
        return [stray for item in model for stray in strays(item, path)]
    if not isinstance(model, BaseModel):
        return []
    found = [f"{path}.{name}" for name in model.model_extra or {}] if not path.endswith("unmapped") else []
    return found + [s for name in type(model).model_fields for s in strays(getattr(model, name), f"{path}.{name}")]


def check_ocsf(line: str) -> None:
    finding = DetectionFinding.model_validate_json(line)
    validate(finding)
    assert strays(finding) == []


def test_ocsf_is_valid_by_a_public_validator() -> None:
    lines = encoded("ocsf").decode().splitlines()
    assert len(lines) == 4
    for line in lines:
        check_ocsf(line)


def test_the_validator_sees_a_wrong_event() -> None:
    event = json.loads(encoded("ocsf").splitlines()[0])
    for wrong in ({"severity_id": 77}, {"type_uid": 200402}, {"time": "now"}, {"made_up": 1}):
        with pytest.raises(Exception, match=r"severity_id|type_uid|time|made_up"):
            check_ocsf(json.dumps(event | wrong))


def flattened(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in flattened(one, f"{name}.{key}" if name else key)]
    return [(name, one) for one in (value if isinstance(value, list) else [value])]


def check_ecs(line: str) -> None:
    record = json.loads(line)
    record.pop("iot_pipeline")
    for name, value in flattened(record):
        kind = ECS[name]
        if kind == "ip":
            ipaddress.ip_address(value)
        elif kind == "date":
            datetime.fromisoformat(value)
        elif kind == "long":
            assert type(value) is int and abs(value) < 2**63, name
        else:
            assert type(value) is (float if kind == "float" else str), name
    event = record["event"]
    assert event["kind"] in KINDS
    allowed = set.union(*(TYPES[category] for category in event["category"]))
    assert set(event["type"]) <= allowed


@given(
    flow=st.dictionaries(st.sampled_from([*FLOW]), hostile), group=st.sampled_from([*VERDICTS]), at=st.floats(0, 4e9)
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_source_calls_a_flow_every_schema_holds(flow: dict[str, Any], group: str, at: float) -> None:
    row = Row("0123456789abcdef0123456789abcdef", "x.csv", 1, at, "flow", identity(flow), group)
    check_ocsf(encoded("ocsf", [row]).decode())
    check_ecs(encoded("ecs", [row]).decode())
    alert = json.loads(encoded("eve", [row]))
    assert alert["event_type"] == ("flow" if group == "2" * 64 else "alert")
    assert 0 <= alert.get("src_port", 0) <= 65535 and 0 < alert["flow_id"] < 2**53
    assert len(encoded("json", [row]).splitlines()) == 1
    assert len(list(csv.reader(io.StringIO(encoded("csv", [row]).decode(), newline="")))) == 2


def test_a_spreadsheet_runs_no_cell() -> None:
    cells = [cell for row in csv.reader(io.StringIO(encoded("csv").decode())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_a_flow_of_no_known_class_is_an_alert_and_no_known_class() -> None:
    told = {form: json.loads(encoded(form).splitlines()[3]) for form in ("json", "ocsf", "ecs", "eve")}
    assert told["json"]["class"] == "unknown" and told["json"]["nearest_class"] == "Normal"
    assert not told["json"]["benign"] and told["ocsf"]["is_alert"] and told["eve"]["event_type"] == "alert"
    assert told["ecs"]["event"]["kind"] == "alert" and "9000" in told["ocsf"]["message"]


def test_parquet_has_the_events_of_json(tmp_path: Path) -> None:
    pq.write_table(Encoder("parquet", ABOUT).table(ROWS, VERDICTS), tmp_path / "events.parquet")
    table = pq.read_table(tmp_path / "events.parquet")
    assert table.schema.equals(SCHEMA)
    for told, line in zip(table.to_pylist(), encoded("json").decode().splitlines(), strict=True):
        record = json.loads(line)
        same = (
            "uid",
            "file",
            "row",
            "class",
            "probability",
            "set",
            "unsure",
            "unknown",
            "out_of_range",
            "evidence",
            "benign",
        )
        assert {name: told[name] for name in same} == {name: record[name] for name in same}
        assert dict(told["probabilities"]) == record["probabilities"]
        assert told["time"] == datetime.fromisoformat(record["time"])
        assert told["model_digest"] == record["model"]["digest"]
