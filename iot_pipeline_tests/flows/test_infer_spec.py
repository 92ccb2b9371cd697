"""A table that nobody here has seen becomes a data set that the pipeline runs on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline.commands.datasets import new
from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.drafting.columns import is_identity
from iot_pipeline.flows.infer_spec import draft_spec
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.split import split_by_group
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.command_line import call

KINDS = ["Benign", "DoS Hulk", "Bot", "Scan"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """120 flows of 12 numeric features under names of another project, with columns that are no features."""
    chance = random.Random(3)
    names = [f"Flow Feature {place}" for place in range(12)]
    lines = [",".join(["", "Row", "Src IP", "Timestamp", "Always", *names, "Proto Name", "Label"])]
    for row in range(120):
        values = [f"{chance.choice([0.0, 1.5, chance.uniform(0, 9)]):.4f}" for _ in names]
        head = [str(row // 2), str(row), f"10.0.0.{row}", f"{row}", "7"]
        cells = [*head, *values, "tcp" if row % 2 else "udp", KINDS[row % 4]]
        lines.append(",".join(cells))
    path = tmp_path / "unseen.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_draft_runs_through_reading_building_and_splitting(table: Path, tmp_path: Path) -> None:
    draft = draft_spec(str(table), "unseen")
    assert (draft.label, len(draft.features)) == ("Label", 12)
    assert draft.labels == {"Benign": "Benign", "Bot": "Bot", "DoS Hulk": "DoS_Hulk", "Scan": "Scan"}
    assert draft.left_out == {
        "Unnamed: 0": "has no name: most likely a row number",
        "Row": "a number of its own for every row",
        "Src IP": "says who or when",
        "Timestamp": "says who or when",
        "Always": "constant",
        "Proto Name": "follows from the label",
    }
    (tmp_path / "unseen.yaml").write_text(draft.yaml)
    spec = load_spec(tmp_path / "unseen.yaml")
    assert spec.feature_names[0] == "Flow_Feature_0"
    read_source(spec, str(table), tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    assert report.rows_by_class == {"Benign": 30, "Bot": 30, "DoS_Hulk": 30, "Scan": 30}
    split = split_by_group(tmp_path / "flows.parquet", tmp_path / "records.parquet", 1)
    assert sum(split.rows.values()) == 120


def test_a_table_without_a_label_says_how_to_name_one(table: Path) -> None:
    table.write_text(table.read_text().replace("Label", "Answer").replace("Proto Name", "Proto"))
    with pytest.raises(UserError, match=r"no column of 2 to 100 values whose name says label; .*--label \(.*Answer\)"):
        draft_spec(str(table), "unseen")
    assert draft_spec(str(table), "unseen", "Answer").label == "Answer"


def test_too_few_features_are_named_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("a,b,label\n1.5,x,m\n1.5,y,n\n1.5,x,m\n")
    with pytest.raises(
        UserError,
        match=r"0 usable numeric columns and categories; .* Left out: a \(constant\), b \(follows from the label\)",
    ):
        draft_spec(str(tmp_path / "small.csv"), "small")


def test_an_unknown_label_column_is_an_error(table: Path) -> None:
    with pytest.raises(UserError, match="no column 'Kind'"):
        draft_spec(str(table), "unseen", "Kind")


def test_the_commands(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = call("datasets", "new", str(table), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["spec"] == "unseen.yaml"
    again = call("datasets", "new", str(table))
    assert again.returncode == 2 and "unseen.yaml already exists" in again.stderr
    checked = call("datasets", "check", "unseen.yaml", str(table), "--json")
    assert checked.returncode == 0, checked.stderr
    facts = json.loads(checked.stdout)
    assert (facts["rows"], facts["rejected_rows"], facts["classes_without_rows"]) == (120, {}, [])
    assert (facts["published_facts_checked"], facts["published_facts_that_disagree"]) == (0, [])
    spec = tmp_path / "unseen.yaml"
    spec.write_text(spec.read_text() + "\nfacts: {rows: 121, duplicates: {distinct: 120}}\n")
    told = json.loads(call("datasets", "check", "unseen.yaml", str(table), "--json").stdout)
    assert told["published_facts_checked"] == 2
    assert told["published_facts_that_disagree"] == ["rows: published 121, found 120 (rows)"]
    table.write_text("\n".join(line for line in table.read_text().splitlines() if "Scan" not in line) + "\n")
    assert call("datasets", "check", "unseen.yaml", str(table)).returncode == 1
    wrong = call("datasets", "check", "rt_iot2022", str(table))
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unseen.csv lacks")
    listed = json.loads(call("datasets", "list", "--json").stdout)
    assert {"farm_flow", "rt_iot2022"} <= {row["name"] for row in listed}


def test_farm_flow_keeps_its_29_features_and_loses_the_binary_label(tmp_path: Path) -> None:
    simulate_farm_flow(tmp_path / "t.parquet", rows=3000)
    pa_csv.write_csv(pq.read_table(tmp_path / "t.parquet"), tmp_path / "t.csv")
    known = load_spec("farm_flow").feature_names
    many = draft_spec(str(tmp_path / "t.csv"), "many")
    assert many.label == "traffic" and many.left_out["is_attack"] == "follows from the label"
    binary = draft_spec(str(tmp_path / "t.csv"), "binary", "is_attack")
    assert binary.left_out["traffic"] == "the label follows from it"
    for draft in (many, binary):
        # missed_bytes and the like may be constant in so few rows; nothing else goes.
        lost = set(known) - set(draft.features)
        assert {draft.left_out[name] for name in lost} <= {"constant"}
        assert {"orig_ip_bytes", "resp_ip_bytes"} <= set(draft.features)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("orig_ip_bytes", False), ("active_time_mean", False), ("id.orig_p", True), ("Src IP", True), ("SrcPort", True),
        ("dst-port", True), ("Timestamp", True), ("ip.len", False), ("port_count", False), ("Flow ID", True),
        ("stime", True), ("dsport", True), ("width", False), ("import_rate", False),
        ("is_sm_ips_ports", False), ("ct_src_dport_ltm", False), ("ct_dst_sport_ltm", False), ("Time_To_Live", False),
        ("dst_host_same_src_port_rate", False), ("is_host_login", False), ("tcp.time_delta", False),
        ("ip.src_host", True), ("srcip", True), ("saddr", True), ("L4_SRC_PORT", True), ("first_seen_ms", True),
        ("FLOW_START", True), ("MIN_IP_PKT_LEN", False), ("frame.time", True),
    ],
)  # fmt: skip
def test_who_or_when_is_told_from_a_measure(column: str, expected: bool) -> None:
    assert is_identity(column) is expected


def made(path: Path, columns: list[str], labels: list[str], label: str = "Label") -> Path:
    """90 flows whose columns hold 0.5 to 6.5 whatever the label, which goes round."""
    lines = [",".join([*columns, label])]
    for row in range(90):
        cells = [f"{row * (place % 6 + 1) % 7 + 0.5}" for place in range(len(columns))]
        lines.append(",".join([*cells, labels[row % len(labels)]]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PLAIN = [f"f{place}" for place in range(9)]


def test_a_draft_reads_what_the_pipeline_reads(tmp_path: Path) -> None:
    """Labels keep their text, names lose the blanks around them, a column with one word in it is no number."""
    file = made(tmp_path / "t.csv", [" Flow Duration", *PLAIN, "mixed "], ["True", "False", "Maybe"], " Label")
    file.write_text(file.read_text().replace("\n0.5,0.5,", "\n0.5,7.25,", 1))
    lines = file.read_text().splitlines()
    lines[5] = ",".join([*lines[5].split(",")[:-2], "many", lines[5].split(",")[-1]])
    file.write_text("\n".join(lines) + "\n")
    draft = draft_spec(str(file), "t", " Label")
    assert draft.labels == {"False": "False", "Maybe": "Maybe", "True": "True"}
    assert draft.features == ["Flow Duration", *PLAIN]
    assert draft.left_out == {"mixed": "not a number in 1 of 90 rows, first 'many'"}
    (tmp_path / "t.yaml").write_text(draft.yaml)
    spec = load_spec(tmp_path / "t.yaml")
    read_source(spec, str(file), tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    assert report.rows_by_class == {"False": 30, "Maybe": 30, "True": 30}


def test_labels_that_differ_in_case_only_are_told(tmp_path: Path) -> None:
    file = made(tmp_path / "t.csv", [*PLAIN, "g"], ["Scan", "scan", "Normal"])
    notes = draft_spec(str(file), "t").notes
    told = [note for note in notes if "differ in case only" in note]
    assert len(told) == 1 and "'Scan'" in told[0] and "'scan'" in told[0] and "Normal" not in told[0]


def test_labels_that_differ_in_blanks_and_punctuation_only_are_told(tmp_path: Path) -> None:
    file = made(tmp_path / "t.csv", [*PLAIN, "g"], ["Port Scan", "port-scan", "Port_Scan", "-1", "1", "normal."])
    draft = draft_spec(str(file), "t")
    told = [note for note in draft.notes if "differ in case, blanks or punctuation only" in note]
    assert len(told) == 1 and all(repr(label) in told[0] for label in ("Port Scan", "port-scan", "Port_Scan"))
    assert (draft.labels["normal."], draft.labels["1"], draft.labels["-1"]) == ("normal", "Class_1", "Class_-1")


def test_labels_that_differ_in_punctuation_or_case_stay_apart(tmp_path: Path) -> None:
    file = made(tmp_path / "t.csv", [*PLAIN, "g"], ["DoS/Hulk", "DoS Hulk", "DoS_Hulk", "dos_hulk", "-1"])
    draft = draft_spec(str(file), "t")
    assert draft.labels["DoS_Hulk"] == "DoS_Hulk" and draft.labels["-1"] == "Class_-1"
    assert sorted(draft.labels.values(), key=str.lower) == [
        "Class_-1",
        "DoS_Hulk",
        "dos_hulk_2",
        "DoS_Hulk_3",
        "DoS_Hulk_4",
    ]
    (tmp_path / "t.yaml").write_text(draft.yaml)
    assert {text: load_spec(tmp_path / "t.yaml").label_of(text) for text in draft.labels} == draft.labels


def test_labels_of_signs_that_cannot_be_shown_are_known_again_and_long_ones_refused(tmp_path: Path) -> None:
    odd = ["\U0001f468\u200d\U0001f469", "a\u2028b", "\x7fc", "q\\"]
    draft = draft_spec(str(made(tmp_path / "t.csv", PLAIN, odd)), "t", "Label")
    (tmp_path / "t.yaml").write_text(draft.yaml, encoding="utf-8")
    assert {text: load_spec(tmp_path / "t.yaml").label_of(text) for text in odd} == draft.labels
    with pytest.raises(UserError, match=r"column Label has a value of 1,100 characters, 'LLL.*a label has 300 at most"):
        draft_spec(str(made(tmp_path / "t.csv", PLAIN, ["L" * 1100, "x"])), "t", "Label")


def test_names_that_a_spec_refuses_are_renamed(tmp_path: Path) -> None:
    columns = [*PLAIN[:7], "rows", "it's", "a b", "A_b", "a:b", '"say ""x"""']
    draft = draft_spec(str(made(tmp_path / "t.csv", columns, ["x", "y"])), "t")
    (tmp_path / "t.yaml").write_text(draft.yaml)
    spec = load_spec(tmp_path / "t.yaml")
    assert spec.feature_names[7:] == ["rows_feature", "it_s", "a_b", "A_b_2", "a_b_3"]
    assert draft.left_out == {'say "x"': "has a quote in its name: rename it in the file"}
    read_source(spec, str(tmp_path / "t.csv"), tmp_path / "raw.parquet")
    assert build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet").rows_kept == 90


def test_nothing_is_written_before_the_draft_is_a_spec(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for name in ("My Flows", "größe", ""):
        with pytest.raises(UserError, match=r"--name .* is not a valid name: use small letters"):
            new(str(table), name, None, None)
    assert sorted(tmp_path.iterdir()) == before
    odd = table.rename(tmp_path / "Größe 2 (final).csv")
    assert new(str(odd), None, None, None)["spec"] == "grosse_2_final.yaml"
