"""Columns that give the label away, by their measured purity.

Purity is the share of rows whose label is the commonest one of their value, where the commonest ones are counted on one
half of the rows and tried on the other: a row number, of which every value occurs once, is no better than guessing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb

from iot_pipeline.flows.build import label_pairs
from iot_pipeline.flows.drafting.columns import OF_OTHERS, words_of
from iot_pipeline.flows.drafting.table import ROW, Column
from iot_pipeline.flows.spec import FEWEST_CLASSES, MOST_CLASSES
from iot_pipeline.flows.sql import identifier

MOST_ROWS = 30_000  # that are measured; a share of 0.5 is then known to 0.8 %, with 95 %
# What annotators write beside flows, not measured on the wire; and where a merged table has its rows from.
ANNOTATION = re.compile(
    r"label|class(?!ic)|attack|categor|difficult|severity|threat|malicious|anomal|verdict|ground_?truth|prediction"
    r"|tactic|technique|scenario|is_?(?:bad|normal|benign)|target$"
    r"|^(?:data_?set|sub_?set|split|fold|source_?file|file_?name|capture|experiment)(?:_?name|_?id)?$",
    re.IGNORECASE,
)
LABEL_NAMES = re.compile(r"label|class|attack|traffic|categor|target|type", re.IGNORECASE)
PURE, STRONG = 0.999, 0.9  # a copy; and the share of the errors of guessing that a strong column saves


@dataclass(frozen=True)
class Sample:
    """Rows of the table `given` that are measured: one of `every`, drawn by a hash."""

    every: int

    @staticmethod
    def of(rows: int) -> Sample:
        """Return the sample of a table of so many rows."""
        return Sample(max(1, -(-rows // MOST_ROWS)))

    def sql(self, *columns: str) -> str:
        """Return SQL for the drawn rows: c0, c1, ... as text, and half, 0 or 1."""
        cells = ", ".join(
            f"coalesce(CAST({identifier(name)} AS VARCHAR), '') AS c{place}" for place, name in enumerate(columns)
        )
        drawn = f"hash({ROW}) % {self.every} = 0"
        return f"SELECT {cells}, (hash({ROW}) // {self.every}) % 2 AS half FROM given WHERE {drawn}"


def purity(connection: duckdb.DuckDBPyConnection, sample: Sample, column: str, label: str) -> tuple[float, float]:
    """Return the purity of a column on held-out rows, and the share of the commonest label there.

    A blank label counts as one of its own: it often is normal traffic.

    Args:
        connection: DuckDB connection with the table `given`.
        sample: Rows to measure.
        column: The column.
        label: Column of the labels.
    """
    share, commonest = connection.execute(f"""
        WITH drawn AS (SELECT c0 AS v, c1 AS l, half FROM ({sample.sql(column, label)})),
        counted AS (SELECT v, l, count(*) AS n FROM drawn WHERE half = 0 GROUP BY ALL),
        best AS (SELECT v, l AS told FROM counted QUALIFY row_number() OVER (PARTITION BY v ORDER BY n DESC, l) = 1),
        usual AS (SELECT l AS told FROM drawn WHERE half = 0 GROUP BY l ORDER BY count(*) DESC, l LIMIT 1)
        SELECT avg(CAST(coalesce(best.told, (SELECT told FROM usual)) = l AS DOUBLE)),
            avg(CAST((SELECT told FROM usual) = l AS DOUBLE))
        FROM drawn LEFT JOIN best USING (v) WHERE half = 1""").fetchall()[0]
    return (share or 0.0), (commonest or 0.0)


@dataclass(frozen=True)
class Giveaway:
    """Column that tells much of the label: its purity, and what it is; with `copy` it must not be a feature."""

    column: str
    purity: float
    commonest: float
    why: str
    copy: bool

    @property
    def told(self) -> str:
        """Reason with its figures."""
        return (
            f"{self.why}; the commonest class of its value is right in {self.purity:.1%} of the rows, the commonest "
            f"class of all in {self.commonest:.1%}"
        )


def giveaway(connection: duckdb.DuckDBPyConnection, sample: Sample, column: Column, label: str) -> Giveaway | None:
    """Measure a column and return it if it gives the label away.

    A copy follows from the label or is a label by another name; an annotation beside the label, such as the difficulty
    of NSL-KDD's records, is none that a capture has. Any other strong column is told and kept.

    Args:
        connection: DuckDB connection with the table `given`.
        sample: Rows to measure.
        column: The column.
        label: Column of the labels.
    """
    share, commonest = purity(connection, sample, column.name, label)
    named = ANNOTATION.search(column.name) is not None and not OF_OTHERS & set(words_of(column.name))
    why, copy = "", True
    if FEWEST_CLASSES <= column.distinct <= MOST_CLASSES:
        pairs, labels, values = label_pairs(connection, "given", label, column.name)
        if pairs == labels:
            why = "follows from the label"
        elif pairs == values and (named or LABEL_NAMES.search(column.name)):
            why = "the label follows from it"
    if not why and named:
        why = "is named like an annotation of the label"
    if not why and share > commonest and share - commonest >= STRONG * (1 - commonest):
        why, copy = ("tells the label" if share >= PURE else "tells nearly all of the label"), False
    return Giveaway(column.name, share, commonest, why, copy) if why else None
