"""A table that nobody here has seen becomes a data set that the pipeline runs on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.draft import draft_spec
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.split import split_by_group

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
        "column00": "has no name: most likely a row number",
        "Row": "a number of its own for every row", "Src IP": "says who or when", "Timestamp": "says who or when",
        "Always": "constant", "Proto Name": "not a number",
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
    with pytest.raises(UserError, match=r"no column of 2 to 20 values whose name says label; .*--label \(.*Answer\)"):
        draft_spec(str(table), "unseen")
    assert draft_spec(str(table), "unseen", "Answer").label == "Answer"


def test_too_few_features_are_named_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("a,b,label\n1.5,x,m\n2.5,y,n\n")
    with pytest.raises(UserError, match=r"1 usable numeric columns; .* Left out: b \(not a number\)"):
        draft_spec(str(tmp_path / "small.csv"), "small")


def test_an_unknown_label_column_is_an_error(table: Path) -> None:
    with pytest.raises(UserError, match="no column 'Kind'"):
        draft_spec(str(table), "unseen", "Kind")


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iot_pipeline.cli", "datasets", *words], capture_output=True, text=True, cwd=folder
    )


def test_the_commands(table: Path, tmp_path: Path) -> None:
    made = command("new", str(table), "--json", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["spec"] == "unseen.yaml"
    again = command("new", str(table), folder=tmp_path)
    assert again.returncode == 2 and "unseen.yaml is there already" in again.stderr
    checked = command("check", "unseen.yaml", str(table), "--json", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    facts = json.loads(checked.stdout)
    assert (facts["rows"], facts["rejected_rows"], facts["classes_without_rows"]) == (120, {}, [])
    table.write_text("\n".join(line for line in table.read_text().splitlines() if "Scan" not in line) + "\n")
    assert command("check", "unseen.yaml", str(table), folder=tmp_path).returncode == 1
    wrong = command("check", "rt_iot2022", str(table), folder=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unseen.csv lacks")
    listed = json.loads(command("list", "--json", folder=tmp_path).stdout)
    assert {"farm_flow", "rt_iot2022"} <= {row["name"] for row in listed}
