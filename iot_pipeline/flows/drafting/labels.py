"""Label of an unknown table, by evidence: the column's name, its values, its place, and its tie to other columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import label_pairs
from iot_pipeline.flows.drafting.columns import OF_OTHERS, words_of
from iot_pipeline.flows.drafting.giveaways import Sample, purity
from iot_pipeline.flows.drafting.table import Column, Table
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.spec import FEWEST_CLASSES, MOST_CLASSES
from iot_pipeline.flows.sql import identifier

# Points of a column's name, by its words joined; a word of the second list gives its points wherever it stands.
WHOLE_NAMES = {
    **dict.fromkeys(("label", "labels", "class", "classlabel", "target", "y", "groundtruth", "trafficlabel"), 6),
    **dict.fromkeys(
        ("attack", "attacks", "attackcat", "attackcategory", "attacktype", "attackname", "attacklabel", "labelname",
         "detailedlabel", "multilabel", "category", "subcategory", "threat", "malware"), 5,
    ),
}  # fmt: skip
WORDS = {
    "label": 4, "class": 4, "attack": 4, "traffic": 3, "category": 3, "categor": 3, "cat": 2, "target": 3, "threat": 3,
    "anomaly": 3, "malware": 3, "intrusion": 3, "outcome": 2, "verdict": 3, "type": 1, "kind": 1,
}  # fmt: skip
NOT_A_CLASS = frozenset(("id", "number", "score", "time", "count", "code", "level", "date", "index", "prob"))
BENIGN = re.compile(r"normal|benign|legit|background|clean|good|harmless", re.IGNORECASE)
ATTACK = re.compile(
    r"attack|dos|scan|probe|flood|bot|mirai|brute|inject|spoof|mitm|malware|malicious|backdoor|exploit|fuzz|recon|worm"
    r"|shellcode|xss|sql|ransom|r2l|u2r|infiltr|heartbleed|theft|c&c|torii|okiru|phish|anomal|sweep|neptune|smurf"
    r"|satan|saint|teardrop|guess_passwd|rootkit|hijack|sniff|password|slowloris|hulk|intrusion|exfil|sybil|analysis",
    re.IGNORECASE,
)
CLOSE = 1.5  # points between two columns of which neither is surely the label
STRONG = 5  # points of a name that says label by itself
MOST_CANDIDATES, MOST_VALUES_READ, MOST_TIED = 6, 200, 12
TIED = 0.2  # share of the errors of guessing the commonest class that another column saves


@dataclass(frozen=True)
class Candidate:
    """Column that may be the label: its points and the evidence in words."""

    column: Column
    points: float
    named: float
    told: str


def choose_label(connection: duckdb.DuckDBPyConnection, table: Table, sample: Sample) -> str:
    """Return the label column; UserError if none is named like one, two are close, or the best has too many values.

    Args:
        connection: DuckDB connection with the table `given`.
        table: The table.
        sample: Rows by which columns are measured.
    """
    named = {name: points for name in table.columns if (points := name_points(name)) > 0 and name != SOURCE_FILE}
    fitting = [name for name in named if FEWEST_CLASSES <= table.columns[name].distinct <= MOST_CLASSES]
    best = max(named, key=lambda name: named[name], default="")
    if best and best not in fitting and named[best] >= STRONG and all(named[name] < STRONG for name in fitting):
        raise UserError(_unfit(table, best))
    if not fitting:
        raise UserError(_none_named(table))
    nearest = sorted(fitting, key=lambda name: -named[name])[:MOST_CANDIDATES]
    judged = [_judged(connection, table, sample, name, named[name]) for name in nearest]
    judged = [one for one in judged if not _is_summary(connection, one, judged)]
    judged.sort(key=lambda one: -one.points)
    first, *others = judged
    if others and others[0].points > first.points - CLOSE:
        second = others[0]
        raise UserError(
            f"{table.shown} has two columns that may be the label: {first.column.name} ({first.told}) and "
            f"{second.column.name} ({second.told}); name the right one with --label."
        )
    return first.column.name


def name_points(column: str) -> float:
    """Return how much a column's name says that it is the label: 0 nothing, 6 surely."""
    words = words_of(column)
    joined = "".join(words)
    if joined in WHOLE_NAMES:
        return float(WHOLE_NAMES[joined])
    if not words or set(words) & OF_OTHERS:
        return 0.0
    points = float(max((WORDS[word] for word in words if word in WORDS), default=0))
    within = (value - 1.0 for word, value in WORDS.items() if len(word) > 4 and word in joined)
    points = points or max(within, default=0.0)
    return min(points, 1.0) if words[-1] in NOT_A_CLASS else points


def values_of(connection: duckdb.DuckDBPyConnection, column: str) -> list[str]:
    """Return the commonest values of a column as text, without blank ones."""
    cell = f"trim(CAST({identifier(column)} AS VARCHAR))"
    query = f"SELECT {cell} AS v FROM given WHERE v <> '' GROUP BY v ORDER BY count(*) DESC, v LIMIT {MOST_VALUES_READ}"
    return [row[0] for row in connection.execute(query).fetchall()]


def _judged(connection: duckdb.DuckDBPyConnection, table: Table, sample: Sample, name: str, named: float) -> Candidate:
    column, values = table.columns[name], values_of(connection, name)
    points, told = named, [f"{column.distinct} values such as {', '.join(value[:30] for value in values[:3])}"]
    words = [value for value in values if re.search(r"[A-Za-z]{3}", value)]
    if any(map(BENIGN.search, words)):
        points += 2
        told.append("with a word for normal traffic")
    if words and sum(ATTACK.search(value) is not None for value in words) >= 0.3 * len(words):
        points += 2
        told.append("with words for attacks")
    if name == [other for other in table.columns if other != SOURCE_FILE][-1]:
        points += 1
        told.append("the last column")
    if column.distinct > FEWEST_CLASSES:
        points += 1
    if tie := _tie(connection, table, sample, name):
        points += 1
        told.append(f"tied to {tie}")
    return Candidate(column, points, named, "; ".join(told))


def _tie(connection: duckdb.DuckDBPyConnection, table: Table, sample: Sample, name: str) -> str:
    """Return a numeric column whose values tell something of a candidate's, or an empty string."""
    others = [column for column in table.columns.values() if column.is_number and column.distinct > 2 and not
              name_points(column.name)]  # fmt: skip
    for column in others[:MOST_TIED]:
        share, commonest = purity(connection, sample, column.name, name)
        if share - commonest > TIED * (1 - commonest):
            return column.name
    return ""


def _is_summary(connection: duckdb.DuckDBPyConnection, one: Candidate, every: Sequence[Candidate]) -> bool:
    """Return True for a column of two values that follows from a finer candidate: attack or not, beside its kind."""
    if one.column.distinct > FEWEST_CLASSES:
        return False
    for other in every:
        if other.column.distinct > FEWEST_CLASSES and (other.named >= 3 or other.points > other.named + 2):
            pairs, finer, _ = label_pairs(connection, "given", other.column.name, one.column.name)
            if pairs == finer:
                return True
    return False


def _unfit(table: Table, best: str) -> str:
    number = table.columns[best].distinct
    values = f"{number:,} values" if number != 1 else "a single value"
    todo = (
        "map them to fewer in the file, or name another column with --label"
        if number > MOST_CLASSES
        else "give all files of the data set, for example by a glob, or name another column with --label"
    )
    return (
        f"{table.shown}: column {best} is named like the label and has {values}; a data set has {FEWEST_CLASSES} to "
        f"{MOST_CLASSES} classes: {todo}."
    )


def _none_named(table: Table) -> str:
    fitting = [
        name for name, column in table.columns.items()
        if FEWEST_CLASSES <= column.distinct <= MOST_CLASSES and name != SOURCE_FILE
    ]  # fmt: skip
    files = f", or take the name of each row's file with --label {SOURCE_FILE}" if len(table.report.files) > 1 else ""
    return (
        f"{table.shown} has no column of {FEWEST_CLASSES} to {MOST_CLASSES} values whose name says label; name it with "
        f"--label ({', '.join(fitting[-6:]) or 'no column has so few values'}){files}."
    )
