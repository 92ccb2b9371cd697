"""Parquet in and out for the flows package: DuckDB connections, streamed writing with fixed row groups.

Belongs here: how tables are moved. Does not belong here: what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.lake.atomic import replacing

ROW_GROUP = 122_880


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that keeps to two threads and never shows a progress bar."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET preserve_insertion_order = true")
    return connection


def quote(path: Path | str) -> str:
    """A path as an SQL string literal."""
    return "'" + str(path).replace("'", "''") + "'"


def scan(path: Path) -> str:
    """SQL for reading one Parquet file."""
    return f"read_parquet({quote(path)})"


def write_query(connection: duckdb.DuckDBPyConnection, query: str, out: Path) -> int:
    """Stream an ordered query into `out` (Parquet, zstd, atomic); return the number of rows.

    Row groups have a fixed size, so equal rows give equal bytes whatever the number of threads.
    """
    reader = connection.sql(query).to_arrow_reader(ROW_GROUP)
    return write_batches(out, reader.schema, reader)


def write_batches(out: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write record batches as Parquet with row groups of exactly ROW_GROUP rows (the last may be shorter)."""
    rows = 0
    with replacing(out) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            waiting: list[pa.RecordBatch] = []
            held = 0
            for batch in batches:
                rows += batch.num_rows
                held += batch.num_rows
                waiting.append(batch)
                while held >= ROW_GROUP:
                    table = pa.Table.from_batches(waiting, schema)
                    writer.write_table(table.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                    waiting = table.slice(ROW_GROUP).to_batches()
                    held -= ROW_GROUP
            if held:
                writer.write_table(pa.Table.from_batches(waiting, schema), row_group_size=ROW_GROUP)
    return rows
