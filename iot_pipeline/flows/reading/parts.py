"""Parquet parts of a source: copies of columns by name, and all parts as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import file_literal, identifier, literal, one, scan

if TYPE_CHECKING:
    import duckdb

# Column of raw.parquet with the file, or the member of an archive, that a row was read from.
SOURCE_FILE = "iot_source_file"


def settle_copies(
    connection: duckdb.DuckDBPyConnection, name: str, file: Path, copies: Mapping[str, str], needed: Sequence[str]
) -> None:
    """Refuse a part in which a needed column is there twice with different values.

    Args:
        connection: DuckDB connection that may read `file`.
        name: Display name for messages.
        file: The part.
        copies: Numbered name -> name of which it is a copy.
        needed: Columns that the data set needs.

    Raises:
        UserError: Two copies of a needed column differ, and the data set does not name the second.
    """
    for copy, original in copies.items():
        if original not in needed or copy in needed:
            continue
        test = f"{identifier(copy)} IS DISTINCT FROM {identifier(original)}"
        (differing,) = one(connection, f"SELECT count(*) FROM {scan(file)} WHERE {test}")
        if differing:
            raise UserError(
                f"{name} has the column {original!r} twice, with other values in {differing:,} rows: rename or remove "
                "one."
            )


def every_part(parts: Mapping[Path, str], with_files: bool) -> str:
    """Return SQL for the rows of all parts, in their order; `parts` are Parquet files and their display names."""
    listing = ", ".join(map(file_literal, parts))
    table = f"read_parquet([{listing}], union_by_name = true, hive_partitioning = false"
    if not with_files:
        return f"{table})"
    cases = " ".join(f"WHEN {literal(part)} THEN {literal(name)}" for part, name in parts.items())
    named = f"CASE {SOURCE_FILE} {cases} END AS {SOURCE_FILE}"
    return f"(SELECT * REPLACE ({named}) FROM {table}, filename = {literal(SOURCE_FILE)}))"
