"""Raw table -> flows.parquet: derive features, validate every row, map labels, add the flow group."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import print_categories, text_sql
from iot_pipeline.flows.feature import Feature
from iot_pipeline.flows.losses import Reject, by_reason, class_losses, no_label, place, remedy, unread_classes
from iot_pipeline.flows.publisher import write_test_rows
from iot_pipeline.flows.serialise import values_text_sql
from iot_pipeline.flows.spec import MOST_CLASSES, DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, literal, number_sql, one, scan, write_query

BLANK = "({0} IS NULL OR trim({0}) = '')"
AS_GIVEN = "iot_as_given_"  # before the name of a category: its source column as it was read
LABEL_COPY = re.compile("label|class|attack|categor|traffic", re.IGNORECASE)


@dataclass(frozen=True)
class FlowsReport:
    """Row counts of a build: rows in = kept + rejected + left out (rows of classes this edition lacks)."""

    rows_in: int
    rows_kept: int
    rejected: dict[str, int]
    left_out: dict[str, int]
    rows_by_class: dict[str, int]
    distinct_groups: int
    warnings: list[str] = field(default_factory=list)  # classes that lose most of their rows, unknown labels

    def to_json(self) -> dict[str, Any]:
        """Return the report as a file holds it: without the key `warnings` if there are none."""
        return {key: value for key, value in asdict(self).items() if value or key != "warnings"}


def build_flows(
    spec: DatasetSpec,
    raw: Path,
    out: Path,
    max_rejected_share: float = 0.01,
    log: Callable[[str], None] | None = None,
    lost_lines: int = 0,
    test_rows: Path | None = None,
    words: Collection[str] | None = None,
) -> FlowsReport:
    """Write flows.parquet (row_id, features, label, flow_group, occurrence) from raw.parquet.

    `occurrence` numbers the rows of a flow group from 0, ordered by their exact values in spec order. Source order
    decides only between equal flows, so the representative of a group does not depend on the order of the rows.

    Rows with a missing, non-numeric, NaN or infinite value or an unknown label are rejected and counted by reason. Rows
    of a class that the spec declares absent are left out and counted separately. A class that loses more than half of
    its rows, and each unknown label, is told whatever the limit.

    Args:
        spec: Spec of the data set.
        raw: The raw table (raw.parquet).
        out: File to write.
        max_rejected_share: Limit for rejected rows and `lost_lines` together, as a share of all lines.
        log: Receives progress messages.
        lost_lines: Lines of the source that could not be read as rows.
        test_rows: File to write with the publisher's test rows (publisher.py); None to write none.
        words: Columns that expressions see as text, as in the training source; None: those that are text here.

    Raises:
        UserError: The limit is exceeded (names the most common reason and its first row), no row is left, a class
            loses all of its rows, or the publisher's test rows are wanted and cannot be told.
    """
    say = log or (lambda message: None)
    with connect(raw) as connection:
        found_words = word_columns(connection, spec, raw)
        texts = found_words if words is None else set(words)
        check_label_copies(connection, spec, raw)
        derive_features(connection, spec, raw, texts)
        rows_in, kept = one(connection, "SELECT count(*), count(*) FILTER (reason IS NULL) FROM derived")
        absent = "SELECT label, count(*) FROM derived WHERE reason = 'absent' GROUP BY label ORDER BY label"
        left_out = dict(connection.execute(absent).fetchall())
        find_rejects(connection, spec, texts)
        found = by_reason(connection)
        check_rejected(found, rows_in, lost_lines, max_rejected_share)
        rejected = {reason: rows for reason, rows, _, _ in found}
        say(f"{rows_in:,} rows read, {sum(rejected.values()):,} rejected; serialising distinct flows")
        if kept == 0:
            told = f"; most often: {place(found[0])}{remedy(found[0][0])}" if found else ""
            raise UserError(f"no row can be used for the classes of data set {spec.name}{told}.")
        warnings = class_losses(connection, spec.label_column) if rejected else []
        for sentence in warnings:
            say(sentence)
        write_flows(connection, spec, raw, out, test_rows)
        by_class = dict(connection.execute("SELECT label, count(*) FROM accepted GROUP BY label").fetchall())
        (groups,) = one(connection, "SELECT count(DISTINCT flow_group) FROM groups")
    rows_by_class = {name: by_class.get(name, 0) for name in spec.classes}
    if lost_lines and (told := unread_classes(rows_by_class, lost_lines)):
        warnings.append(told)
        say(told)
    return FlowsReport(rows_in, kept, rejected, left_out, rows_by_class, groups, warnings)


def check_rejected(found: Sequence[Reject], rows_in: int, lost_lines: int, most: float) -> None:
    """Raise UserError if too many rows are rejected.

    Args:
        found: Rejected rows by reason, the commonest first.
        rows_in: Rows of the table.
        lost_lines: Lines of the source that could not be read as rows.
        most: Limit for both together, as a share of all lines.
    """
    total = sum(rows for _, rows, _, _ in found)
    if total and total + lost_lines > most * (rows_in + lost_lines):
        before = f" and {lost_lines:,} lines of the source were no rows" if lost_lines else ""
        raise UserError(
            f"{total:,} of {rows_in:,} rows cannot be used{before}, more than the allowed {most:.2%}; most often: "
            f"{place(found[0])}{remedy(found[0][0])}."
        )


def write_flows(
    connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path, out: Path, test_rows: Path | None
) -> None:
    """Write flows.parquet from the table `derived`, which is dropped; create the tables `accepted` and `groups`.

    Args:
        connection: DuckDB connection with `derived`.
        spec: Spec of the data set.
        raw: The raw table.
        out: File to write.
        test_rows: File to write with the publisher's test rows; None to write none.
    """
    features = spec.feature_columns
    # Sort row numbers only, not whole rows.
    connection.execute("""
        CREATE TEMP VIEW numbered AS SELECT source_row, row_number() OVER (ORDER BY source_row) - 1 AS row_id
        FROM derived WHERE reason IS NULL""")
    connection.execute(f"""
        CREATE TEMP TABLE accepted AS
        SELECT row_id, {features}, label FROM derived JOIN numbered USING (source_row)""")
    if test_rows is not None:
        write_test_rows(connection, spec, raw, test_rows)
    connection.execute("DROP VIEW numbered; DROP TABLE derived")
    # Each distinct row is printed once; the join compares numbers, and equal numbers print the same.
    connection.execute(
        f"CREATE TEMP TABLE groups AS SELECT {features}, sha256({values_text_sql(spec)}) AS flow_group, "
        f"row_number() OVER (ORDER BY {features}) AS place FROM (SELECT DISTINCT {features} FROM accepted)"
    )
    query = f"""
        SELECT row_id, {features}, label, flow_group, CAST(row_number() OVER (
            PARTITION BY flow_group ORDER BY place, row_id) - 1 AS INTEGER) AS occurrence
        FROM accepted JOIN groups USING ({features}) ORDER BY row_id"""
    write_query(connection, query, out)


def derive_features(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path, words: set[str]) -> None:
    """Create the table `derived` and, with the raw cells of its rejected rows, the table `bad`.

    Columns of `derived`: source_row (1-based), source_label (empty for none), features, label, reason (NULL for a good
    row).

    Args:
        connection: DuckDB connection that may read `raw`.
        spec: Spec of the data set.
        raw: The raw table.
        words: Source columns that stay text.
    """
    create_featured(connection, spec, raw, words)
    labels = [row[0] for row in connection.execute("SELECT DISTINCT source_label FROM featured").fetchall()]
    known = [(text, spec.label_of(text)) for text in labels]
    cases = " ".join(f"WHEN {literal(text)} THEN {literal(name)}" for text, name in known if name is not None)
    mapped = f"CASE source_label {cases} END" if cases else "CAST(NULL AS VARCHAR)"
    absent = ", ".join(literal(name) for name in spec.absent_classes) or "''"
    finite = " AND ".join(usable_sql(feature, identifier(feature.name)) for feature in spec.features)
    # The exact reason is computed in `find_rejects`, for bad rows only: nearly all rows are good.
    connection.execute(
        f"CREATE TEMP TABLE derived AS SELECT *, {mapped} AS label, CASE "
        f"WHEN label IS NULL THEN 'label' WHEN label IN ({absent}) THEN 'absent' "
        f"WHEN coalesce({finite}, false) THEN NULL ELSE 'value' END AS reason "
        f"FROM featured"
    )
    connection.execute("DROP TABLE featured")
    print_categories(connection, spec, "derived")
    # Raw cells of rejected rows, for error messages.
    connection.execute(
        f"CREATE TEMP TABLE bad AS SELECT raw.* FROM (SELECT *, file_row_number + 1 AS source_row FROM "
        f"{scan(raw, ', file_row_number = true')}) raw SEMI JOIN "
        f"(SELECT source_row FROM derived WHERE reason IN ('label', 'value')) USING (source_row)"
    )


def create_featured(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path, words: set[str]) -> None:
    """Create the table `featured`: source_row, source_label and the features of each row of `raw`.

    Args:
        connection: DuckDB connection that may read `raw`.
        spec: Spec of the data set.
        raw: The raw table.
        words: Source columns that stay text.

    Raises:
        UserError: A feature expression fails.
    """
    used = list(dict.fromkeys(column for feature in spec.features for column in feature.source_columns))
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {scan(raw)}").fetchall()}
    cells = [
        f"{f'CAST({identifier(c)} AS VARCHAR)' if c in words else double_sql(identifier(c), kinds.get(c, ''))} "
        f"AS {identifier(c)}"
        for c in used
    ]
    # A category's own column stays as it is, whatever expressions see of it.
    cells += [
        f"{feature.sql} AS {identifier(f'{AS_GIVEN}{feature.name}')}"
        for feature in spec.features
        if feature.is_plain_category
    ]
    cells.append(f"{label_sql(connection, spec, raw)} AS source_label")
    try:
        connection.execute(
            f"CREATE TEMP TABLE cells AS SELECT file_row_number + 1 AS source_row, {', '.join(cells)} "
            f"FROM {scan(raw, ', file_row_number = true')}"
        )
        derived = ", ".join(derived_columns(connection, spec, words))
        connection.execute(f"CREATE TEMP TABLE featured AS SELECT source_row, source_label, {derived} FROM cells")
    except duckdb.Error as error:
        told = f" (text, not numbers: {', '.join(sorted(words))})" if words else ""
        raise UserError(
            f"a feature expression of data set {spec.name} fails: {str(error).splitlines()[0]}{told}"
        ) from error
    connection.execute("DROP TABLE cells")


def double_sql(cell: str, kind: str) -> str:
    """Return SQL for a column of this type as DOUBLE, NULL where it holds no number."""
    return number_sql(cell) if kind == "VARCHAR" else f"TRY_CAST({cell} AS DOUBLE)"


def label_sql(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path) -> str:
    """Return SQL for a row's label as text, which is empty where there is none: NULL, or NaN among numbers."""
    column = identifier(spec.label_column)
    ((_, kind, *_),) = connection.execute(f"DESCRIBE SELECT {column} FROM {scan(raw)}").fetchall()
    text = f"coalesce(CAST({column} AS VARCHAR), '')"
    return f"CASE WHEN isnan({column}) THEN '' ELSE {text} END" if kind in ("DOUBLE", "FLOAT") else text


def derived_columns(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, words: Collection[str] = ()) -> list[str]:
    """Return SQL for each feature over the table `cells`: a number, or the text of a category.

    `words`: columns of `cells` that are text.
    """
    texts = {feature.name for feature in spec.features if feature.expression is None and feature.name in words}
    given = {f.name: identifier(f"{AS_GIVEN}{f.name}") if f.is_plain_category else f.sql for f in spec.features}
    categories = ", ".join(given[name] for name in spec.category_names)
    kinds = (
        [row[1] for row in connection.execute(f"DESCRIBE SELECT {categories} FROM cells").fetchall()]
        if categories
        else []
    )
    kind_of = dict(zip(spec.category_names, kinds, strict=True))
    return [
        (
            text_sql(given[feature.name], kind_of[feature.name], feature.blank)
            if feature.is_category
            else double_sql(feature.sql, "VARCHAR" if feature.name in texts else "")
        )
        + f" AS {identifier(feature.name)}"
        for feature in spec.features
    ]


def usable_sql(feature: Feature, value: str) -> str:
    """Return SQL that is true if a derived value can be used: a finite number, or a category that is not blank."""
    return f"{value} IS NOT NULL" if feature.is_category else f"isfinite({value})"


def word_columns(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path) -> set[str]:
    """Return the text columns used in expressions where at least half of the non-empty cells are not numbers.

    An expression sees these as text (`"proto" = 'tcp'`) and any other column as numbers, with non-numeric cells as
    NULL.
    """
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {scan(raw)}").fetchall()}
    missing = [column for column in spec.source_columns if column not in kinds]
    if missing:
        raise UserError(f"{raw.name} lacks the columns {', '.join(missing[:8])} of data set {spec.name}.")
    used = {column for feature in spec.features if feature.expression is not None for column in feature.source_columns}
    texts = sorted(column for column in used if kinds[column] == "VARCHAR")
    if not texts:
        return set()
    tests = ", ".join(
        f"2 * count({number_sql(identifier(column))}) <= count(nullif(trim({identifier(column)}), '')) AND "
        f"count(nullif(trim({identifier(column)}), '')) > 0"
        for column in texts
    )
    found = one(connection, f"SELECT {tests} FROM {scan(raw)}")
    return {column for column, words in zip(texts, found, strict=True) if words}


def check_label_copies(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, raw: Path) -> None:
    """Refuse a feature that reads a copy of the label.

    A copy is a column named like a label that determines the label or follows from it. Example: Farm-Flow's `is_attack`
    beside its label `traffic`. Raises UserError.
    """
    for feature in spec.features:
        for column in filter(LABEL_COPY.search, feature.source_columns):
            pairs, labels, values = label_pairs(connection, scan(raw), spec.label_column, column)
            if labels > 1 and 1 < values <= MOST_CLASSES and pairs in (labels, values):
                raise UserError(
                    f"feature {feature.name} of data set {spec.name} reads {column}, which is the label "
                    f"{spec.label_column} in other words: a model would be told it. Remove the feature."
                )


def label_pairs(connection: duckdb.DuckDBPyConnection, table: str, label: str, column: str) -> tuple[int, int, int]:
    """Count the distinct (label, value) pairs, labels, and values of a column.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        label: Column of the labels.
        column: Column of the values.
    """
    pairs, labels, values = one(
        connection,
        f"SELECT count(*), count(DISTINCT l), count(DISTINCT v) FROM (SELECT DISTINCT {identifier(label)} AS l, "
        f"{identifier(column)} AS v FROM {table} WHERE l IS NOT NULL AND v IS NOT NULL)",
    )
    return pairs, labels, values


def find_rejects(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, words: set[str]) -> None:
    """Create the table `rejects`: source_row, label, source_label, reason in words, and the cell that is at fault."""
    blank, unknown = literal(no_label(spec.label_column)), literal(f"unknown label in {spec.label_column}")
    cases = [
        f"WHEN derived.reason = 'label' AND trim(derived.source_label) = '' THEN {blank}",
        f"WHEN derived.reason = 'label' THEN {unknown}",
    ]
    cells = ["WHEN derived.reason = 'label' THEN derived.source_label"]
    for feature in spec.features:
        value = f"derived.{identifier(feature.name)}"
        # A cell is at fault only where the feature has no value: coalesce("duration", 0) has one.
        unusable = f"NOT coalesce({usable_sql(feature, value)}, false)"
        for column in feature.source_columns:
            cell = f"CAST(bad.{identifier(column)} AS VARCHAR)"
            if feature.is_category:
                cases.append(
                    f"WHEN {value} IS NULL AND {BLANK.format(cell)} THEN {literal(f'missing value in {column}')}"
                )
                cells.append(f"WHEN {value} IS NULL THEN coalesce({cell}, '')")
                continue
            is_word = column in words and feature.expression is not None
            tests = {
                "missing value": BLANK.format(cell),
                "not a number": f"{number_sql(cell)} IS NULL",
                "NaN": f"isnan({number_sql(cell)})",
                "infinite": f"isinf({number_sql(cell)})",
            }
            for told, test in tests.items():
                if told == "missing value" or not is_word:
                    cases.append(f"WHEN {unusable} AND {test} THEN {literal(f'{told} in {column}')}")
            judged = value if is_word else number_sql(cell)
            cells.append(f"WHEN {unusable} AND NOT coalesce(isfinite({judged}), false) THEN {cell}")
        told = f"no {'value of' if feature.is_category else 'finite'} {feature.name}"
        cases.append(f"WHEN {unusable} THEN {literal(told)}")
    connection.execute(f"""
        CREATE TEMP TABLE rejects AS SELECT source_row, derived.label, derived.source_label,
            CASE {" ".join(cases)} END AS reason, CASE {" ".join(cells)} ELSE '' END AS cell
        FROM derived JOIN bad USING (source_row)""")
