"""The leakage report passes a split by group, and fails every way in which a split can leak."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.quality.leakage import leakage_report
from iot_pipeline.quality.near_duplicates import near_duplicates
from iot_pipeline_tests.quality.factories import flow_table, made_spec, random_flows, record_table, save

SIDES = ("train", "train", "train", "validation", "calibration", "test")


def report_of(tmp_path: Path, records: pd.DataFrame, frame: pd.DataFrame, with_model: bool = False) -> dict:
    flows = save(frame, tmp_path / "flows.parquet")
    return leakage_report(flows, save(records, tmp_path / "records.parquet"), made_spec(), 5, with_model)


@pytest.fixture
def frame() -> pd.DataFrame:
    return flow_table(made_spec(), random_flows(2000))


def test_a_group_split_passes_and_a_row_split_leaks(tmp_path: Path, frame: pd.DataFrame) -> None:
    report = report_of(tmp_path, record_table(frame, SIDES), frame, with_model=True)
    assert report["passed"] and {pair["groups"] for pair in report["pairs"]} == {0}
    assert report["known_leak"] == made_spec().scaling_note  # its values are published scaled
    assert report["leak_free"]["shared_test_rows"] == 0
    row_wise = report["row_wise"]
    assert row_wise["train_rows"] == 1600 and row_wise["test_rows"] == 400
    assert row_wise["shared_test_share"] > 0.95  # 144 flows, 2,000 rows
    assert row_wise["lookup"]["row"] > report["leak_free"]["lookup"]["row"] + 0.3
    assert 0.6 < report["leak_free"]["model"]["distinct"] <= 1
    assert report == report_of(tmp_path, record_table(frame, SIDES), frame, with_model=True)


def test_a_shared_group_is_found(tmp_path: Path, frame: pd.DataFrame) -> None:
    records = record_table(frame, SIDES)
    sizes = records[records["side"] == "train"].groupby("flow_group")["label"].nunique()
    conflicting = sizes[sizes > 1].index[0]
    records.loc[(records["flow_group"] == conflicting).idxmax(), "side"] = "test"
    report = report_of(tmp_path, records, frame)
    assert not report["passed"]
    pair = next(p for p in report["pairs"] if (p["first"], p["second"]) == ("train", "test"))
    assert pair["groups"] == 1 and pair["rows"] > 0
    assert report["leak_free"]["shared_groups"] == 1 and report["leak_free"]["shared_test_share"] > 0


def test_a_row_without_side_and_a_wrong_count_are_found(tmp_path: Path, frame: pd.DataFrame) -> None:
    records = record_table(frame, SIDES)
    assert report_of(tmp_path, records.iloc[1:], frame)["rows_without_side"] == records.iloc[0]["rows"]
    records.loc[0, "rows"] += 1
    wrong = report_of(tmp_path, records, frame)
    assert wrong["records_with_wrong_rows"] == 1 and not wrong["passed"]


def test_no_test_side(tmp_path: Path, frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="no train or no test rows"):
        report_of(tmp_path, record_table(frame, ("train",)), frame)


def test_near_duplicates_by_hand(tmp_path: Path) -> None:
    spec = made_spec()
    flows = [(0.0, 0.0, "Normal"), (1.0, 0.0, "Flood"), (1.0, 0.0004, "Flood"), (2.0, 0.0, "Scan"), (3.0, 3.0, "Scan")]
    frame = flow_table(spec, flows)
    records = record_table(frame, ("train",))
    # Train: (0, 0) and (1, 0), which the third row repeats as printed. Validation flows never count as near.
    side = {frame["flow_group"][3]: "test", frame["flow_group"][4]: "test"}
    records["side"] = records["flow_group"].map(side).fillna("train")
    validation = flow_table(spec, [(3.0, 1.0, "Scan")]).assign(row_id=5)
    extra = record_table(validation, ("validation",)).assign(row_id=5)
    frame, records = pd.concat([frame, validation]), pd.concat([records, extra])
    found = near_duplicates(save(frame, tmp_path / "f.parquet"), save(records, tmp_path / "r.parquet"), spec)
    both = {"test_flows": 2, "median": 1.5, "within": {"1": 0.5, "3": 1.0}}
    assert found == {"features": 2, "train_flows": 2, **both, "by_class": {"Scan": both}}


def test_near_duplicates_need_both_sides(tmp_path: Path, frame: pd.DataFrame) -> None:
    records = save(record_table(frame, ("train",)), tmp_path / "r.parquet")
    with pytest.raises(UserError, match="no train or no test flow"):
        near_duplicates(save(frame, tmp_path / "f.parquet"), records, made_spec())
