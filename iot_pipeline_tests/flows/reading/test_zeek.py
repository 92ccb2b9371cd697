"""Zeek logs as a source: the simulator's packets, written as logs, give the simulator's flows; broken ones one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import SourceReport, read_source, read_tables
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.flows.reading.zeek_logs import Row, json_log, logs_of, rotated, tsv

SPEC = load_spec("farm_flow")
ROWS = 300
IOT23 = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tuid\tid.orig_p\tproto\tservice\tduration\torig_bytes\ttunnel_parents   label   detailed-label\n"
    "#types\ttime\tstring\tport\tenum\tstring\tinterval\tcount\tset[string]   string   string\n"
    "1.5\tC1\t47214\ttcp\t-\t-\t-\t(empty)   Malicious   PartOfAHorizontalPortScan\n"
    "2.5\tC2\t80\tudp\tdns\t0.25\t48\t-   benign   -\n"
    "#close\t2019-03-15-14-50-47\n"
)


@pytest.fixture(scope="module")
def lines() -> tuple[list[Row], list[Row]]:
    """Lines of conn.log and flowmeter.log of ROWS simulated flows."""
    return logs_of(SPEC, ROWS, 42)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The simulator's flows, sorted."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate_farm_flow(folder / "raw.parquet", ROWS, 42)
    build_flows(SPEC, folder / "raw.parquet", folder / "flows.parquet")
    return in_order(pd.read_parquet(folder / "flows.parquet"))


def in_order(flows: pd.DataFrame) -> pd.DataFrame:
    """Flows by class and printed values: logs and table have different orders."""
    return flows.sort_values(["label", "flow_group", "occurrence"]).reset_index(drop=True)


@pytest.mark.parametrize("form", ["tsv", "blanks", "json", "rotated", "concatenated"])
def test_logs_of_the_simulators_packets_give_the_simulators_flows(
    lines: tuple[list[Row], list[Row]], simulated: pd.DataFrame, tmp_path: Path, form: str
) -> None:
    conn, meter = lines
    source = f"{tmp_path}/conn.log,{tmp_path}/flowmeter.log"
    if form == "rotated":
        source = f"{rotated(tmp_path, 'conn', conn, 3)},{rotated(tmp_path, 'flowmeter', meter, 2)}"
    else:
        halves = (conn[: ROWS // 2], conn[ROWS // 2 :]) if form == "concatenated" else (conn,)
        blanks = ("tunnel_parents", "traffic") if form == "blanks" else ()
        texts = [json_log(part) if form == "json" else tsv("conn", part, blanks[1:]) for part in halves]
        (tmp_path / "conn.log").write_text("".join(texts))
        # The order of one log owes nothing to that of the other.
        back = meter[::-1]
        (tmp_path / "flowmeter.log").write_text(json_log(back) if form == "json" else tsv("flowmeter", back))
    report = read_source(SPEC, source, tmp_path / "raw.parquet")
    assert (report.rows, report.rejected) == (ROWS, {})
    assert any("computed, as no Zeek log has them: pkts_difference" in note for note in report.notes)
    assert any("raw: 29 columns are put on the scale" in note and "assumed" in note for note in report.notes)
    build_flows(SPEC, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    found = in_order(pd.read_parquet(tmp_path / "flows.parquet"))
    assert found.label.tolist() == simulated.label.tolist()
    assert found.flow_group.tolist() == simulated.flow_group.tolist()
    assert np.abs(found[SPEC.feature_names].to_numpy() - simulated[SPEC.feature_names].to_numpy()).max() <= 2e-6


def test_logs_without_a_label_are_flows_to_explain(
    lines: tuple[list[Row], list[Row]], simulated: pd.DataFrame, tmp_path: Path
) -> None:
    bare = [{key: value for key, value in line.items() if key != "traffic"} for line in lines[0]]
    (tmp_path / "conn.log").write_text(tsv("conn", bare))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", lines[1]))
    found = read_unlabelled(SPEC, f"{tmp_path}/*.log")
    assert sorted(found.flow_group) == sorted(simulated.flow_group)


def read(tmp_path: Path, rules: ReadingRules | None = None, share: float = 0.01, **logs: str | bytes) -> SourceReport:
    """Read logs given by name and text."""
    for name, text in logs.items():
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / f"{name}.log").write_bytes(data)
    source = ",".join(str(tmp_path / f"{name}.log") for name in logs)
    return read_tables(source, tmp_path / "raw.parquet", rules or ReadingRules(), max_rejected_share=share)


def test_blanks_of_iot_23_types_and_unset_fields(tmp_path: Path) -> None:
    report = read(tmp_path, conn=IOT23)
    found = pd.read_parquet(tmp_path / "raw.parquet")
    assert report.columns[-3:] == ["tunnel_parents", "label", "detailed-label"]
    assert found["label"].tolist() == ["Malicious", "benign"]
    assert found["detailed-label"].tolist() == ["PartOfAHorizontalPortScan", "-"]
    assert found["service"].tolist() == ["-", "dns"]
    assert found["duration"].isna().tolist() == [True, False]
    assert found[["duration", "orig_bytes", "id.orig_p"]].iloc[1].tolist() == [0.25, 48, 80]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\t", ";").replace("\\x09", "\\x3b"),
        lambda text: text.replace("#unset_field\t-", "#unset_field\tN/A").replace("\t-\t-\t-", "\tN/A\tN/A\tN/A"),
        lambda text: text.replace("   ", "\t").replace("label\tdetailed", "label   detailed"),
        lambda text: text.removesuffix("#close\t2019-03-15-14-50-47\n"),
        lambda text: text + text,
    ],
)
def test_other_forms_of_a_log_give_the_same_table(tmp_path: Path, change: object) -> None:
    read(tmp_path, conn=IOT23)
    wanted = pd.read_parquet(tmp_path / "raw.parquet")
    changed = change(IOT23)  # type: ignore[operator]
    read(tmp_path, conn=changed)
    found = pd.read_parquet(tmp_path / "raw.parquet")
    pd.testing.assert_frame_equal(found.iloc[: len(wanted)], wanted)


def test_lines_that_are_cut_or_no_json_are_counted_with_their_place(tmp_path: Path) -> None:
    report = read(tmp_path, share=0.9, conn=IOT23.replace("2.5\tC2\t80\tudp\tdns\t0.25", "2.5\tC2"))
    assert [(line["line"], line["reason"]) for line in report.examples] == [(9, "too few columns")]
    text = '{"uid":"C1","id.orig_h":"1.1.1.1","proto":"tcp","orig_pkts":1}\n{"uid":"C2",\n\n[1]\n'
    report = read(tmp_path, share=0.9, conn=text)
    assert [(line["line"], line["reason"]) for line in report.examples] == [
        (2, "not an object of JSON"),
        (4, "not an object of JSON"),
    ]
    assert pd.read_parquet(tmp_path / "raw.parquet")["proto"].tolist() == ["tcp"]


METER = "#separator \\x09\n#path\tflowmeter\n#fields\tuid\tfwd_pkts_tot\n#types\tstring\tcount\n"


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ({"conn": IOT23, "flowmeter": METER + "C1\t3\nC1\t4\n"}, r"the uid C1 is in 2 lines of flowmeter.log"),
        ({"conn": IOT23, "flowmeter": METER + "C8\t3\n"}, r"conn.log and flowmeter.log have no uid in common"),
        ({"conn": IOT23 + IOT23.replace("proto", "protocol")}, r"line 16, begins a log with other #fields"),
        ({"conn": IOT23.replace("#types\ttime\t", "#types\t")}, r"#types line has 9 types for 10 fields"),
        ({"conn": IOT23[: IOT23.index("1.5")]}, "is a Zeek log without a row"),
        ({"conn": "#separator \\x09\n#path\tconn\n1\t2\n"}, "without a #fields line"),
        ({"conn": '{"uid":\n'}, "has no object of JSON"),
    ],
)
def test_a_log_that_cannot_be_read_is_one_sentence(tmp_path: Path, logs: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, share=0.9, **logs)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_lines_without_their_counterpart_are_told(tmp_path: Path) -> None:
    report = read(tmp_path, conn=IOT23, flowmeter=METER + "C2\t3\nC9\t4\n")
    assert report.left_out == {"no line in conn.log": 1}
    assert any("1 of 2 connections have no line in flowmeter.log" in note for note in report.notes)
    assert pd.read_parquet(tmp_path / "raw.parquet")["fwd_pkts_tot"].tolist()[1] == 3


def test_what_the_features_need_and_no_log_has_is_listed(lines: tuple[list[Row], list[Row]], tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(tsv("conn", lines[0]))
    with pytest.raises(
        UserError, match=r"lacks 24 of the columns .*fwd_pkts_per_sec, .*; give flowmeter.log too"
    ) as told:
        read_source(SPEC, str(tmp_path / "conn.log"), tmp_path / "raw.parquet")
    assert all(name in str(told.value) for name in ("flow_iat.avg", "data_pkts_difference"))
    bare = [{key: value for key, value in line.items() if key != "traffic"} for line in lines[0]]
    (tmp_path / "conn.log").write_text(tsv("conn", bare))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", lines[1]))
    with pytest.raises(UserError, match=r"lacks 1 of the columns .*: traffic; a log has no label of its own"):
        read_source(SPEC, f"{tmp_path}/*.log", tmp_path / "raw.parquet")
