"""Lines of a CSV that DuckDB rejected, with reasons in plain words."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import literal

if TYPE_CHECKING:
    import duckdb

# DuckDB's error types for rejected lines, in plain words.
REASONS = {
    "MISSING COLUMNS": "too few columns",
    "TOO MANY COLUMNS": "too many columns",
    "INVALID ENCODING": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line too long",
}


def rejected_lines(
    connection: duckdb.DuckDBPyConnection, name: str, stem: str, comment: str = ""
) -> list[dict[str, Any]]:
    """Return {file, line, reason} of each line in the rejects table of a part.

    Args:
        connection: DuckDB connection that read the part.
        name: Display name of the file.
        stem: Stem of the part, after which its rejects table is named.
        comment: First character of lines that are no loss; empty for none.

    Raises:
        UserError: A quote is never closed.
    """
    # DuckDB's text of a line may begin with the end of the line before.
    test = f"NOT starts_with(ltrim(csv_line, chr(10) || chr(13)), {literal(comment)})" if comment else "true"
    found = connection.execute(
        f"SELECT DISTINCT ON (line) line, CAST(error_type AS VARCHAR) FROM {stem}_rejects WHERE {test} ORDER BY line"
    ).fetchall()
    for line, kind in found:
        if kind == "UNQUOTED VALUE":
            raise UserError(f"{name}, line {line}, has a quote that is never closed: mend or remove that line.")
    return [{"file": name, "line": line, "reason": REASONS.get(kind, kind.lower())} for line, kind in found]


def commonest(lost: list[dict[str, Any]]) -> str:
    """Describe the commonest reason of rejected lines and its first line."""
    (reason, number), *_ = Counter(line["reason"] for line in lost).most_common(1)
    first = next(line for line in lost if line["reason"] == reason)
    return f"most often: {reason} ({number:,} lines), first in {first['file']}, line {first['line']}."


def cause(error: Exception) -> str:
    """Return the cause of a read error, in DuckDB's words where they are one line without a path."""
    told = re.search(
        r"Expected Number of Columns.*|Invalid unicode.*|Value with unterminated quote.*|Maximum line size.*",
        str(error),
    )
    return (told[0].rstrip(".") if told else "it is damaged or does not follow the rules of its format") + "."
