"""Lines of CSV files: each is read, rejected by number, or the file is refused; none is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.csv_lines import LONGEST_ROW
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec

SPEC = load_spec("farm_flow")
HEADER = ",".join([*SPEC.feature_names, "traffic"]).encode() + b"\n"
CELLS = [b"0.5"] * len(SPEC.feature_names) + [b"1"]
ROW = b",".join(CELLS)
QUOTED = b'"' + b"1\n" * 17_000_000 + b'"'  # DuckDB never comes back from it


@pytest.mark.parametrize(
    ("row", "line"),
    [
        pytest.param(ROW + b"," + b"9" * 33_000_000, 12, id="too many columns"),
        pytest.param(ROW + b"9" * 33_000_000, 12, id="a long cell"),
        pytest.param(b",".join([QUOTED, *CELLS[1:]]), 12, id="a quoted cell of many lines"),
        pytest.param(b'"' + b"\n".join([ROW] * 270_000), 12, id="an open quote"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_row_longer_than_duckdb_can_hold_is_named(tmp_path: Path, row: bytes, line: int, last: bool) -> None:
    assert len(row) > LONGEST_ROW
    after = b"" if last else b"\n" + b"\n".join([ROW] * 10)
    (tmp_path / "x.csv").write_bytes(HEADER + b"\n".join([ROW] * 10) + b"\n" + row + after)
    with pytest.raises(UserError, match=rf"x.csv, line {line}, begins a row longer than 16 MB"):
        read_source(SPEC, str(tmp_path / "x.csv"), tmp_path / "raw.parquet", max_rejected_share=0.5)
    assert not (tmp_path / "raw.parquet").exists()


def test_a_row_of_up_to_that_is_rejected_by_its_line(tmp_path: Path) -> None:
    lines = [ROW, ROW + b"9" * 15_000_000, ROW, ROW + b"9" * 2_000_000, ROW, ROW]
    (tmp_path / "x.csv").write_bytes(HEADER + b"\n".join(lines) + b"\n")
    report = read_source(SPEC, str(tmp_path / "x.csv"), tmp_path / "raw.parquet", max_rejected_share=0.5)
    assert (report.rows, report.rejected) == (4, {"line too long": 2})
    assert [example["line"] for example in report.examples] == [3, 5]


LINES = st.one_of(
    st.just(ROW),
    st.sampled_from(
        [
            b"",
            b"   ",
            b"1,2",
            ROW + b",9",
            ROW + b"\x00",
            b"\x00",
            b"," * len(SPEC.feature_names),
            b"\xff",
            ROW.replace(b"0.5", b"\xfe", 1),
        ]
    ),
    st.binary(max_size=20).map(lambda cell: ROW.replace(b"0.5", cell.translate(None, b'\r\n"'), 1)),
)


@settings(max_examples=10, deadline=None)
@given(st.lists(LINES, max_size=25), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_every_line_is_read_or_told(lines: list[bytes], end: bytes, closed: bool) -> None:
    data = HEADER.replace(b"\n", end) + end.join([*lines, ROW]) + (end if closed else b"")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.csv").write_bytes(data)
        report = read_source(SPEC, f"{folder}/x.csv", Path(folder) / "raw.parquet", max_rejected_share=0.999)
    told = sum(report.rejected.values()) + sum(report.left_out.values())  # left out: lines of commas alone
    assert report.rows + told == sum(line != b"" for line in lines) + 1
