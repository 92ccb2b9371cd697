"""Rows that are rejected below the limit: no class vanishes, no label is blank, without a sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import FlowsReport, build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline_tests.quality.factories import made_spec


def spec_of(labels: dict[str, str], *expressions: str) -> DatasetSpec:
    """A data set of these labels, whose features are these expressions."""
    parts = [{"name": f"e{n}", "unit": "", "meaning": "made", "expression": sql} for n, sql in enumerate(expressions)]
    classes = list(dict.fromkeys(labels.values()))
    return made_spec(features=parts).model_copy(update={"labels": labels, "classes": classes, "label_column": "kind"})


def build(tmp_path: Path, spec: DatasetSpec, rows: list[tuple[Any, ...]], limit: float = 0.5) -> FlowsReport:
    """Build flows of rows of (a, kind)."""
    pd.DataFrame(rows, columns=["a", "kind"]).to_parquet(tmp_path / "raw.parquet")
    said: list[str] = []
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet", limit, said.append)
    assert set(report.warnings) <= set(said)
    return report


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_label_is_the_class_that_the_data_set_gives_it(tmp_path: Path, blank: str | None) -> None:
    spec = spec_of({"": "Normal", "DoS": "DoS"}, '"a"')
    report = build(tmp_path, spec, [(1.0, blank), (2.0, "DoS"), (3.0, blank)])
    assert (report.rows_by_class, report.warnings) == ({"Normal": 2, "DoS": 1}, [])


def test_nan_among_numbers_is_a_blank_label(tmp_path: Path) -> None:
    spec = spec_of({"": "Normal", "1": "DoS"}, '"a"')
    assert build(tmp_path, spec, [(1.0, math.nan), (2.0, 1.0)]).rows_by_class == {"Normal": 1, "DoS": 1}


def test_blank_cells_of_a_csv_are_blank_labels(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,kind\n1.5,\n2.5,DoS\n3.5, DoS \n4.5,  \n")
    spec = spec_of({"": "Normal", "DoS": "DoS"}, '"a"')
    read_source(spec, str(tmp_path / "t.csv"), tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    assert report.rows_by_class == {"Normal": 2, "DoS": 2}


def test_a_blank_label_that_is_no_class_has_its_own_reason(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    rows = [(1.0, "n"), (2.0, "DoS"), (3.0, ""), (4.0, None), (5.0, "bot")]
    report = build(tmp_path, spec, rows, 0.7)
    assert report.rejected == {"no label in kind": 2, "unknown label in kind": 1}
    assert any('no label in kind: all of its 2 rows are rejected, first data row 3 (a line "": <class>' in told
               for told in report.warnings)  # fmt: skip
    assert (
        "the label 'bot' of column kind is not known: all of its 1 rows are rejected, first data row 5."
        in report.warnings
    )
    with pytest.raises(UserError, match=r"3 of 5 rows .* no label in kind \(2 rows\), first in data row 3"):
        build(tmp_path, spec, rows, 0.1)


def test_a_class_that_loses_all_its_rows_below_the_limit_is_an_error(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    rows = [(1.0, "n")] * 500 + [(math.inf, "DoS"), (math.inf, "DoS"), (math.nan, "DoS")]
    message = r"class DoS loses all of its 3 rows; most often: infinite in a \(2 rows\), first in data row 501, .*'inf'"
    with pytest.raises(UserError, match=message):
        build(tmp_path, spec, rows, 0.01)
    assert not (tmp_path / "flows.parquet").exists()


def test_a_class_that_loses_most_of_its_rows_is_told(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    rows = [(1.0, "n")] * 500 + [(math.inf, "DoS"), (2.0, "DoS"), (math.inf, "DoS")]
    (told,) = build(tmp_path, spec, rows, 0.01).warnings
    assert told.startswith("class DoS loses 2 of its 3 rows; most often: infinite in a (2 rows), first in data row 501")
    assert build(tmp_path, spec, [*rows, (3.0, "DoS")], 0.01).warnings == []


def test_a_cell_that_an_expression_makes_good_is_no_reason(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, 'coalesce("a", 0)', '"b"')
    rows = [(None, "1", "n"), (1.0, "x", "DoS"), (None, "x", "DoS"), (2.0, "2", "n"), (3.0, "3", "n")]
    frame = pd.DataFrame(rows, columns=["a", "b", "kind"])
    frame.to_parquet(tmp_path / "raw.parquet")
    with pytest.raises(UserError, match=r"class DoS loses all of its 2 rows; most often: not a number in b \(2 rows\)"):
        build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet", 0.9)


def test_a_class_whose_lines_are_no_rows_is_told(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "Web Attack, XSS": "XSS"}, '"a"')
    text = "a,kind\n" + "1.5,n\n" * 500 + "2.5,Web Attack, XSS\n" * 3
    (tmp_path / "t.csv").write_text(text)
    read = read_source(spec, str(tmp_path / "t.csv"), tmp_path / "raw.parquet")
    assert read.rejected == {"too many columns": 3}
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet", lost_lines=3)
    assert report.warnings == [
        "no row of class XSS, and 3 lines of the source were no rows: see whether they are its own (a delimiter within "
        "its label, for one)."
    ]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("Infinity", "infinite in a"), ("inf", "infinite in a"), ("-inf", "infinite in a"), ("NaN", "NaN in a"),
        ("-", "not a number in a"), ("", "missing value in a"), ("n/a", "not a number in a"),
    ],
)  # fmt: skip
def test_cells_that_are_no_finite_number_are_rejected_by_reason(tmp_path: Path, cell: str, reason: str) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    (tmp_path / "t.csv").write_text("a,kind\n" + "1.5,n\n2.5,DoS\n" * 50 + f"{cell},n\n")
    read_source(spec, str(tmp_path / "t.csv"), tmp_path / "raw.parquet")
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    assert report.rejected == {reason: 1}


def test_a_long_cell_is_shown_in_part(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    with pytest.raises(UserError, match=f"where the value is '{'x' * 60}'"):
        build(tmp_path, spec, [("1", "n"), ("2", "DoS"), ("x" * 9000, "n")], 0.0)
    report = build(tmp_path, spec, [("1", "n"), ("2", "DoS"), ("3", "9" * 9000)])
    assert report.warnings[0].startswith(f"the label '{'9' * 60}' of column kind is not known")


def test_a_table_without_a_usable_row_says_why_whatever_the_limit(tmp_path: Path) -> None:
    spec = spec_of({"n": "Normal", "DoS": "DoS"}, '"a"')
    with pytest.raises(UserError, match=r"no row can be used .*; most often: no finite e0 \(2 rows\), first in"):
        build(tmp_path, spec, [("5%", "n"), ("6%", "DoS")], 1.0)
