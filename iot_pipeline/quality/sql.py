"""DuckDB access to the tables of the lake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, scan

Row = tuple[Any, ...]


def feature_list(spec: DatasetSpec) -> str:
    """Return the feature columns as an SQL list in spec order."""
    return ", ".join(identifier(feature.name) for feature in spec.features)


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


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    """Return the rows of `query` as dictionaries; HUGEINT and DECIMAL sums must be cast in the query."""
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def one(connection: duckdb.DuckDBPyConnection, query: str) -> Row:
    """Return the single row of `query`; ValueError if there is none."""
    found = connection.execute(query).fetchone()
    if found is None:
        raise ValueError(f"no row from {query}")
    return tuple(found)
