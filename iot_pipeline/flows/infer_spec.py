"""Draft of a data set spec, inferred from an unknown table."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import label_pairs
from iot_pipeline.flows.names import feature_name
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import read_tables
from iot_pipeline.flows.spec import FEWEST_CLASSES, FEWEST_FEATURES, MOST_CLASSES, MOST_FEATURES, normalise_label
from iot_pipeline.flows.sql import connect, identifier, one, scan

LABEL_NAMES = re.compile(r"label|class|attack|traffic|categor|target|type", re.IGNORECASE)
# Who and when, not what: with these a model would memorise the capture. Includes the names of UNSW-NB15 and Zeek.
IDENTITY = re.compile(
    r"(src|dst|source|destination|orig|resp|flow)?(id|uid|ip|ipv4|ipv6|addr\w*|mac|ports?|time|timestamp\w*|date\w*|ts)"
    r"|[sd]s?port|[sl]time"
)
# Last words of measured quantities, whatever precedes them: orig_ip_bytes, active_time_mean.
MEASURES = {
    "bytes", "byts", "byte", "pkts", "pkt", "packets", "packet", "len", "length", "size", "count", "cnt", "num",
    "number", "rate", "ratio", "avg", "average", "mean", "std", "var", "variance", "min", "max", "median", "sum",
    "tot", "total", "sec", "secs", "seconds", "ms", "us", "s", "duration", "iat", "ttl", "loss", "difference",
}  # fmt: skip
# pandas' name for a column without one.
NAMELESS = re.compile(r"Unnamed: ")
WHOLE = ("BIGINT", "INTEGER", "HUGEINT", "UBIGINT", "UINTEGER", "SMALLINT", "USMALLINT", "TINYINT", "UTINYINT")
FRACTIONS = ("DOUBLE", "FLOAT", "DECIMAL")


@dataclass(frozen=True)
class Draft:
    """A drafted spec: its YAML, label column, features, class of each label, and why columns were left out."""

    yaml: str
    label: str
    features: list[str]
    labels: dict[str, str]
    left_out: dict[str, str]


def draft_spec(source: str, name: str, label: str | None = None) -> Draft:
    """Draft a data set spec from one CSV or Parquet file (or a zip or gz of a CSV).

    The label is the given column, or the last column with 2 to 100 values whose name suggests a label. Features are the
    numeric columns except constants, row numbers, addresses, times and copies of the label. Raises UserError if there
    is no label, the given column is missing, or no feature or more than 200 remain.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iot_draft_")))
        connection = stack.enter_context(connect(folder))
        shown, kinds = open_table(connection, source, folder)
        facts = column_facts(connection, list(kinds))
        chosen = label.strip() if label else guess_label(shown, facts)
        if chosen not in kinds:
            raise UserError(f"{shown} has no column {chosen!r}; it has {', '.join(list(kinds)[:8])}, ...")
        labels = class_names(connection, shown, chosen)
        reasons = {
            column: reason(column, kind, *facts[column]) or leak(connection, column, facts[column][0], chosen)
            for column, kind in kinds.items()
            if column != chosen
        }
    left_out = {column: why for column, why in reasons.items() if why}
    features = [column for column, why in reasons.items() if not why]
    if not FEWEST_FEATURES <= len(features) <= MOST_FEATURES:
        told = ", ".join(f"{column} ({why})" for column, why in list(left_out.items())[:6]) or "none"
        raise UserError(
            f"{shown} has {len(features)} usable numeric columns; a data set needs {FEWEST_FEATURES} to "
            f"{MOST_FEATURES}. Left out: {told}."
        )
    return Draft(_to_yaml(name, shown, chosen, features, labels, left_out), chosen, features, labels, left_out)


def open_table(connection: duckdb.DuckDBPyConnection, source: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Create the table `given` as `read_source` would read it; return the file's name and column -> DuckDB type."""
    table = folder / "given.parquet"
    report = read_tables(source, table, ReadingRules(), max_rejected_share=1.0)
    connection.execute(f"CREATE TEMP TABLE given AS SELECT * FROM {scan(table)}")
    shown = report.files[0]["name"]
    return shown, {row[0]: row[1] for row in connection.execute("DESCRIBE given").fetchall()}


def column_facts(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count distinct values and rows of each column: column -> (distinct, rows)."""
    counts = ", ".join(f"count(DISTINCT {identifier(column)})" for column in columns)
    *distinct, rows = one(connection, f"SELECT {counts}, count(*) FROM given")
    return {column: (number, rows) for column, number in zip(columns, distinct, strict=True)}


def leak(connection: duckdb.DuckDBPyConnection, column: str, distinct: int, label: str) -> str:
    """Return why a column reveals the label, or an empty string.

    It does if it follows from the label, or if it is named like a label and the label follows from it.

    Args:
        connection: DuckDB connection with the table `given`.
        column: Column to examine.
        distinct: Number of its distinct values.
        label: Column of the labels.
    """
    if not FEWEST_CLASSES <= distinct <= MOST_CLASSES:
        return ""
    pairs, labels, values = label_pairs(connection, "given", label, column)
    if pairs == labels:
        return "follows from the label"
    return "the label follows from it" if pairs == values and LABEL_NAMES.search(column) else ""


def guess_label(shown: str, facts: dict[str, tuple[int, int]]) -> str:
    """Guess the label: the last column of 2 to 100 values whose name suggests one; UserError if none does."""
    fitting = [column for column, (distinct, _) in facts.items() if FEWEST_CLASSES <= distinct <= MOST_CLASSES]
    named = [column for column in fitting if LABEL_NAMES.search(column)]
    if not named:
        raise UserError(
            f"{shown} has no column of {FEWEST_CLASSES} to {MOST_CLASSES} values whose name says label; name it with "
            f"--label ({', '.join(fitting[-6:]) or 'no column has so few values'})."
        )
    return named[-1]


def class_names(connection: duckdb.DuckDBPyConnection, shown: str, label: str) -> dict[str, str]:
    """Map each normalised label to a class name without blanks, most frequent first; no two share a class."""
    rows = connection.execute(
        f"SELECT CAST({identifier(label)} AS VARCHAR) AS l FROM given WHERE trim(l) <> '' "
        "GROUP BY l ORDER BY count(*) DESC, l"
    ).fetchall()
    found = list(dict.fromkeys(normalise_label(text) for (text,) in rows))
    if not FEWEST_CLASSES <= len(found) <= MOST_CLASSES:
        raise UserError(
            f"{shown}: column {label} has {len(found)} values; a data set has {FEWEST_CLASSES} to {MOST_CLASSES} "
            "classes."
        )
    # Labels that already are class names keep them, because the label map also accepts class names.
    order = sorted(found, key=lambda text: class_name(text) != text)
    given = dict(zip(order, distinct_names([class_name(text) for text in order]), strict=True))
    return {text: given[text] for text in found}


def class_name(text: str) -> str:
    """Return a class name as one word; a bare number is prefixed with `Class_`."""
    return re.sub(r"[^\w-]+", "_", text) if re.search(r"[^\d.+-]", text) else f"Class_{text}"


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names distinct (ignoring case) by appending the next free number to repeats."""
    given: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = next(text for text in itertools.chain([name], numbered) if text.lower() not in given)
        given[free.lower()] = free
    return list(given.values())


def is_identity(column: str) -> bool:
    """Return True if a column's name suggests who or when; a name that ends in a measure never does."""
    words = [word for word in re.split(r"[^a-z0-9]+", column.lower()) if word]
    return bool(words) and words[-1] not in MEASURES and any(IDENTITY.fullmatch(word) for word in words)


def reason(column: str, kind: str, distinct: int, rows: int) -> str:
    """Return why a column cannot be a feature; empty if it can.

    Args:
        column: Name of the column.
        kind: Its DuckDB type.
        distinct: Number of its distinct values.
        rows: Number of its rows.
    """
    if NAMELESS.match(column):
        return "has no name: most likely a row number"
    if '"' in column:
        return "has a quote in its name: rename it in the file"
    if is_identity(column):
        return "says who or when"
    if kind not in WHOLE and not kind.startswith(FRACTIONS):
        return "not a number"
    if distinct <= 1:
        return "constant"
    if distinct == rows and kind in WHOLE:
        return "a number of its own for every row"
    return ""


def _to_yaml(
    name: str, shown: str, label: str, features: list[str], labels: dict[str, str], left_out: dict[str, str]
) -> str:
    """Render the draft spec as a person would write it, with TODO for the parts to fill in."""
    text = json.dumps  # every JSON string is a valid YAML string
    lines = [
        f"# Drafted from {text(shown)}. Fill in what says TODO; `iot-pipeline datasets check` tells what does not fit.",
        f"name: {name}",
        "title: TODO",
        "citation: TODO",
        "licence: TODO",
        f"label_column: {text(label)}",
        "# source label -> class; a class name may be changed on the right and in `classes`",
        "labels:",
        *(f"  {text(given)}: {text(known)}" for given, known in labels.items()),
        "classes:",
        *(f"  - {text(known)}" for known in dict.fromkeys(labels.values())),
        "# or train_pool: texts show z-scores fitted on the train pool alone; or given: the file's values are scaled",
        "scaling: none",
        "scaling_note: values as delivered, not scaled",
        "# printed digits decide which rows are the same flow",
        "format: {significant: 4}",
        *(f"# left out: {text(column)}: {why}" for column, why in left_out.items()),
        "# expression: DuckDB SQL over double-quoted source columns",
        "features:",
    ]
    for column, plain in zip(features, distinct_names([feature_name(column) for column in features]), strict=True):
        lines.append(f"  - name: {text(plain)}")
        if plain != column:
            lines.append(f"    expression: {text(identifier(column))}")
        lines += ['    unit: ""', "    meaning: TODO"]
    return "\n".join(lines) + "\n"
