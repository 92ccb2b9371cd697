"""Unknown table as the pipeline reads it, with the facts of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import SourceReport, read_tables
from iot_pipeline.flows.sql import identifier, literal, number_sql, one, scan

WHOLE = ("BIGINT", "INTEGER", "HUGEINT", "UBIGINT", "UINTEGER", "SMALLINT", "USMALLINT", "TINYINT", "UTINYINT")
FRACTIONS = ("DOUBLE", "FLOAT", "DECIMAL")
SHOWN = 8
FACTS = 7  # of a column, as `_columns` asks for them
ROW = "iot_drafted_row"  # number of a row; a table may have a column named rowid
WITH_UNIT = r"[+-]?\d+(\.\d+)?\s*(%|[A-Za-zµ]{1,5}(/s)?)"  # 12 %, 0.3ms, 1.5 KB/s
NESTED = r"\{.*\}|\[.*\]"
TEXT = "trim(CAST({0} AS VARCHAR))"


@dataclass(frozen=True)
class Column:
    """Facts of one column.

    Attributes:
        name: Its name.
        kind: Its DuckDB type.
        distinct: Number of its distinct values; blank cells are none.
        blank: Cells that are blank, NaN or infinite.
        numbers: Cells of a text column that are numbers.
        first_text: Its first cell that is not blank and no number; empty for columns of numbers.
        with_unit: Cells of a text column that are a number and its unit.
        nested: Cells of a text column that are an object or a list of JSON.
        longest: Characters of its longest value, of text columns.
    """

    name: str
    kind: str
    distinct: int
    blank: int
    numbers: int
    first_text: str
    with_unit: int
    nested: int
    longest: int

    @property
    def is_whole(self) -> bool:
        """True for whole numbers."""
        return self.kind in WHOLE

    @property
    def is_number(self) -> bool:
        """True for numbers."""
        return self.is_whole or self.kind.startswith(FRACTIONS)

    @property
    def there(self) -> str:
        """SQL of a cell, NULL where it is blank, NaN or infinite."""
        return there_sql(self.name, self.kind)


@dataclass(frozen=True)
class Table:
    """Table `given` of a connection: how it is called in messages, its rows, its columns, and what was not read."""

    shown: str
    rows: int
    columns: dict[str, Column]
    report: SourceReport


def open_table(
    connection: duckdb.DuckDBPyConnection, source: str, folder: Path, with_files: bool, columns: Sequence[str] = ()
) -> Table:
    """Create the table `given` from all files of a source, as `read_source` would read them.

    Args:
        connection: DuckDB connection that may read `folder`.
        source: Files, as in `read_source`.
        folder: Empty folder for the table.
        with_files: True to add the column of file names.
        columns: Names of the columns of a file without a header.
    """
    table = folder / "given.parquet"
    rules = ReadingRules(column_names=tuple(columns))
    report = read_tables(source, table, rules, max_rejected_share=1.0, with_files=with_files)
    numbered = scan(table, ", file_row_number = true")
    connection.execute(f"CREATE TEMP TABLE given AS SELECT * RENAME (file_row_number AS {ROW}) FROM {numbered}")
    kinds = {row[0]: row[1] for row in connection.execute("DESCRIBE given").fetchall() if row[0] != ROW}
    names = [file["name"] for file in report.files]
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more files"
    return Table(shown, report.rows, _columns(connection, kinds), report)


def there_sql(name: str, kind: str) -> str:
    """Return SQL for a cell of a column of this type, NULL where it is blank, NaN or infinite."""
    cell = identifier(name)
    if kind == "VARCHAR":
        return f"nullif({TEXT.format(cell)}, '')"
    return f"CASE WHEN isfinite({cell}) THEN {cell} END" if kind.startswith(("DOUBLE", "FLOAT")) else cell


def _columns(connection: duckdb.DuckDBPyConnection, kinds: dict[str, str]) -> dict[str, Column]:
    tests = []
    for name, kind in kinds.items():
        cell, text = identifier(name), TEXT.format(identifier(name))
        is_text, there = kind == "VARCHAR", there_sql(name, kind)
        tests += [
            f"count(DISTINCT {there})",
            f"count(*) - count({there})",
            f"count({number_sql(cell)})" if is_text else "0",
            f"coalesce(arg_min({text}, {ROW}) FILTER ({text} <> '' AND {number_sql(cell)} IS NULL), '')"
            if is_text
            else "''",
            f"count(*) FILTER (regexp_full_match({text}, {literal(WITH_UNIT)}))" if is_text else "0",
            f"count(*) FILTER (regexp_full_match({text}, {literal(NESTED)}, 's'))" if is_text else "0",
            f"coalesce(max(length({text})), 0)" if is_text else "0",
        ]
    found = one(connection, f"SELECT {', '.join(tests)} FROM given")
    facts = zip(*(found[place::FACTS] for place in range(FACTS)), strict=True)
    return {name: Column(name, kind, *counts) for (name, kind), counts in zip(kinds.items(), facts, strict=True)}


def known_column(table: Table, name: str) -> str:
    """Return the column of this name, blanks around it and case aside; UserError if there is none."""
    wanted = name.strip()
    if wanted in table.columns:
        return wanted
    if found := [column for column in table.columns if column.lower() == wanted.lower()]:
        return found[0]
    every = [column for column in table.columns if column != SOURCE_FILE]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    raise UserError(f"{table.shown} has no column {wanted!r}; it has {', '.join(every[:SHOWN])}{more}.")
