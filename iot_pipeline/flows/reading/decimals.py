"""Marks in numbers: decimal commas are found by evidence and announced, thousands separators are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.rules import Findings, ReadingRules
from iot_pipeline.flows.sql import identifier, literal, one

if TYPE_CHECKING:
    import duckdb

MOST_DAMAGED = 0.1  # share of a column's cells
EXPONENT = r"([eE][+-]?\d+)?"
INTEGER = rf"[+-]?\d+{EXPONENT}"
COMMA = rf"[+-]?\d*,\d+{EXPONENT}"
POINT = rf"[+-]?(\d+\.\d*|\.\d+){EXPONENT}"
# 1,234 is one number or another; 1,234,567 and 1.234,5 have thousands separators for certain.
UNCLEAR = r"[+-]?[1-9]\d{0,2},\d{3}"
GROUPED = (
    r"[+-]?\d{1,3}(,\d{3})+\.\d+|[+-]?\d{1,3}(,\d{3}){2,}|[+-]?\d{1,3}(\.\d{3})+,\d+"
    r"|[+-]?\d{1,3}([ '\x{00A0}\x{202F}]\d{3})+([.,]\d+)?"
)


def with_point(name: str) -> str:
    """Return SQL for a cell whose decimal comma, if it has one, is a point."""
    return f"CASE WHEN regexp_full_match(trim({name}), {literal(COMMA)}) THEN replace({name}, ',', '.') ELSE {name} END"


@dataclass(frozen=True)
class Marks:
    """Cells of a column, and those with a comma, an unclear one, thousands separators, a point."""

    column: str
    cells: int
    comma: int
    unclear: int
    grouped: int
    point: int
    numbers: int


def comma_columns(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    numbers: Sequence[str],
    rules: ReadingRules,
    findings: Findings,
) -> list[str]:
    """Return the columns whose numbers have a decimal comma; numbers with thousands separators are refused.

    Args:
        connection: DuckDB connection.
        table: Table expression with text columns.
        columns: Columns in which some cell is no number.
        numbers: Text columns of numbers only.
        rules: Rules of the data set.
        findings: Receives a note if there are such columns.

    Raises:
        UserError: Numbers have thousands separators, or what a comma or a point means in them cannot be told.
    """
    counted = marks(connection, table, columns) if columns else []
    found = [item for item in counted if item.comma + item.unclear + item.grouped]
    if not rules.needed:  # a draft: lists of ports and the like among words are no numbers
        found = [item for item in found if item.numbers == item.cells]
    for item in found:
        if item.grouped:
            refuse(connection, table, item.column, GROUPED, "has thousands separators: write numbers without them")
    clear = [item for item in found if item.comma]
    for item in found:
        if item.unclear and (rules.decimal == "." or (rules.decimal is None and not clear)):
            refuse(
                connection, table, item.column, UNCLEAR,
                "may be two numbers: set decimal: ',' in the data set's file if its comma is a decimal mark, or write "
                "numbers without thousands separators",
            )  # fmt: skip
    if rules.decimal == "," and not found:
        tell_point(connection, table, numbers, findings)
    if rules.decimal == "." or not found:
        return []
    return settled(
        connection, table, numbers, [item for item in found if item.comma + item.unclear > item.point], findings
    )


def marks(connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> list[Marks]:
    """Count the cells of each column by their marks."""
    tests = []
    for column in columns:
        cell = f"trim({identifier(column)})"
        grouped, unclear, comma, point, integer = (
            f"regexp_full_match({cell}, {literal(form)})" for form in (GROUPED, UNCLEAR, COMMA, POINT, INTEGER)
        )
        tests += [
            f"count(*) FILTER ({cell} <> '')",
            f"count(*) FILTER ({comma} AND NOT {unclear} AND NOT {grouped})",
            f"count(*) FILTER ({unclear})",
            f"count(*) FILTER ({grouped})",
            f"count(*) FILTER ({point})",
            f"count(*) FILTER ({grouped} OR {comma} OR {point} OR {integer})",
        ]
    counts = one(connection, f"SELECT {', '.join(tests)} FROM {table}")
    return [Marks(column, *counts[6 * place : 6 * place + 6]) for place, column in enumerate(columns)]


def tell_point(connection: duckdb.DuckDBPyConnection, table: str, numbers: Sequence[str], findings: Findings) -> None:
    """Note that numbers have a point where the data set's file says comma: in 1.234 it may separate thousands.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        numbers: Text columns of numbers only.
        findings: Receives the note.
    """
    if pointed := with_points(connection, table, numbers):
        row, cell = first_cell(connection, table, pointed[0], POINT)
        findings.note(
            f"decimal is ',' and column {pointed[0]} has a point ({cell!r} in data row {row}): it is read as a decimal "
            "point, not as a separator of thousands."
        )


def with_points(connection: duckdb.DuckDBPyConnection, table: str, numbers: Sequence[str]) -> list[str]:
    """Return the columns in which a number has a decimal point."""
    tests = ", ".join(f"bool_or(regexp_full_match(trim({identifier(n)}), {literal(POINT)}))" for n in numbers)
    found = one(connection, f"SELECT {tests} FROM {table}") if numbers else ()
    return [column for column, there in zip(numbers, found, strict=True) if there]


def settled(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    numbers: Sequence[str],
    found: Sequence[Marks],
    findings: Findings,
) -> list[str]:
    """Return the columns of `found`, after a check that no number has a decimal point.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        numbers: Text columns of numbers only.
        found: Marks of the columns with commas.
        findings: Receives a note.

    Raises:
        UserError: There are points too.
    """
    pointed = [item.column for item in found if item.point] + with_points(connection, table, numbers)
    if pointed:  # a few commas among points are damaged cells, which cost their rows
        found = [item for item in found if item.comma + item.unclear > MOST_DAMAGED * item.cells]
    if not found:
        return []
    columns = [item.column for item in found]
    _, cell = first_cell(connection, table, columns[0], COMMA)
    if pointed:
        row, other = first_cell(connection, table, pointed[0], POINT)
        raise UserError(
            f"column {columns[0]} has decimal commas ({cell!r}) and column {pointed[0]} points ({other!r} in data row "
            f"{row}): write all numbers of the table with a point."
        )
    shown = ", ".join(columns[:8]) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
    noun = "columns" if len(columns) > 1 else "column"
    findings.note(f"numbers have a decimal comma, such as {cell!r}, and are read so: {noun} {shown}.")
    return columns


def refuse(connection: duckdb.DuckDBPyConnection, table: str, column: str, form: str, told: str) -> None:
    """Raise UserError for the first cell of a column that has a form.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        column: The column.
        form: Regular expression.
        told: What is wrong with the cell and what to do.
    """
    row, cell = first_cell(connection, table, column, form)
    raise UserError(f"column {column}, data row {row}: {cell!r} {told}.")


def first_cell(connection: duckdb.DuckDBPyConnection, table: str, column: str, form: str) -> tuple[int, str]:
    """Return the row (from 1) and the text of the first cell of a column that has a form.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        column: The column.
        form: Regular expression.
    """
    found = one(
        connection,
        f"SELECT r, c FROM (SELECT row_number() OVER () AS r, {identifier(column)} AS c FROM {table}) "
        f"WHERE regexp_full_match(trim(c), {literal(form)}) ORDER BY r LIMIT 1",
    )
    return int(found[0]), str(found[1])
