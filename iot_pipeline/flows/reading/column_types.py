"""Types of text columns: a column of numbers becomes BIGINT or DOUBLE, also with a decimal comma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from iot_pipeline.flows.reading.decimals import comma_columns, with_point
from iot_pipeline.flows.reading.rules import Findings, ReadingRules
from iot_pipeline.flows.sql import identifier, one

if TYPE_CHECKING:
    import duckdb


def typed_query(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    rules: ReadingRules | None = None,
    findings: Findings | None = None,
) -> str:
    """Return a SELECT that casts a text column to BIGINT or DOUBLE if all its non-empty values are such numbers.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        columns: Columns to select.
        rules: Rules of the data set: columns that stay text, decimal mark.
        findings: Receives a note on decimal commas.

    Raises:
        UserError: Numbers have thousands separators, or it cannot be told what a comma in them means.
    """
    rules = rules or ReadingRules()
    kinds = dict(row[:2] for row in connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall())
    texts = [column for column in columns if kinds[column] == "VARCHAR" and column not in rules.texts]
    types = number_types(connection, table, {column: identifier(column) for column in texts})
    judged = [c for c in texts if c != rules.label and (c in rules.needed or not rules.needed)]
    words, numbers = ([c for c in judged if (c in types) is there] for there in (False, True))
    commas = comma_columns(connection, table, words, numbers, rules, findings or Findings())
    pointed = {column: with_point(identifier(column)) for column in commas}
    types |= number_types(connection, table, pointed)
    selected = {column: identifier(column) for column in columns} | pointed
    cast = {column: f"TRY_CAST({selected[column]} AS {kind})" for column, kind in types.items()}
    told = (
        f"{sql} AS {identifier(column)}" if column in pointed.keys() | types.keys() else sql
        for column, sql in (selected | cast).items()
    )
    return f"SELECT {', '.join(told)} FROM {table}"


def number_types(connection: duckdb.DuckDBPyConnection, table: str, cells: Mapping[str, str]) -> dict[str, str]:
    """Return BIGINT or DOUBLE for each column whose non-empty cells are all numbers; `cells` maps columns to SQL."""
    tests = []
    for cell in cells.values():
        there = f"{cell} IS NOT NULL AND trim({cell}) <> ''"
        point = f"contains({cell}, '.') OR contains(lower({cell}), 'e')"
        tests += [
            f"count(*) FILTER ({there})",
            f"count(*) FILTER ({there} AND TRY_CAST({cell} AS DOUBLE) IS NULL)",
            f"count(*) FILTER ({there} AND (TRY_CAST({cell} AS BIGINT) IS NULL OR {point}))",
        ]
    counts = one(connection, f"SELECT {', '.join(tests)} FROM {table}") if tests else ()
    counted = zip(cells, counts[::3], counts[1::3], counts[2::3], strict=True)
    return {
        column: "DOUBLE" if not_whole else "BIGINT"
        for column, present, not_double, not_whole in counted
        if present and not (not_double and not_whole)
    }
