"""Parquet files that lie: metadata too large, rows that no table has, counts that do not agree, damaged bytes."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading import parquet_table
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import read_tables
from iot_pipeline_tests.flows.reading.tables import read


def parquet(rows: int = 50, **options: object) -> bytes:
    """A table of equal rows."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([1.5] * rows), "label": pa.array(["x"] * rows)}), buffer, **options)
    return buffer.getvalue()


def test_a_footer_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    data = parquet()[:-8] + (2_000_000_000).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(UserError, match=r"t.csv is no usable Parquet file: its metadata is larger than 256 MB"):
        read(tmp_path, data)


def test_rows_that_no_table_of_this_size_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet(2_000_000)
    assert 10 * len(data) < 20_000_000
    monkeypatch.setattr(parquet_table, "FREE_CELLS", 1_000_000)
    monkeypatch.setattr(parquet_table, "MOST_CELLS_PER_BYTE", 10)
    with pytest.raises(UserError, match=r"t.csv declares 2,000,000 rows in .* MB, more than a table of flows can hold"):
        read(tmp_path, data)


@pytest.mark.parametrize("place", range(0, 240, 24))
def test_damaged_bytes_are_read_or_refused_in_one_sentence(tmp_path: Path, place: int) -> None:
    data = parquet()
    at = len(data) - 8 - place
    for broken in (data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :], data[:at] + data[-8:]):
        try:
            assert read(tmp_path, broken)[1].rows <= 50
        except UserError as error:
            assert "\n" not in str(error) and "t.csv" in str(error) and str(tmp_path) not in str(error)


def test_no_rows_and_no_columns_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has column names but no rows"):
        read(tmp_path, parquet(0))
    buffer = io.BytesIO()
    pq.write_table(pa.table({}), buffer)
    with pytest.raises(UserError, match=r"t\.csv"):
        read(tmp_path, buffer.getvalue())


def test_row_groups_and_nested_columns_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, parquet(50, row_group_size=7))[1].rows == 50
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1.5, 2.5], "list": [[1], [2, 3]], "label": ["x", "y"]}), buffer)
    found, _ = read(tmp_path, buffer.getvalue())
    assert found["a"].tolist() == [1.5, 2.5]


def test_decimals_that_duckdb_misreads_are_refused(tmp_path: Path) -> None:
    column = pa.array([Decimal("1" * 38)] * 2, pa.decimal256(60, 0))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": column, "label": ["x", "y"]}), buffer)
    with pytest.raises(UserError, match="column 'a' has decimals of more than 38 digits"):
        read(tmp_path, buffer.getvalue())


def test_a_category_of_fractions_has_the_words_of_a_csv_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("proto,x,label\n6,1.5,a\n17,2.5,b\n")
    table = {"proto": [6.0, None, float("nan")], "x": [1, 2, 3], "label": ["a", "b", "a"], "code": [Decimal(5)] * 3}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    rules = ReadingRules(needed=("proto", "x", "label"), texts=frozenset(("proto", "code")))
    read_tables(f"{tmp_path / 'a.csv'},{tmp_path / 'b.parquet'}", tmp_path / "raw.parquet", rules)
    found = pq.read_table(tmp_path / "raw.parquet").to_pydict()
    assert found["proto"] == ["6", "17", "6", None, None] and found["code"] == [None, None, "5", "5", "5"]
    assert found["x"] == [1.5, 2.5, 1, 2, 3]
