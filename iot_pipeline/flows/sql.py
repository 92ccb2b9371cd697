"""DuckDB connections and Parquet files of the flows package, with streamed writing and fixed row groups."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing

if TYPE_CHECKING:  # training and scoring on a GPU machine read no table: they need no DuckDB there
    import duckdb
    import pyarrow as pa

ROW_GROUP = 122_880
LONGEST_NUMBER = 400  # characters
GLOB = re.compile(r"[*?[]")


def connect(*readable: Path, memory: str = "") -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with two threads that may only read the files and folders `readable`.

    It opens no other file, database or address and loads no extension, and a query cannot lift these limits: queries
    contain text from data set files. Once it holds `memory` ("256MB"; by default 80 % of the machine's) it spills to a
    private temporary folder, removed with the connection; the default would be .tmp in the current directory.
    """
    import duckdb

    folder = tempfile.mkdtemp(prefix="iot_pipeline-duckdb-")
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": 2, "temp_directory": folder, "allow_community_extensions": False,
        "autoinstall_known_extensions": False, "autoload_known_extensions": False,
        # It answers by old bytes of a file that was written anew within a second (DuckDB 1.5.6: 568 of 800 answers, or
        # "Out of buffer"; without it none of 8,400).
        "enable_external_file_cache": False,
    }  # fmt: skip
    if memory:
        settings["memory_limit"] = memory
    connection = duckdb.connect(config=settings)
    weakref.finalize(connection, shutil.rmtree, folder, ignore_errors=True)
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET allowed_directories = ?", [[str(path) for path in readable if path.is_dir()]])
    files = [path for path in readable if not path.is_dir()]
    # A pattern is looked up too, before the file that it finds.
    connection.execute("SET allowed_paths = ?", [[*map(str, files), *map(pattern, files)]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def identifier(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: Path | str) -> str:
    """Quote a text or a path as an SQL string; DuckDB's parser takes a NUL for the end of the query."""
    quoted = "'" + str(text).replace("'", "''") + "'"
    return "(" + quoted.replace("\0", "' || chr(0) || '") + ")" if "\0" in quoted else quoted


def pattern(path: Path | str) -> str:
    """Return the pattern by which DuckDB finds this one file: to DuckDB, `flows[1].csv` is a pattern for `flows1.csv`.

    UserError for a path with a backslash beside such a character, for which DuckDB has no pattern.
    """
    text = str(path)
    if "\\" in text and GLOB.search(text):
        raise UserError(f"{text} has a backslash beside one of * ? [ in its path; rename the file or folder")
    return GLOB.sub(r"[\g<0>]", text)


def file_literal(path: Path | str) -> str:
    """Quote a path as an SQL string that names one file."""
    return literal(pattern(path))


def number_sql(cell: str) -> str:
    """Return SQL for the number in a cell of text, NULL if it holds none, by the rule of flows/rows.py.

    DuckDB's own cast also reads underscores between digits (1_000) and two signs (+-1), which no other reader does.
    """
    other = f"contains({cell}, '_') OR contains({cell}, '+-') OR strlen({cell}) > {LONGEST_NUMBER}"
    return f"CASE WHEN {other} THEN NULL ELSE TRY_CAST({cell} AS DOUBLE) END"


def scan(path: Path, options: str = "") -> str:
    """Return SQL that reads one Parquet file; a `key=value` folder in its path adds no column."""
    return f"read_parquet({file_literal(path)}, hive_partitioning = false{options})"


@contextmanager
def opened(**tables: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with a view on each Parquet file, named by keyword; UserError if one is missing."""
    for path in tables.values():
        if not path.is_file():
            raise UserError(f"{path} is missing; materialise the asset that makes it first")
    with connect(*tables.values()) as connection:
        for name, path in tables.items():
            connection.execute(f"CREATE VIEW {identifier(name)} AS SELECT * FROM {scan(path)}")
        yield connection


def records(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    """Return the rows of `query` as dictionaries; HUGEINT and DECIMAL sums must be cast in the query."""
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Return the first row of `query`, which has one."""
    return tuple(connection.execute(query).fetchall()[0])


def write_query(connection: duckdb.DuckDBPyConnection, query: str, out: Path) -> int:
    """Stream an ordered query into `out` (Parquet, lz4, atomic); return the number of rows.

    Row groups have a fixed size, so equal rows give equal bytes for any number of threads.
    """
    reader = connection.sql(query).to_arrow_reader(ROW_GROUP)
    return write_batches(out, reader.schema, reader)


def write_batches(out: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write record batches as Parquet with row groups of exactly ROW_GROUP rows (the last may be shorter)."""
    import pyarrow as pa  # the teacher and its clients write no table: they start faster without it
    import pyarrow.parquet as pq

    rows = 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema, compression="lz4") as writer:
        waiting = schema.empty_table()
        for batch in batches:
            rows += batch.num_rows
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], schema)])
            while len(waiting) >= ROW_GROUP:
                writer.write_table(waiting.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                waiting = waiting.slice(ROW_GROUP)
        if len(waiting):
            writer.write_table(waiting, row_group_size=ROW_GROUP)
    return rows
