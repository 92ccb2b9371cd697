"""Label conflicts: flows with equal text but different labels, and the accuracy ceiling that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import literal, records
from iot_pipeline.quality.duplicates import LARGEST, opened_counts


def label_conflicts(flows: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Report groups with more than one label in flows.parquet, which classes they confuse, and exact ceilings.

    Returns {rows, classes, text, raw, matrix, pairs, ceilings, by_class, largest}. `matrix[i][j]` (in the order of
    `classes`): rows of class i in conflicting flow groups whose majority label is j (ties: the first by name, as in the
    split), so no function of the flow text can classify the rows off the diagonal correctly. Ceilings: `row` over rows,
    `distinct` over distinct flows, `clean` over flows with one label.
    """
    with opened_counts(flows, spec) as connection:
        classes = ", ".join(f"({position}, {literal(name)})" for position, name in enumerate(spec.classes))
        connection.execute(f"CREATE TEMP TABLE classes AS FROM (VALUES {classes}) t(place, label)")
        text = _summary(connection, "text_labels", "flow_group")
        raw = _summary(connection, "raw_labels", "raw_group")
        connection.execute(
            """CREATE TEMP TABLE conflict AS
            SELECT flow_group, label, place, n, sum(n) OVER g AS size,
                first(label) OVER (PARTITION BY flow_group ORDER BY n DESC, label) AS majority
            FROM text_labels JOIN classes USING (label)
            WINDOW g AS (PARTITION BY flow_group) QUALIFY count(*) OVER g > 1"""
        )
        index = {name: position for position, name in enumerate(spec.classes)}
        matrix = [[0] * len(index) for _ in index]
        for cell in records(
            connection, "SELECT label, majority, sum(n)::BIGINT AS n FROM conflict GROUP BY label, majority"
        ):
            matrix[index[cell["label"]]][index[cell["majority"]]] = cell["n"]
        return {
            "rows": text["rows"],
            "classes": list(spec.classes),
            "text": text,
            "raw": raw,
            "matrix": matrix,
            "pairs": _pairs(connection),
            "by_class": _by_class(connection, spec),
            "ceilings": {
                "row": text["row_ceiling"],
                "distinct": text["distinct_ceiling"],
                "clean": 1.0 if text["groups"] > text["conflicting_groups"] else None,
            },
            "largest": _largest(connection),
        }


def _summary(connection: duckdb.DuckDBPyConnection, table: str, key: str) -> dict[str, Any]:
    return records(
        connection,
        f"""SELECT groups, conflicting_groups, rows, conflicting_rows, rows - best AS unavoidable_errors,
            best / rows AS row_ceiling, distinct_ceiling
        FROM (SELECT count(*) AS groups, count(*) FILTER (labels > 1) AS conflicting_groups,
                sum(size)::BIGINT AS rows, coalesce(sum(size) FILTER (labels > 1), 0)::BIGINT AS conflicting_rows,
                sum(best)::BIGINT AS best, avg(best / size) AS distinct_ceiling
            FROM (SELECT count(*) AS labels, sum(n) AS size, max(n) AS best FROM {table} GROUP BY {key}))""",
    )[0]


def _pairs(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """List pairs of classes that share flow groups: number of groups, and the rows of each class in them."""
    return records(
        connection,
        """SELECT a.label AS first, b.label AS second, count(*) AS groups,
            sum(a.n)::BIGINT AS first_rows, sum(b.n)::BIGINT AS second_rows
        FROM conflict a JOIN conflict b ON a.flow_group = b.flow_group AND a.place < b.place
        GROUP BY ALL ORDER BY sum(least(a.n, b.n)) DESC, first, second""",
    )


def _by_class(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec) -> dict[str, Any]:
    found = records(
        connection,
        """SELECT label, rows, conflicting_rows, conflicting_rows / rows AS conflicting_share, outvoted_rows
        FROM (SELECT t.label, sum(t.n)::BIGINT AS rows, coalesce(sum(c.n), 0)::BIGINT AS conflicting_rows,
                coalesce(sum(c.n) FILTER (c.majority <> c.label), 0)::BIGINT AS outvoted_rows
            FROM text_labels t LEFT JOIN conflict c USING (flow_group, label) GROUP BY t.label)""",
    )
    known = {row.pop("label"): row for row in found}
    return {label: known[label] for label in spec.classes if label in known}


def _largest(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """List the conflicting flow groups with the most rows that no function of the text can classify correctly."""
    found = records(
        connection,
        f"""SELECT flow_group, size::BIGINT AS rows, any_value(majority) AS majority,
            map_from_entries(list((label, n) ORDER BY place)) AS labels
        FROM conflict GROUP BY flow_group, size
        ORDER BY size - max(n) DESC, flow_group LIMIT {LARGEST}""",
    )
    for group in found:
        group["labels"] = dict(group["labels"])
    return found
