"""Types of text columns: a column of numbers becomes BIGINT or DOUBLE, also with a decimal comma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from iot_pipeline.flows.reading.decimals import comma_columns, with_point
from iot_pipeline.flows.reading.rules import Findings, ReadingRules
from iot_pipeline.flows.sql import identifier, number_sql, one

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
    """Return BIGINT or DOUBLE for each column whose non-empty cells are all numbers; `cells` maps columns to SQL.

    Only a column of numbers without any point is tried as whole ones, which halves the time of this look at every cell;
    as such DuckDB would read 0x10 too.
    """
    if not cells:
        return {}
    tests = [
        f"count(*) FILTER (trim({cell}) <> ''), count({number_sql(cell)}), bool_or(contains({cell}, '.'))"
        for cell in cells.values()
    ]
    counts = one(connection, f"SELECT {', '.join(tests)} FROM {table}")
    found: dict[str, str] = {}
    candidates: dict[str, str] = {}
    for (column, cell), present, numbers, point in zip(
        cells.items(), counts[::3], counts[1::3], counts[2::3], strict=True
    ):
        if present and present == numbers:
            found[column] = "DOUBLE"
        if present and present == numbers and not point:
            candidates[column] = cell
    if candidates:
        tests = [
            f"bool_or(trim({cell}) <> '' AND (TRY_CAST({cell} AS BIGINT) IS NULL OR contains(lower({cell}), 'e')))"
            for cell in candidates.values()
        ]
        others = one(connection, f"SELECT {', '.join(tests)} FROM {table}")
        found |= {column: "BIGINT" for column, other in zip(candidates, others, strict=True) if not other}
    return found
