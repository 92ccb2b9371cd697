"""Duplicate rows: repeats of a flow already in the table, by exact values and by serialised text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import one, records
from iot_pipeline.quality.counts import FlowCounts, count_flows, opened_counts


def dedup_report(flows: Path, spec: DatasetSpec, counts: FlowCounts | None = None) -> dict[str, Any]:
    """Count duplicate rows of flows.parquet: rows whose values already occurred; by class, within that class.

    Returns {rows, raw, text, by_class, largest_groups, group_sizes, published}; `raw` compares exact feature values,
    `text` flow groups. Shares are 0 to 1. `counts`: result of `count_flows` on the same file.
    """
    with opened_counts(count_flows(flows, spec.feature_names) if counts is None else counts) as connection:
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
    distinct = int(one(connection, f"SELECT count(DISTINCT {key}) FROM {table}")[0])
    return {
        "distinct": distinct,
        "duplicate_rows": total - distinct,
        "duplicate_share": (total - distinct) / total if total else 0.0,
    }


def _by_class(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec) -> dict[str, Any]:
    query = "SELECT label, count(*)::BIGINT, sum(n)::BIGINT FROM {} GROUP BY label"
    raw = {label: (distinct, n) for label, distinct, n in connection.execute(query.format("raw_labels")).fetchall()}
    text = {label: distinct for label, distinct, _ in connection.execute(query.format("text_labels")).fetchall()}
    published = spec.facts.get("duplicates", {}).get("by_class", {})
    return {
        label: {
            "rows": raw[label][1],
            "distinct_raw": raw[label][0],
            "distinct_text": text[label],
            "duplicate_share_raw": 1 - raw[label][0] / raw[label][1],
            "duplicate_share_text": 1 - text[label] / raw[label][1],
            "published_share": published.get(label),
        }
        for label in spec.classes
        if label in raw
    }


def _largest(connection: duckdb.DuckDBPyConnection, count: int = 10) -> list[dict[str, Any]]:
    """List the flow groups with the most rows, with the rows of each label and the representative's row id."""
    found = records(
        connection,
        f"""WITH top AS (
            SELECT flow_group, sum(n)::BIGINT AS rows, arg_min(row_id, occurrence) AS row_id
            FROM text_labels GROUP BY flow_group ORDER BY rows DESC, flow_group LIMIT {count})
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
