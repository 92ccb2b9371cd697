"""Figures of real flows, RT-IoT2022: duplicates, conflicts, what a row-wise split leaks, the split's shares."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.split import SplitReport, split_by_group
from iot_pipeline.quality.conflicts import label_conflicts
from iot_pipeline.quality.duplicates import dedup_report
from iot_pipeline.quality.leakage import leakage_report
from iot_pipeline_tests.shared import NO_RT_IOT2022, RT_IOT2022

SPEC = load_spec("rt_iot2022")
pytestmark = pytest.mark.skipif(not RT_IOT2022.is_file(), reason=NO_RT_IOT2022)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flows.parquet of the real file."""
    made = tmp_path_factory.mktemp("rt")
    read_source(SPEC, str(RT_IOT2022), made / "raw.parquet")
    build_flows(SPEC, made / "raw.parquet", made / "flows.parquet")
    return made


@pytest.fixture(scope="module")
def split(folder: Path) -> SplitReport:
    """records.parquet beside it."""
    return split_by_group(folder / "flows.parquet", folder / "records.parquet")


@pytest.fixture(scope="module")
def zscored(folder: Path) -> Path:
    """The same flows grouped as the published figures are: z-scored by the whole table, 3 decimals."""
    flows = pd.read_parquet(folder / "flows.parquet")
    values = flows[SPEC.feature_names]
    scaled = ((values - values.mean()) / values.std().replace(0, 1)).round(3) + 0.0
    flows["flow_group"] = scaled.groupby(SPEC.feature_names).ngroup().astype(str)
    flows.to_parquet(folder / "zscored.parquet")
    return folder / "zscored.parquet"


def test_published_duplicates(folder: Path) -> None:
    report = dedup_report(folder / "flows.parquet", SPEC)
    assert (report["rows"], report["raw"]["distinct"]) == (123_117, 18_086)
    assert report["raw"]["duplicate_share"] == pytest.approx(0.8531, abs=5e-5)


def test_published_conflicts_of_zscored_prompts(zscored: Path) -> None:
    report = label_conflicts(zscored, SPEC)["text"]
    assert (report["groups"], report["conflicting_groups"]) == (11_533, 109)
    assert report["row_ceiling"] == pytest.approx(0.983, abs=5e-4)


def test_what_a_row_wise_split_leaks(zscored: Path, tmp_path: Path) -> None:
    split_by_group(zscored, tmp_path / "records.parquet")
    report = leakage_report(zscored, tmp_path / "records.parquet", SPEC, 42, with_model=False)
    assert report["passed"] and report["leak_free"]["shared_groups"] == 0
    assert report["row_wise"]["shared_test_share"] == pytest.approx(0.918, abs=0.005)


def test_the_test_side_holds_every_class_and_its_rows(split: SplitReport) -> None:
    assert set(split.by_class["test"]) >= set(SPEC.classes)
    assert split.rows["test"] / 123_117 > 0.06
    # What no model can pass is the same on the test side as in the whole table.
    assert split.row_ceiling["test"] == pytest.approx(0.983, abs=0.003)
