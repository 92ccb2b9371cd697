"""Rejected rows by reason and by class: no class vanishes, and none loses most of its rows, without a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import literal

if TYPE_CHECKING:
    import duckdb

MOST_LABELS_TOLD = 10
SHOWN = 60  # characters of a cell
# (reason, rows, first data row, its cell)
Reject = tuple[str, int, int, str]


def no_label(column: str) -> str:
    """Return the reason for rows without a label."""
    return f"no label in {column}"


def by_reason(connection: duckdb.DuckDBPyConnection, where: str = "true") -> list[Reject]:
    """Count the table `rejects` by reason, the most common one first; `where` chooses its rows."""
    return connection.execute(
        f"SELECT reason, count(*) AS n, min(source_row), min_by(cell, source_row) FROM rejects WHERE {where} "
        "GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()


def place(reject: Reject) -> str:
    """Describe a reason with its rows, first row and cell."""
    reason, number, first, cell = reject
    shown = None if cell is None else cell[:SHOWN]
    return f"{reason} ({number:,} rows), first in data row {first}, where the value is {shown!r}"


def remedy(reason: str) -> str:
    """Return what to write in the data set's file for a reason that has such a remedy, else an empty string."""
    if reason.startswith("no label in "):
        return ' (a line "": <class> under labels takes rows without a label)'
    if reason.startswith("missing value in "):
        return f' (an expression such as coalesce("{reason.removeprefix("missing value in ")}", 0) says what it means)'
    return ""


def class_losses(connection: duckdb.DuckDBPyConnection, label_column: str) -> list[str]:
    """Return a sentence for each class that loses more than half of its rows, and for each label that is not known.

    Args:
        connection: DuckDB connection with the tables `derived` and `rejects`.
        label_column: Column of the labels.

    Raises:
        UserError: A class loses all of its rows.
    """
    told = []
    lossy = connection.execute("""
        SELECT label, count(*) FILTER (reason IS NULL) AS kept, count(*) FILTER (reason = 'value') AS lost
        FROM derived WHERE label IS NOT NULL AND reason IS DISTINCT FROM 'absent' GROUP BY label HAVING lost > kept
        ORDER BY label""").fetchall()
    for name, kept, lost in lossy:
        commonest = place(by_reason(connection, f"label = {literal(name)}")[0])
        if not kept:
            raise UserError(
                f"class {name} loses all of its {lost:,} rows; most often: {commonest}: mend the column, or leave the "
                "feature or the class out of the data set."
            )
        told.append(f"class {name} loses {lost:,} of its {kept + lost:,} rows; most often: {commonest}.")
    unknown = connection.execute("""
        SELECT trim(source_label), count(*) AS n, min(source_row) FROM rejects
        WHERE label IS NULL GROUP BY 1 ORDER BY n DESC, 1""").fetchall()
    for text, number, first in unknown[:MOST_LABELS_TOLD]:
        what = f"the label {text[:SHOWN]!r} of column {label_column} is not known" if text else no_label(label_column)
        told.append(f"{what}: all of its {number:,} rows are rejected, first data row {first}{remedy(what)}.")
    if len(unknown) > MOST_LABELS_TOLD:
        told.append(f"{len(unknown) - MOST_LABELS_TOLD:,} more labels of column {label_column} are not known.")
    return told


def unread_classes(rows_by_class: Mapping[str, int], lost_lines: int) -> str:
    """Return a sentence if classes have no row while lines of the source were no rows, which may be theirs."""
    empty = [name for name, rows in rows_by_class.items() if not rows]
    if not empty:
        return ""
    return (
        f"no row of class {', '.join(empty)}, and {lost_lines:,} lines of the source were no rows: see whether they "
        "are its own (a delimiter within its label, for one)."
    )
