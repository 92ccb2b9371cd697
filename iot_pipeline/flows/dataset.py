"""Rows of the splits with features or texts: a range of the training order, or the flows of one side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import connect, literal, scan


def training_rows(flows: Path, order: Path, start: int, stop: int) -> pd.DataFrame:
    """Return the rows at positions [start, stop) of the training order.

    The result has position, row_id, flow_group, label, repeat and the features. Columns are read one at a time and
    equal texts share one object; a join in SQL takes three times the memory of the result.

    Args:
        flows: File of the flows.
        order: File of the training order.
        start: First position.
        stop: Position after the last.

    Raises:
        UserError: The order names a row that is not in `flows`.
    """
    wanted = [("position", ">=", start), ("position", "<", stop)]
    rows = pq.read_table(order, filters=wanted, read_dictionary=["flow_group", "label"]).sort_by("position")
    columns = {name: _values(rows[name]) for name in ("position", "row_id", "flow_group", "label", "repeat")}
    with pq.ParquetFile(flows) as file:
        found = pd.Index(file.read(["row_id"])["row_id"].to_numpy()).get_indexer(columns["row_id"])
        if (found < 0).any():
            raise UserError(f"{order} names rows that {flows} lacks; make flows and splits again.")
        for name in file.schema_arrow.names:
            if name not in ("row_id", "flow_group", "label", "occurrence"):
                columns[name] = _values(file.read([name])[name])[found]
    pa.default_memory_pool().release_unused()  # Arrow keeps its read buffers for reuse
    return pd.DataFrame(columns, copy=False)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as pandas would; equal texts of a dictionary column share one object."""
    if not pa.types.is_dictionary(column.type):
        return column.to_pandas().to_numpy()
    whole = column.unify_dictionaries()
    texts = np.array(whole.chunk(0).dictionary.to_pylist() if whole.num_chunks else [], dtype=object)
    return texts[np.concatenate([np.empty(0, np.int32), *(part.indices.to_numpy() for part in whole.chunks)])]


def distinct_flows(flows: Path, records: Path, side: str) -> pd.DataFrame:
    """Return the representative row of each distinct flow on one side: flow_group, row_id, features."""
    query = f"""
        SELECT r.flow_group, f.* EXCLUDE (flow_group, label, occurrence)
        FROM (SELECT DISTINCT flow_group, row_id FROM {scan(records)} WHERE side = $side) r
        JOIN {scan(flows)} f USING (row_id) ORDER BY r.flow_group"""
    return _frame(query, records, flows, side=side)


def side_records(records: Path, side: str) -> pd.DataFrame:
    """Return the records of one side (flow_group, label, rows, group_rows, row_id), by group and label."""
    query = f"SELECT * FROM {scan(records)} WHERE side = $side ORDER BY flow_group, label"
    return _frame(query, records, side=side)


def side_texts(texts: Path, records: Path, side: str) -> pd.DataFrame:
    """Return flow_group and text of each distinct flow on one side, by flow group."""
    query = f"""
        SELECT flow_group, text FROM {scan(texts)}
        SEMI JOIN (SELECT flow_group FROM {scan(records)} WHERE side = $side) USING (flow_group) ORDER BY flow_group"""
    return _frame(query, texts, records, side=side)


def stage_texts(texts: Path, order: Path, stop: int) -> pd.DataFrame:
    """Return flow_group and text of each distinct flow at positions [0, stop) of the training order, by flow group."""
    query = f"""
        SELECT flow_group, text FROM {scan(texts)}
        SEMI JOIN (SELECT flow_group FROM {scan(order)} WHERE position < $stop) USING (flow_group)
        ORDER BY flow_group"""
    return _frame(query, texts, order, stop=stop)


def evaluation_texts(texts: Path, records: Path) -> set[str]:
    """Return the SHA-256 of each text of validation, calibration and test, which no training text may equal."""
    query = f"""
        SELECT DISTINCT sha256(text) AS hash FROM {scan(texts)}
        SEMI JOIN (SELECT flow_group FROM {scan(records)} WHERE side <> 'train') USING (flow_group)"""
    return set(_frame(query, texts, records)["hash"])


def count_split_texts(texts: Path, records: Path, order: Path) -> dict[str, int]:
    """Count the texts that flows of several sides share, and the rows of the training order without a text."""
    with connect(texts, records, order) as connection:
        found = connection.execute(f"""
            SELECT (SELECT count(*) FROM (
                SELECT sha256(text) FROM {scan(texts)} JOIN {scan(records)} USING (flow_group)
                GROUP BY ALL HAVING count(DISTINCT side) > 1)),
            (SELECT count(*) FROM {scan(order)} ANTI JOIN {scan(texts)} USING (flow_group))""").fetchall()[0]
    return dict(zip(("on_two_sides", "rows_without_text"), found, strict=True))


@dataclass(frozen=True)
class Rows:
    """Rows of a track: a query for position, row_id, flow_group, label and repeat over one Parquet file."""

    query: str
    file: Path


def ordered_rows(order: Path, start: int, stop: int) -> Rows:
    """Return the rows at positions [start, stop) of the training order."""
    return Rows(f"SELECT * FROM {scan(order)} WHERE position >= {start} AND position < {stop}", order)


def sampled_rows(records: Path, side: str, most: int, seed: int) -> Rows:
    """Return records of one side, sampled and ordered by a seeded hash.

    Args:
        records: File of the evaluation split.
        side: Side of the split.
        most: Most records to return.
        seed: Seed of the hash.
    """
    query = f"""
        SELECT row_number() OVER (ORDER BY sha256('{seed}' || flow_group || label)) - 1 AS position,
            row_id, flow_group, label, CAST(0 AS INTEGER) AS repeat
        FROM {scan(records)} WHERE side = {literal(side)} ORDER BY position LIMIT {most}"""
    return Rows(query, records)


def with_texts(rows: Rows, texts: Path) -> pd.DataFrame:
    """Return some rows with their texts, by position, all in memory."""
    query = f"SELECT * FROM ({rows.query}) JOIN {scan(texts)} USING (flow_group) ORDER BY position"
    return _frame(query, rows.file, texts)


def pool_size(order: Path) -> int:
    """Count the rows of the training order."""
    return int(_frame(f"SELECT count(*) AS n FROM {scan(order)}", order)["n"][0])


def _frame(query: str, *files: Path, **parameters: str | int) -> pd.DataFrame:
    with connect(*files) as connection:
        return connection.execute(query, parameters).df()
