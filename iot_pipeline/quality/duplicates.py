"""Duplicate rows: repeats of a flow already in the table, by exact values and by serialised text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import identifier, one, opened, records

LARGEST = 10  # groups that a report lists


@contextmanager
def opened_counts(flows: Path, spec: DatasetSpec) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with the tables raw_labels and text_labels; UserError if the file is missing.

    raw_labels: rows (n) by raw_group and label; a group has the same values (-0.0 = 0.0, otherwise exact).
    text_labels: rows (n) by flow_group and label, with occurrence and row_id of the representative row (lowest
    occurrence).
    """
    values = ", ".join(identifier(f.name) + ("" if f.is_category else " + 0.0") for f in spec.features)
    with opened(flows=flows) as connection:
        connection.execute(f"""
            CREATE TEMP TABLE raw_labels AS SELECT raw_group, entry.key AS label, entry.value::BIGINT AS n FROM (
                SELECT raw_group, unnest(map_entries(counts)) AS entry FROM (
                    SELECT row_number() OVER () AS raw_group, counts
                    FROM (SELECT histogram(label) AS counts FROM flows GROUP BY {values})))""")
        connection.execute("""
            CREATE TEMP TABLE text_labels AS
            SELECT flow_group, label, count(*) AS n, min(occurrence) AS occurrence,
                arg_min(row_id, occurrence) AS row_id
            FROM flows GROUP BY ALL""")
        yield connection


def dedup_report(flows: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Count duplicate rows of flows.parquet: rows whose values already occurred; by class, within that class.

    Returns {rows, raw, text, by_class, largest_groups, group_sizes, published}; `raw` compares exact feature values,
    `text` flow groups. Shares are 0 to 1.
    """
    with opened_counts(flows, spec) as connection:
        total = int(one(connection, "SELECT coalesce(sum(n), 0)::BIGINT FROM text_labels")[0])
        return {
            "rows": total,
            "raw": _overall(connection, "raw_labels", "raw_group", total),
            "text": _overall(connection, "text_labels", "flow_group", total),
            "by_class": _by_class(connection, spec),
            "largest_groups": _largest(connection),
            "group_sizes": _sizes(connection),
            "published": spec.facts.get("duplicates", {}),
        }


def _overall(connection: duckdb.DuckDBPyConnection, table: str, key: str, total: int) -> dict[str, Any]:
    (distinct,) = one(connection, f"SELECT count(DISTINCT {key}) FROM {table}")
    share = (total - distinct) / total if total else 0.0
    return {"distinct": distinct, "duplicate_rows": total - distinct, "duplicate_share": share}


def _by_class(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec) -> dict[str, Any]:
    found = records(
        connection,
        """SELECT label, rows, distinct_raw, distinct_text, 1 - distinct_raw / rows AS duplicate_share_raw,
            1 - distinct_text / rows AS duplicate_share_text
        FROM (SELECT label, sum(n)::BIGINT AS rows, count(*) AS distinct_raw FROM raw_labels GROUP BY label)
        JOIN (SELECT label, count(*) AS distinct_text FROM text_labels GROUP BY label) USING (label)""",
    )
    known = {row.pop("label"): row for row in found}
    published = spec.facts.get("duplicates", {}).get("by_class", {})
    return {label: known[label] | {"published_share": published.get(label)} for label in spec.classes if label in known}


def _largest(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """List the flow groups with the most rows, with the rows of each label and the representative's row id."""
    found = records(
        connection,
        f"""WITH top AS (
            SELECT flow_group, sum(n)::BIGINT AS rows, arg_min(row_id, occurrence) AS row_id
            FROM text_labels GROUP BY flow_group ORDER BY rows DESC, flow_group LIMIT {LARGEST})
        SELECT flow_group, top.rows, map_from_entries(list((label, n) ORDER BY label)) AS labels, top.row_id
        FROM top JOIN text_labels USING (flow_group) GROUP BY ALL ORDER BY top.rows DESC, flow_group""",
    )
    for group in found:
        group["labels"] = dict(group["labels"])
    return found


def _sizes(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return a histogram of flow-group sizes in powers of two: `from` <= size < 2 * from."""
    return records(
        connection,
        """SELECT (2 ** floor(log2(size)))::BIGINT AS "from", count(*) AS groups, sum(size)::BIGINT AS rows
        FROM (SELECT sum(n)::BIGINT AS size FROM text_labels GROUP BY flow_group) GROUP BY 1 ORDER BY 1""",
    )
