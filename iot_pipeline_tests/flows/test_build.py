"""Rows to flows: rejection with reasons, labels, groups and occurrences."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline_tests.quality.factories import made_spec

SPEC = load_spec("farm_flow")


def raw(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A raw table: zeros, label 1, but for what each row says; text columns where a row holds text."""
    base = dict.fromkeys(SPEC.feature_names, 0.0) | {"is_attack": 1.0, "traffic": 1}
    frame = pd.DataFrame([base | row for row in rows])
    texts = [column for column in frame if frame[column].map(lambda cell: isinstance(cell, str)).any()]
    frame[texts] = frame[texts].astype(str)
    frame.to_parquet(path)
    return path


def test_groups_labels_and_occurrences(tmp_path: Path) -> None:
    rows = [
        {"orig_pkts": 1.0},
        {"orig_pkts": 2.0, "traffic": "HTTP_Flood"},
        {"orig_pkts": 1.0004, "traffic": "3.0"},
        {"orig_pkts": -0.0},
        {"orig_pkts": 0.0004},
    ]
    report = build_flows(SPEC, raw(tmp_path / "raw.parquet", rows), tmp_path / "flows.parquet")
    flows = pd.read_parquet(tmp_path / "flows.parquet")
    assert flows.label.tolist() == ["Arp_Spoofing", "HTTP_Flood", "HTTP_Flood", "Arp_Spoofing", "Arp_Spoofing"]
    assert flows.occurrence.tolist() == [0, 0, 1, 0, 1]
    assert flows.row_id.tolist() == [0, 1, 2, 3, 4]
    assert flows.flow_group[4] == group_id(FlowTextWriter(SPEC, "values").text([0.0] * 29))
    assert flows.columns.tolist() == ["row_id", *SPEC.feature_names, "label", "flow_group", "occurrence"]
    assert flows.occurrence.dtype == "int32"
    assert (report.rows_in, report.rows_kept, report.distinct_groups) == (5, 5, 3)
    assert report.rows_by_class["Arp_Spoofing"] == 3
    assert report.rows_by_class["Normal"] == 0


def test_bad_rows_are_counted_by_reason_and_absent_classes_apart(tmp_path: Path) -> None:
    bad = [
        {"orig_pkts": "x"},
        {"orig_pkts": ""},
        {"resp_pkts": float("inf")},
        {"missed_bytes": "nan"},
        {"traffic": 99},
        {"traffic": 2},
        {"fwd_iat.tot": None},
    ]
    path = raw(tmp_path / "raw.parquet", [*bad, *[{}] * 10])
    report = build_flows(SPEC, path, tmp_path / "flows.parquet", max_rejected_share=0.5)
    assert report.rejected == {
        "not a number in orig_pkts": 1,
        "missing value in orig_pkts": 1,
        "infinite in resp_pkts": 1,
        "NaN in missed_bytes": 1,
        "unknown label in traffic": 1,
        "missing value in fwd_iat.tot": 1,
    }
    assert report.left_out == {"BotNet_DDOS": 1}
    assert report.rows_kept == 10
    flows = pd.read_parquet(tmp_path / "flows.parquet")
    assert flows.row_id.tolist() == list(range(10))
    assert flows.occurrence.tolist() == list(range(10))


def test_too_many_bad_rows_name_the_commonest_reason_row_and_value(tmp_path: Path) -> None:
    path = raw(tmp_path / "raw.parquet", [{}, {"orig_pkts": "many"}, {"orig_pkts": "few"}, {"traffic": 77}])
    with pytest.raises(UserError, match=r"3 of 4 rows.*not a number in orig_pkts.*data row 2.*'many'"):
        build_flows(SPEC, path, tmp_path / "flows.parquet")
    assert not (tmp_path / "flows.parquet").exists()


def test_only_unknown_labels_are_an_error(tmp_path: Path) -> None:
    path = raw(tmp_path / "raw.parquet", [{"traffic": 77}])
    with pytest.raises(UserError, match=r"unknown label in traffic.*'77'"):
        build_flows(SPEC, path, tmp_path / "flows.parquet")


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    path = raw(tmp_path / "raw.parquet", [{"orig_pkts": float(n % 7)} for n in range(500)])
    for name in ("a", "b"):
        build_flows(SPEC, path, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_binary_edition_reads_the_same_rows(tmp_path: Path) -> None:
    path = raw(tmp_path / "raw.parquet", [{"is_attack": 0.0}, {"is_attack": 1.0}])
    report = build_flows(load_spec("farm_flow_binary"), path, tmp_path / "flows.parquet")
    assert report.rows_by_class == {"Normal": 1, "Attack": 1}


def spec_with(*expressions: str) -> DatasetSpec:
    """Features e0, e1, ... of these expressions, over a label column `kind`."""
    parts = [{"name": f"e{n}", "unit": "", "meaning": "made", "expression": sql} for n, sql in enumerate(expressions)]
    return made_spec(features=parts)


def test_an_expression_sees_text_as_text_and_numbers_as_numbers(tmp_path: Path) -> None:
    spec = spec_with("""CASE WHEN "proto" = 'tcp' THEN 1 ELSE 0 END""", 'greatest("a", "b")', '"a" + 1', '"a"')
    rows = [("tcp", "10", 9.0, "0"), ("udp", "9", 10.0, "1"), ("tcp", "2.5", 3.0, "2"), ("udp", "many", 1.0, "2")]
    pd.DataFrame(rows, columns=["proto", "a", "b", "kind"]).to_parquet(tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet", 0.5)
    flows = pd.read_parquet(tmp_path / "flows.parquet")
    assert flows[spec.feature_names].to_numpy().tolist() == [[1, 10, 11, 10], [0, 10, 10, 9], [1, 3, 3.5, 2.5]]
    assert report.rejected == {"not a number in a": 1}


def test_bad_rows_of_a_text_column_are_told_as_missing_or_without_a_value(tmp_path: Path) -> None:
    spec = spec_with("""CASE "proto" WHEN 'tcp' THEN 1 WHEN 'udp' THEN 0 END""")
    pd.DataFrame({"proto": ["tcp", "udp", None, "sctp"], "kind": [0, 1, 1, 1]}).to_parquet(tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet", 0.5)
    assert report.rejected == {"missing value in proto": 1, "no finite e0": 1}
    with pytest.raises(UserError, match=r"2 of 4 rows .* missing value in proto \(1 rows\), first in data row 3"):
        build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")


def test_arithmetic_on_a_column_of_words_names_the_column(tmp_path: Path) -> None:
    pd.DataFrame({"proto": ["tcp", "udp"], "kind": [0, 1]}).to_parquet(tmp_path / "raw.parquet")
    with pytest.raises(UserError, match=r"a feature expression .* fails: .* \(text, not numbers: proto\)"):
        build_flows(spec_with('"proto" + 1'), tmp_path / "raw.parquet", tmp_path / "flows.parquet")
