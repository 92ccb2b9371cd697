"""Duplicates, conflicts and mismatches: exact counts on made tables."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.quality.conflicts import label_conflicts
from iot_pipeline.quality.duplicates import dedup_report, opened_counts
from iot_pipeline.quality.mismatch import dataset_mismatch
from iot_pipeline_tests.quality.factories import CLASSES, Flow, flow_table, made_spec, save

# -0.0 equals 0.0; 1.0001 and 1.0 differ in values and not in text; 5.0 has one row.
FLOWS: list[Flow] = [
    (0.0, 1.0, "Normal"), (-0.0, 1.0, "Normal"), (0.0, 1.0, "Flood"), (0.0, 1.0, "Normal"),
    (2.0, 1.0, "Flood"), (2.0, 1.0001, "Flood"), (5.0, 1.0, "Scan"),
]  # fmt: skip


def flows_file(folder: Path, flows: list[Flow]) -> Path:
    return save(flow_table(made_spec(), flows), folder / "flows.parquet")


def test_duplicates_on_values_and_on_text(tmp_path: Path) -> None:
    report = dedup_report(flows_file(tmp_path, FLOWS), made_spec({"duplicates": {"by_class": {"Flood": 0.4}}}))
    assert report["rows"] == 7
    assert report["raw"] == {"distinct": 4, "duplicate_rows": 3, "duplicate_share": 3 / 7}
    assert report["text"] == {"distinct": 3, "duplicate_rows": 4, "duplicate_share": 4 / 7}
    flood = report["by_class"]["Flood"]
    assert (flood["rows"], flood["distinct_raw"], flood["distinct_text"]) == (3, 3, 2)
    assert flood["published_share"] == 0.4 and report["by_class"]["Scan"]["published_share"] is None
    largest = report["largest_groups"][0]
    assert (largest["rows"], largest["labels"], largest["row_id"]) == (4, {"Normal": 3, "Flood": 1}, 0)
    assert report["group_sizes"] == [
        {"from": 1, "groups": 1, "rows": 1},
        {"from": 2, "groups": 1, "rows": 2},
        {"from": 4, "groups": 1, "rows": 4},
    ]
    json.dumps(report, allow_nan=False)


def test_rows_are_counted_by_values_and_by_text(tmp_path: Path) -> None:
    with opened_counts(flows_file(tmp_path, FLOWS), made_spec()) as connection:
        raw = connection.execute("SELECT count(*), count(DISTINCT raw_group), sum(n) FROM raw_labels").fetchall()
        text = connection.execute("SELECT label, n, occurrence, row_id FROM text_labels ORDER BY ALL").fetchall()
    assert raw == [(5, 4, 7)]
    assert text == [("Flood", 1, 2, 2), ("Flood", 2, 0, 4), ("Normal", 3, 0, 0), ("Scan", 1, 0, 6)]


def test_conflicts_and_ceilings(tmp_path: Path) -> None:
    report = label_conflicts(flows_file(tmp_path, FLOWS), made_spec())
    assert report["text"]["conflicting_groups"] == 1 and report["text"]["conflicting_rows"] == 4
    assert report["matrix"] == [[3, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert report["ceilings"]["row"] == pytest.approx(6 / 7)
    assert report["ceilings"]["distinct"] == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert report["ceilings"]["clean"] == 1.0
    assert report["pairs"] == [{"first": "Normal", "second": "Flood", "groups": 1, "first_rows": 3, "second_rows": 1}]
    assert report["by_class"]["Flood"] == {
        "rows": 3, "conflicting_rows": 1, "conflicting_share": 1 / 3, "outvoted_rows": 1
    }  # fmt: skip
    assert report["largest"][0]["labels"] == {"Normal": 3, "Flood": 1}


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, -0.0, 1e-300, 1e300, 0.5, 0.5000001]),
            st.sampled_from([0.0, 1.0]),
            st.sampled_from(CLASSES),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_counts_agree_with_the_plain_way(flows: list[Flow]) -> None:
    with TemporaryDirectory() as folder:
        path = flows_file(Path(folder), flows)
        duplicates, conflicts = dedup_report(path, made_spec()), label_conflicts(path, made_spec())
    values = [(a + 0.0, b + 0.0) for a, b, _ in flows]
    labels: dict[tuple[float, float], list[str]] = {}
    for key, (_, _, label) in zip(values, flows, strict=True):
        labels.setdefault(key, []).append(label)
    assert duplicates["raw"]["distinct"] == len(set(values))
    assert conflicts["raw"]["conflicting_groups"] == sum(len(set(item)) > 1 for item in labels.values())
    best = sum(max(item.count(name) for name in CLASSES) for item in labels.values())
    assert conflicts["raw"]["row_ceiling"] == pytest.approx(best / len(flows))
    assert sum(map(sum, conflicts["matrix"])) == conflicts["text"]["conflicting_rows"]
    assert duplicates["text"]["distinct"] <= duplicates["raw"]["distinct"]


def test_mismatch_without_facts_says_so(tmp_path: Path) -> None:
    report = dataset_mismatch(flows_file(tmp_path, FLOWS), made_spec())
    assert report["findings"] == [] and "no published facts" in report["note"]


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"flows\.parquet is missing"):
        dedup_report(tmp_path / "flows.parquet", made_spec())
