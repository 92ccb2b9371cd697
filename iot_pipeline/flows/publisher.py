"""Test rows of a data set's publisher, found by the names of files or by a column of the source."""

from __future__ import annotations

from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.spec import DatasetSpec, PublisherSplit
from iot_pipeline.flows.sql import identifier, literal, one, scan, write_query

TEST_ROWS = "publisher_test.parquet"
SHOWN = 6


def publisher_split(spec: DatasetSpec) -> PublisherSplit:
    """Return the publisher's split of a data set; UserError if its file does not describe one."""
    if spec.publisher_split is None:
        raise UserError(
            f"IOT_SPLIT=publisher: data set {spec.name} has no key publisher_split, which says how to know a test row "
            "(test_files, or column and test): add it to the data set's file, or use IOT_SPLIT=groups."
        )
    return spec.publisher_split


def write_test_rows(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path, out: Path) -> None:
    """Write the row_id of each accepted row that is a test row of the publisher.

    Args:
        connection: DuckDB connection that may read `raw`; its table `numbered` has source_row and row_id.
        spec: Spec of the data set.
        raw: The raw table, with the column SOURCE_FILE.
        out: File to write.

    Raises:
        UserError: The spec has no publisher_split, the source lacks its column, or no row or every row is a test row.
    """
    split = publisher_split(spec)
    column = SOURCE_FILE if split.column is None else split.column
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {scan(raw)}").fetchall()]
    if column not in columns:
        raise UserError(
            f"IOT_SPLIT=publisher: the source has no column {column!r}, which publisher_split of data set {spec.name} "
            "names: correct the key, or use IOT_SPLIT=groups."
        )
    cell = f"CAST({identifier(column)} AS VARCHAR)"
    found = connection.execute(
        f"SELECT DISTINCT {cell} AS v FROM {scan(raw)} WHERE v IS NOT NULL ORDER BY v"
    ).fetchall()
    seen = [str(value) for (value,) in found]
    test = ", ".join(literal(value) for value in seen if split.is_test(value))
    query = f"""
        SELECT row_id FROM numbered JOIN (
            SELECT file_row_number + 1 AS source_row FROM {scan(raw, ", file_row_number = true")}
            WHERE {f"{cell} IN ({test})" if test else "false"}) USING (source_row) ORDER BY row_id"""
    rows = write_query(connection, query, out)
    if rows in (0, *one(connection, "SELECT count(*) FROM numbered")):
        rule = f"column: {split.column}, test: {split.test}" if split.column else f"test_files: {split.test_files}"
        told = ", ".join(seen[:SHOWN]) + (f" and {len(seen) - SHOWN:,} more" if len(seen) > SHOWN else "")
        raise UserError(
            f"IOT_SPLIT=publisher: {'every' if rows else 'no'} usable row is a test row by publisher_split of data set "
            f"{spec.name} ({rule}); found in the source: {told}. Name the publisher's train and test files in "
            "IOT_SOURCE, correct the key, or use IOT_SPLIT=groups."
        )
