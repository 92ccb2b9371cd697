"""Flows without labels: read by the data set's rules, one answerable row for each line."""

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline_tests.quality.factories import made_spec

SPEC = load_spec("farm_flow")
NAMES = SPEC.feature_names


def csv(path: Path, rows: list[list[object]], *further: str) -> str:
    lines = [",".join([*NAMES, *further]), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def values(first: float) -> list[object]:
    return [first, *(0.5 * n for n in range(1, len(NAMES)))]


def test_rows_keep_their_order_and_equal_flows_their_group(tmp_path: Path) -> None:
    table = read_unlabelled(SPEC, csv(tmp_path / "new.csv", [values(3.25), values(-1), values(3.25)]))
    assert table[NAMES[0]].tolist() == [3.25, -1.0, 3.25]
    write = FlowTextWriter(SPEC, "values").text
    wanted = [group_id(write([float(str(v)) for v in values(n)])) for n in (3.25, -1, 3.25)]
    assert table["flow_group"].tolist() == wanted


@pytest.mark.parametrize("name", ["farm_flow", "farm_flow_8", "farm_flow_binary", "rt_iot2022"])
def test_flows_of_every_data_set_are_read_by_its_own_columns(name: str, tmp_path: Path) -> None:
    spec, path = load_spec(name), tmp_path / "new.csv"
    columns = [column for column in spec.source_columns if column != spec.label_column]
    path.write_text(f"{','.join(columns)}\n{','.join('2' for _ in columns)}\n{','.join('3' for _ in columns)}\n")
    table = read_unlabelled(spec, str(path))
    assert list(table.columns) == ["flow_group", *spec.feature_names]
    assert len(table) == 2 and table["flow_group"].nunique() == 2


def test_a_label_column_is_not_looked_at(tmp_path: Path) -> None:
    labelled = [[*values(1), "no such class"], [*values(2), ""]]
    table = read_unlabelled(SPEC, csv(tmp_path / "new.csv", labelled, SPEC.label_column))
    assert table[NAMES[0]].tolist() == [1.0, 2.0]


def test_a_label_column_in_another_case_is_not_looked_at(tmp_path: Path) -> None:
    labelled = [[*values(1), "no such class"], [*values(2), ""]]
    table = read_unlabelled(SPEC, csv(tmp_path / "new.csv", labelled, f" {SPEC.label_column.upper()} "))
    assert table[NAMES[0]].tolist() == [1.0, 2.0]


def test_a_decimal_comma_is_read_in_the_first_column_too(tmp_path: Path) -> None:
    rows = [";".join(str(value).replace(".", ",") for value in values(first)) for first in (1.25, -0.5)]
    (tmp_path / "new.csv").write_text("\n".join([";".join(NAMES), *rows]) + "\n")
    table = read_unlabelled(SPEC, str(tmp_path / "new.csv"))
    assert table[NAMES].to_numpy().tolist() == [values(1.25), values(-0.5)]


def test_a_row_that_is_no_flow_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"not a number in {NAMES[0]} .* data row 2, where the value is 'abc'"):
        read_unlabelled(SPEC, csv(tmp_path / "new.csv", [values(1), ["abc", *values(1)[1:]]]))


@pytest.mark.parametrize(
    ("cell", "why"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite"), ("1e999", "infinite"),
                      ("", "missing value")]
)  # fmt: skip
def test_a_row_without_a_finite_number_is_named(tmp_path: Path, cell: str, why: str) -> None:
    rows = [values(1), [*values(2)[:3], cell, *values(2)[4:]], values(3)]
    with pytest.raises(UserError, match=f"{why} in {NAMES[3]} .* data row 2, where the value is"):
        read_unlabelled(SPEC, csv(tmp_path / "new.csv", rows))
    table = pd.DataFrame(rows, columns=NAMES).replace({"": None}).astype(float)
    table.to_parquet(tmp_path / "new.parquet")
    with pytest.raises(UserError, match=f"in {NAMES[3]} .* data row 2, where the value is"):
        read_unlabelled(SPEC, str(tmp_path / "new.parquet"))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=f"new.csv lacks 29 of the columns .*: {NAMES[0]}, "):
        read_unlabelled(SPEC, str(path))


@pytest.mark.parametrize(
    ("cells", "flags"), [(["6", "6", "tcp"], [0, 0, 1]), (["", "", ""], [0, 0, 0]), (["6", "6", "6"], [0, 0, 0])]
)
def test_expressions_see_text_where_they_saw_it_in_training(tmp_path: Path, cells: list[str], flags: list[int]) -> None:
    flag = {"name": "is_tcp", "unit": "", "meaning": "made"}
    flag["expression"] = 'CASE WHEN "proto" = \'tcp\' THEN length("proto") - 2 ELSE 0 END'
    size = {"name": "size_given", "unit": "", "meaning": "made", "expression": '"size"'}
    spec = made_spec(features=[flag, size])
    (tmp_path / "new.csv").write_text("proto,size\n" + "".join(f"{cell},{n}\n" for n, cell in enumerate(cells)))
    table = read_unlabelled(spec, str(tmp_path / "new.csv"), words=frozenset(["proto"]))
    assert table["is_tcp"].tolist() == flags and table["size_given"].tolist() == [0, 1, 2]
