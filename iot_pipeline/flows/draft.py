"""A first data set spec for a table that nobody here has seen.

Belongs here: guessing label and features, and writing the YAML that a person then completes. Does not belong here:
reading a data set by its spec (source.py, build.py).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import quoted
from iot_pipeline.flows.source import find_files, first_line, unpack
from iot_pipeline.flows.tables import connect, quote

FEWEST_CLASSES, MOST_CLASSES = 2, 20
FEWEST_FEATURES, MOST_FEATURES = 10, 100
LABEL_NAMES = re.compile(r"label|class|attack|traffic|categor|target|type", re.IGNORECASE)
# Who and when, not what: a model would learn the capture by heart.
IDENTITIES = re.compile(r"(^|[._\s])(id|uid|ip|ipv4|addr\w*|mac|port|ports|time\w*|date|ts)($|[._\s])", re.IGNORECASE)
# What DuckDB and pandas call a column without a name.
NAMELESS = re.compile(r"column0+$|Unnamed: ")
NUMBERS = ("BIGINT", "INTEGER", "HUGEINT", "DOUBLE", "FLOAT", "UBIGINT", "SMALLINT", "TINYINT")


@dataclass(frozen=True)
class Draft:
    """A drafted spec: its YAML, the label column, features, class of each label, and why columns were left out."""

    yaml: str
    label: str
    features: list[str]
    labels: dict[str, str]
    left_out: dict[str, str]


def draft_spec(source: str, name: str, label: str | None = None) -> Draft:
    """Draft a spec from one CSV or Parquet file (or zip, gz of a CSV).

    The label is the column named, or the last one of 2 to 20 values whose name says so. Features are the numeric
    columns but for constants, row numbers, addresses and times. UserError where there is no label, a column named is
    missing, or fewer than 10 or more than 100 features are left.
    """
    with tempfile.TemporaryDirectory(prefix="iot_draft_") as folder, connect() as connection:
        shown, plain = unpack(find_files(source, Path(folder))[0], Path(folder))[0]
        table = open_table(connection, shown, plain)
        kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
        facts = column_facts(connection, table, list(kinds))
        chosen = label or guess_label(shown, facts)
        if chosen not in kinds:
            raise UserError(f"{shown} has no column {chosen!r}; it has {', '.join(list(kinds)[:8])}, ...")
        labels = class_names(connection, table, shown, chosen)
        reasons = {column: reason(column, kind, *facts[column]) for column, kind in kinds.items() if column != chosen}
        left_out = {column: why for column, why in reasons.items() if why}
    features = [column for column, why in reasons.items() if not why]
    if not FEWEST_FEATURES <= len(features) <= MOST_FEATURES:
        told = ", ".join(f"{column} ({why})" for column, why in list(left_out.items())[:6]) or "none"
        raise UserError(
            f"{shown} has {len(features)} usable numeric columns; a data set needs {FEWEST_FEATURES} to "
            f"{MOST_FEATURES}. Left out: {told}."
        )
    return Draft(to_yaml(name, shown, chosen, features, labels, left_out), chosen, features, labels, left_out)


def open_table(connection: duckdb.DuckDBPyConnection, shown: str, plain: Path) -> str:
    """The query of the table, as text; UserError if it is none."""
    with plain.open("rb") as handle:
        parquet = handle.read(4) == b"PAR1"
    query = f"SELECT * FROM read_parquet({quote(plain)})" if parquet else f"SELECT * FROM read_csv({quote(plain)})"
    try:
        connection.execute(f"CREATE TEMP TABLE given AS {query}")
    except duckdb.Error as error:
        raise UserError(f"{shown} cannot be read as a table: {first_line(error)}") from error
    return "SELECT * FROM given"


def column_facts(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Column -> (distinct values, rows)."""
    counts = ", ".join(f"count(DISTINCT {quoted(column)})" for column in columns)
    *distinct, rows = connection.execute(f"SELECT {counts}, count(*) FROM ({table})").fetchall()[0]
    return {column: (number, rows) for column, number in zip(columns, distinct, strict=True)}


def guess_label(shown: str, facts: dict[str, tuple[int, int]]) -> str:
    """The last column of 2 to 20 values whose name says label."""
    fitting = [column for column, (distinct, _) in facts.items() if FEWEST_CLASSES <= distinct <= MOST_CLASSES]
    named = [column for column in fitting if LABEL_NAMES.search(column)]
    if not named:
        raise UserError(
            f"{shown} has no column of {FEWEST_CLASSES} to {MOST_CLASSES} values whose name says label; name it with "
            f"--label ({', '.join(fitting[-6:]) or 'no column has so few values'})."
        )
    return named[-1]


def class_names(connection: duckdb.DuckDBPyConnection, table: str, shown: str, label: str) -> dict[str, str]:
    """Label as it stands -> class name without blanks, the most frequent first."""
    found = connection.execute(
        f"SELECT CAST({quoted(label)} AS VARCHAR) AS l FROM ({table}) WHERE l IS NOT NULL "
        "GROUP BY l ORDER BY count(*) DESC, l"
    ).fetchall()
    if not FEWEST_CLASSES <= len(found) <= MOST_CLASSES:
        raise UserError(f"{shown}: column {label} has {len(found)} values; a data set has 2 to 20 classes.")
    return {text: class_name(text) for (text,) in found}


def class_name(text: str) -> str:
    """A class's name as one word; a bare number gets one in front."""
    return re.sub(r"[^\w-]+", "_", text.strip()) if re.search(r"[^\d.]", text) else f"Class_{text}"


def reason(column: str, kind: str, distinct: int, rows: int) -> str:
    """Why a column is no feature; empty where it is one."""
    if NAMELESS.match(column):
        return "has no name: most likely a row number"
    if IDENTITIES.search(column):
        return "says who or when"
    if kind not in NUMBERS:
        return "not a number"
    if distinct <= 1:
        return "constant"
    if distinct == rows and kind not in ("DOUBLE", "FLOAT"):
        return "a number of its own for every row"
    return ""


def to_yaml(
    name: str, shown: str, label: str, features: list[str], labels: dict[str, str], left_out: dict[str, str]
) -> str:
    """The spec as a person would write it, with what is to be filled in."""
    text = json.dumps  # a JSON string is a YAML string, whatever is in it
    lines = [
        f"# Drafted from {shown}. Fill in what says TODO; `iot-pipeline datasets check` tells what does not fit.",
        f"name: {name}", "title: TODO", "citation: TODO", "licence: TODO", f"label_column: {text(label)}",
        "# source label -> class; a class name may be changed on the right and in `classes`",
        "labels:", *(f"  {text(given)}: {text(known)}" for given, known in labels.items()),
        "classes:", *(f"  - {text(known)}" for known in dict.fromkeys(labels.values())),
        "scaling: none", "scaling_note: values as delivered, not scaled",
        "# printed digits decide which rows are the same flow",
        "format: {significant: 4}",
        *(f"# left out: {column}: {why}" for column, why in left_out.items()),
        "# expression: DuckDB SQL over double-quoted source columns", "features:",
    ]
    for column in features:
        plain = re.sub(r'[\s:"]+', "_", column.strip())
        lines.append(f"  - name: {text(plain)}")
        if plain != column:
            lines.append(f"    expression: {text(quoted(column))}")
        lines += ['    unit: ""', "    meaning: TODO"]
    return "\n".join(lines) + "\n"
