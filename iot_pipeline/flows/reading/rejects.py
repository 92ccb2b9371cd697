"""Lines of a CSV that DuckDB rejected, with reasons in plain words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import literal

if TYPE_CHECKING:
    import duckdb

EXAMPLES = 5  # lines that are told
# DuckDB's error types for rejected lines, in plain words.
REASONS = {
    "MISSING COLUMNS": "too few columns",
    "TOO MANY COLUMNS": "too many columns",
    "INVALID ENCODING": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line too long",
}


@dataclass
class Lost:
    """Lines that could not be read as rows: their number by reason, and the first ones.

    A file may have millions of them. `first`: file, line and reason of the first line of each reason. `examples`: those
    of the first EXAMPLES lines of all.
    """

    rows: Counter[str] = field(default_factory=Counter)
    first: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Number of the lines."""
        return self.rows.total()

    def add(self, name: str, line: int, reason: str) -> None:
        """Add a line behind those that were added before."""
        self.rows[reason] += 1
        if reason in self.first and len(self.examples) >= EXAMPLES:
            return
        told = {"file": name, "line": line, "reason": reason}
        self.first.setdefault(reason, told)
        if len(self.examples) < EXAMPLES:
            self.examples.append(told)

    def include(self, other: Lost) -> None:
        """Add the lines of a later file."""
        self.rows += other.rows
        self.first = other.first | self.first
        self.examples += other.examples[: EXAMPLES - len(self.examples)]

    def commonest(self) -> str:
        """Describe the commonest reason and its first line."""
        (reason, number), *_ = self.rows.most_common(1)
        first = self.first[reason]
        return f"most often: {reason} ({number:,} lines), first in {first['file']}, line {first['line']}."


def rejected_lines(connection: duckdb.DuckDBPyConnection, name: str, stem: str, comment: str = "") -> Lost:
    """Return the lines in the rejects table of a part.

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
        f"SELECT kind, count(*), min(line, {EXAMPLES}) AS first FROM (SELECT DISTINCT ON (line) line, "
        f"CAST(error_type AS VARCHAR) AS kind FROM {stem}_rejects WHERE {test}) GROUP BY kind ORDER BY first"
    ).fetchall()
    lost, first = Lost(), list[dict[str, Any]]()
    for kind, number, lines in found:
        if kind == "UNQUOTED VALUE":
            raise UserError(f"{name}, line {lines[0]}, has a quote that is never closed: mend or remove that line.")
        reason = REASONS.get(kind, kind.lower())
        told = [{"file": name, "line": line, "reason": reason} for line in lines]
        lost.rows[reason], lost.first[reason] = number, told[0]
        first += told
    lost.examples = sorted(first, key=lambda line: line["line"])[:EXAMPLES]
    return lost


def cause(error: Exception) -> str:
    """Return the cause of a read error, in DuckDB's words where they are one line without a path."""
    told = re.search(
        r"Expected Number of Columns.*|Invalid unicode.*|Value with unterminated quote.*|Maximum line size.*",
        str(error),
    )
    return (told[0].rstrip(".") if told else "it is damaged or does not follow the rules of its format") + "."
