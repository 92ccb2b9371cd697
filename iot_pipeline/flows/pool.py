"""Reading rows of the splits with their features: a stretch of the training order, the flows of one side.

Belongs here: joins of flows.parquet with order.parquet and records.parquet. Does not belong here: making them.
"""

from pathlib import Path

import pandas as pd

from iot_pipeline.flows.tables import connect


def training_rows(flows: Path, order: Path, start: int, stop: int) -> pd.DataFrame:
    """Rows at positions [start, stop) of the training order: position, row_id, flow_group, label, repeat, features."""
    query = """
        SELECT o.position, o.row_id, o.flow_group, o.label, o."repeat",
               f.* EXCLUDE (row_id, flow_group, label, occurrence)
        FROM read_parquet($order) o JOIN read_parquet($flows) f USING (row_id)
        WHERE o.position >= $start AND o.position < $stop ORDER BY o.position"""
    return _frame(query, order=str(order), flows=str(flows), start=start, stop=stop)


def distinct_flows(flows: Path, records: Path, side: str) -> pd.DataFrame:
    """The representative row of each distinct flow on one side: flow_group, row_id, features; by flow_group."""
    query = """
        SELECT r.flow_group, f.* EXCLUDE (flow_group, label, occurrence)
        FROM (SELECT DISTINCT flow_group, row_id FROM read_parquet($records) WHERE side = $side) r
        JOIN read_parquet($flows) f USING (row_id) ORDER BY r.flow_group"""
    return _frame(query, records=str(records), flows=str(flows), side=side)


def side_records(records: Path, side: str) -> pd.DataFrame:
    """Records (flow_group, label, rows, group_rows, row_id) of one side, by flow_group and label."""
    query = "SELECT * FROM read_parquet($records) WHERE side = $side ORDER BY flow_group, label"
    return _frame(query, records=str(records), side=side)


def labelled_flows(flows: Path, records: Path, side: str, most: int, seed: int) -> pd.DataFrame:
    """Up to `most` records of one side, drawn by a seeded hash: flow_group, label, row_id, features."""
    query = """
        SELECT r.flow_group, r.label, f.* EXCLUDE (flow_group, label, occurrence)
        FROM read_parquet($records) r JOIN read_parquet($flows) f USING (row_id)
        WHERE r.side = $side ORDER BY sha256($seed || r.flow_group || r.label) LIMIT $most"""
    return _frame(query, records=str(records), flows=str(flows), side=side, most=most, seed=str(seed))


def evaluation_groups(records: Path) -> set[str]:
    """Flow groups that no training text may have: those of validation, calibration and test."""
    query = "SELECT DISTINCT flow_group FROM read_parquet($records) WHERE side <> 'train'"
    return set(_frame(query, records=str(records))["flow_group"])


def pool_size(order: Path) -> int:
    """Rows in the training order."""
    return int(_frame("SELECT count(*) AS n FROM read_parquet($order)", order=str(order))["n"][0])


def _frame(query: str, **parameters: str | int) -> pd.DataFrame:
    with connect() as connection:
        return connection.execute(query, parameters).df()
