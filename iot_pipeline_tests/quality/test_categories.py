"""Reports of a table with categories: profile, duplicates, patterns, samples, leakage, mismatch, near-duplicates."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.split import split_by_group
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.quality.conflicts import label_conflicts
from iot_pipeline.quality.duplicates import dedup_report
from iot_pipeline.quality.leakage import leakage_report
from iot_pipeline.quality.mismatch import dataset_mismatch
from iot_pipeline.quality.near_duplicates import near_duplicates
from iot_pipeline.quality.patterns import Among, attack_patterns, holds
from iot_pipeline.quality.profile import flow_profile
from iot_pipeline.quality.samples import sample_comparison
from iot_pipeline.reporting import figures, figures_data
from iot_pipeline_tests.flows.category_table import CLASSES, NUMBERS, loaded

Table = tuple[DatasetSpec, Path, Path]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Spec, flows.parquet and records.parquet of 400 connections."""
    folder = tmp_path_factory.mktemp("connections")
    spec, file = loaded(folder, 400, facts={"zscored_3_decimals": {"distinct": 400}})
    read_source(spec, str(file), folder / "raw.parquet")
    build_flows(spec, folder / "raw.parquet", folder / "flows.parquet")
    split_by_group(folder / "flows.parquet", folder / "records.parquet")
    return spec, folder / "flows.parquet", folder / "records.parquet"


def test_the_profile_counts_the_values_of_categories(table: Table) -> None:
    spec, flows, _ = table
    summary, rows = flow_profile(flows, spec)
    assert set(rows["feature"]) == set(NUMBERS)
    proto = summary["categories"]["proto"]
    assert proto["smurf"] == {"distinct": 1, "shares": {"icmp": 1.0}}
    assert sum(proto["(all)"]["shares"].values()) == pytest.approx(1)
    assert {"proto", "service", "flag"} <= set(summary["zero_variance"]["smurf"])
    assert figures_data.profile(rows) is not None


def test_rows_that_differ_in_a_category_are_no_duplicates(table: Table, tmp_path: Path) -> None:
    spec, flows, _ = table
    whole = pd.read_parquet(flows)
    other = whole.assign(
        proto=whole["proto"].map({"tcp": "udp", "udp": "tcp", "icmp": "icmp"}), row_id=whole["row_id"] + 400
    )
    pd.concat([whole, other]).to_parquet(tmp_path / "flows.parquet")
    raw = dedup_report(tmp_path / "flows.parquet", spec)["raw"]
    assert raw["duplicate_rows"] == int((whole["proto"] == "icmp").sum())
    assert label_conflicts(flows, spec)["rows"] == 400


def test_rules_name_values_and_hold_of_them(table: Table) -> None:
    spec, flows, records = table
    report = attack_patterns(flows, records, spec, seed=1)
    (rule,) = report["classes"]["smurf"]["rules"]
    assert rule["text"] in ("service is ecr_i", "proto is icmp")
    assert rule["distinct"]["coverage"] == rule["distinct"]["precision"] == 1.0
    rows = pd.DataFrame({"proto": ["tcp", "udp", "icmp"]})
    assert holds([Among("proto", ("tcp", "udp"), True)], rows).tolist() == [False, False, True]
    assert set(report["classes"]) == set(CLASSES)


def test_samples_show_words_and_say_how_far_a_category_separates(table: Table) -> None:
    spec, flows, _ = table
    summary, rows = sample_comparison(flows, spec, seed=1)
    whole = pd.read_parquet(flows)
    assert min(summary["separation"].values()) >= 0 and max(summary["separation"].values()) <= 1
    assert summary["separation"]["proto"] > 0.5
    assert summary["typical"]["smurf"]["flag"] == "SF"
    shown = rows[rows["feature"] == "service"].set_index("row_id")
    assert shown["printed"].to_dict() == whole.set_index("row_id")["service"][shown.index].to_dict()
    assert shown["value"].isna().all() and shown["raw"].isna().all()
    assert figures.samples(rows, list(summary["rows"]), summary["marked"]) is not None
    assert figures.samples(rows, list(summary["rows"]), ["proto"]) is not None


def test_leakage_mismatch_and_near_duplicates_read_categories(table: Table) -> None:
    spec, flows, records = table
    report = leakage_report(flows, records, spec, seed=1)
    assert report["passed"] and report["leak_free"]["model"]["row"] > 0.9
    compared = dataset_mismatch(flows, spec)
    assert any(item["source"] == "zscored_3_decimals" for item in compared["findings"] + compared["agreements"])
    assert near_duplicates(flows, records, spec)["features"] == 10


def test_a_table_of_categories_alone_is_reported(tmp_path: Path) -> None:
    features = [{"name": name, "kind": "category", "unit": "", "meaning": ""} for name in ("proto", "service", "flag")]
    spec, file = loaded(tmp_path, 200, features=features)
    flows, records = tmp_path / "flows.parquet", tmp_path / "records.parquet"
    read_source(spec, str(file), tmp_path / "raw.parquet")
    build_flows(spec, tmp_path / "raw.parquet", flows)
    split_by_group(flows, records)
    summary, rows = flow_profile(flows, spec)
    assert rows.nlargest(5, "outlier_share").empty and set(summary["categories"]) == set(spec.feature_names)
    assert figures_data.profile(rows) is not None
    summary, rows = sample_comparison(flows, spec, seed=1)
    assert figures.samples(rows, list(summary["rows"]), summary["marked"]) is not None
    assert set(attack_patterns(flows, records, spec, seed=1)["classes"]) == set(CLASSES)
    assert dataset_mismatch(flows, spec)["checked"] > 0
    assert FlowTextWriter(spec, "compact").texts(pd.read_parquet(flows))[0].count(" = ") == 3
