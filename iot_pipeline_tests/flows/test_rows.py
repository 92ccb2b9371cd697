"""Rows that are given one by one are read as the same rows in a file, and what is wrong with each is said."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows import spec as specs
from iot_pipeline.flows.rows import Features, RowReader
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline.serving.features import FeatureReader

SPECS = ["farm_flow", "rt_iot2022_categories", "unsw_nb15", "cicids2017"]


@cache
def load_spec(name: str) -> DatasetSpec:
    """The spec of a data set, read once."""
    return specs.load_spec(name)


def cells_of(name: str, number: int) -> dict[str, Any]:
    """A row of a data set's source columns."""
    spec = load_spec(name)
    words = set(spec.category_names)
    columns = [column for column in spec.source_columns if column != spec.label_column]
    cells: dict[str, Any] = {column: 0.5 + number + place for place, column in enumerate(columns)}
    return cells | {column: f"a b{number}" for column in columns if column in words}


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_read_as_the_rows_of_a_file(name: str, tmp_path: Path) -> None:
    spec = load_spec(name)
    rows = [cells_of(name, number) for number in (3, 1, 3)]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = read_unlabelled(spec, str(path))
    frame, faults = RowReader(spec).read([{"further": 1, **row} for row in rows])
    assert faults == {}
    assert frame[spec.feature_names].to_dict("list") == wanted[spec.feature_names].to_dict("list")


@pytest.mark.parametrize(
    ("cell", "why"),
    [(None, "missing value"), ("", "missing value"), ("abc", "not a number"), (float("nan"), "NaN"),
     ("-inf", "infinite value"), (10**400, "infinite value"), (True, "not a number"), ("1_0", "not a number"),
     ("9" * 5000, "not a number"), ([1], "neither a number"), ("\ud800", "neither a number")],
    ids=lambda value: str(value)[:9].encode("ascii", "replace").decode(),
)  # fmt: skip
@pytest.mark.parametrize(("name", "column"), [("farm_flow", "orig_pkts"), ("rt_iot2022", "fwd_pkts_tot")])
def test_a_bad_cell_is_named_and_spoils_no_other_row(name: str, column: str, cell: Any, why: str) -> None:
    rows = [cells_of(name, 1), {**cells_of(name, 2), column: cell}, cells_of(name, 3)]
    frame, faults = RowReader(load_spec(name)).read(rows)
    assert list(frame.index) == [0, 2]
    assert list(faults) == [1]
    assert why in faults[1] and column in faults[1]


NUMBERS = [
    "1", " 1 ", "\t1\r", "\v1", "+5", "-.5", "5.", "1e5", "1E+5", "-0", "0" * 390 + "1", "1e-400", "inf", "-Infinity",
    "NaN", "1e400", "1_000", "1_0.5", "1e1_0", "_1", "1__0", "\uff11", "\u0661", "1\u00a0", "\u20091", "0x10", "0x1p3",
    "0b101", "1d", "1f", "1e", ".", "", "1 000", "1,5", "true", "\u221e", "\u00bd", "9" * 401, " " * 400 + "1", "\v",
    "+-1", "-+1",
]  # fmt: skip


@pytest.mark.parametrize(("name", "column"), [("farm_flow", "orig_pkts"), ("rt_iot2022", "fwd_pkts_tot")])
def test_a_cell_is_a_number_in_a_table_where_it_is_one_in_a_row(name: str, column: str) -> None:
    rows = [{**cells_of(name, 2), column: cell} for cell in NUMBERS]
    frame, faults = RowReader(load_spec(name)).read(rows)
    table = pa.table({key: [str(row[key]) for row in rows] for key in rows[0]})
    with contextlib.closing(FeatureReader(load_spec(name))) as reader:
        found = reader.read(table)
    assert found.rows == list(frame.index)
    assert found.table.drop_columns(["flow_group"]).to_pydict() == frame.to_dict("list")
    assert [NUMBERS[one.row] for one in found.invalid] == [NUMBERS[place] for place in sorted(faults)]
    assert [NUMBERS[row] for row in found.rows] == [*NUMBERS[:10], "0" * 390 + "1", "1e-400"]


@pytest.mark.parametrize("cell", ["1_000", "0x10", "0b101", "1e3", " 7"])
def test_a_column_of_such_cells_has_the_type_of_its_numbers(cell: str, tmp_path: Path) -> None:
    spec, rows = load_spec("farm_flow"), [{**cells_of("farm_flow", 1), "orig_pkts": cell}] * 3
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame, faults = RowReader(spec).read(rows)
    if faults:
        with pytest.raises(UserError, match="not a number in orig_pkts"):
            read_unlabelled(spec, str(path))
    else:
        assert read_unlabelled(spec, str(path))["orig_pkts"].tolist() == frame["orig_pkts"].tolist()


def test_the_training_source_says_which_columns_expressions_see_as_text() -> None:
    spec, row = load_spec("unsw_nb15"), cells_of("unsw_nb15", 1)
    blank = {**row, "is_ftp_login": " "}
    odd = {**row, "is_ftp_login": "x"}
    frame, faults = RowReader(spec, frozenset()).read([row, blank, odd])
    assert faults == {}
    assert frame.iloc[1].tolist() == frame.iloc[2].tolist()  # as in a file: what is no number is no value
    assert list(RowReader(spec).read([row, blank, odd])[1]) == [2]


def test_features_by_their_names_are_taken_where_columns_are_missing() -> None:
    spec = load_spec("rt_iot2022")
    row = dict.fromkeys(spec.feature_names, 1.5)
    frame, faults = RowReader(spec).read([row, Features(row), {"fwd_pkts_tot": 1}])
    assert list(faults) == [2] and "lacks" in faults[2]
    assert frame.to_numpy().tolist() == [[1.5] * len(row)] * 2


def test_names_may_differ_in_case_and_blanks_around() -> None:
    row = {f" {name.upper()} ": 1 for name in load_spec("farm_flow").feature_names}
    frame, faults = RowReader(load_spec("farm_flow")).read([row])
    assert faults == {} and len(frame) == 1


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.none()))


@settings(max_examples=25, deadline=None)
@given(cells=st.lists(CELLS, min_size=31, max_size=31))
def test_any_cells_are_a_row_or_a_fault(cells: list[Any]) -> None:
    reader = READERS["rt_iot2022_categories"]
    row = dict(zip([*reader.columns, "x", "y", "z"], cells, strict=False))
    frame, faults = reader.read([row, cells_of("rt_iot2022_categories", 1)])
    assert len(frame) + len(faults) == 2
    assert 1 in frame.index


READERS = {"rt_iot2022_categories": RowReader(load_spec("rt_iot2022_categories"))}
