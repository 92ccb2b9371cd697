"""The one pass over flows.parquet that duplicates, conflicts and leakage are counted from.

Belongs here: the exact grouping of rows. Does not belong here: what the groups say (duplicates.py, conflicts.py,
leakage.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError

# Rows grouped at a time: bounds the memory, whatever the size of the table.
ROWS_AT_ONCE = 1_000_000
TEXTS = ["flow_group", "label"]


@dataclass(frozen=True)
class FlowCounts:
    """Rows (n) of each set of exact values and label, and of each flow group and label.

    raw: raw_group (int64, from 0), label, n. text: flow_group, label, n, row_id (the first).
    """

    raw: pa.Table
    text: pa.Table


def count_flows(flows: Path, features: Sequence[str]) -> FlowCounts:
    """Count the rows of flows.parquet; without `features`, `raw` knows one set of values.

    Values are equal as numbers are (-0.0 = 0.0, exact otherwise); Arrow compares whole keys behind its hashes, so no
    collision can merge two flows. UserError if the file is missing.
    """
    if not flows.is_file():
        raise UserError(f"{flows} is missing; materialise the asset that makes it first")
    keys = [*features, *TEXTS]
    parts = []
    with pq.ParquetFile(flows, read_dictionary=TEXTS) as file:
        for groups in row_groups(file):
            part = file.read_row_groups(groups, columns=[*keys, "row_id"]).unify_dictionaries().combine_chunks()
            found = part.group_by(keys, use_threads=False).aggregate([("row_id", "count"), ("row_id", "min")])
            parts.append(found.rename_columns([*keys, "n", "row_id"]))
    whole = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    # Only now, that the table is small: -0.0 becomes 0.0, and what the parts have in common becomes one.
    for place, name in enumerate(features):
        whole = whole.set_column(place, name, pa.array(whole[name].to_numpy() + 0.0))
    whole = whole.append_column("raw_group", pa.array(numbered(whole, features)))
    raw = whole.group_by(["raw_group", "label"], use_threads=False).aggregate([("n", "sum")])
    text = whole.group_by(TEXTS, use_threads=False).aggregate([("n", "sum"), ("row_id", "min")])
    return FlowCounts(
        plain(raw.rename_columns(["raw_group", "label", "n"])), plain(text.rename_columns([*TEXTS, "n", "row_id"]))
    )


def plain(table: pa.Table) -> pa.Table:
    """The table with its texts as texts, no longer dictionary-coded."""
    fields = [field.with_type(pa.string()) if field.name in TEXTS else field for field in table.schema]
    return table.cast(pa.schema(fields))


def row_groups(file: pq.ParquetFile) -> Iterator[list[int]]:
    """Numbers of the row groups of a file, as many at a time as hold ROWS_AT_ONCE rows."""
    waiting: list[int] = []
    rows = 0
    for group in range(file.num_row_groups):
        waiting.append(group)
        rows += file.metadata.row_group(group).num_rows
        if rows >= ROWS_AT_ONCE:
            yield waiting
            waiting, rows = [], 0
    if waiting or file.num_row_groups == 0:
        yield waiting


def numbered(table: pa.Table, features: Sequence[str]) -> np.ndarray:
    """A number for each row [n], the same for rows whose features are the same."""
    if not features:
        return np.zeros(len(table), dtype=np.int64)
    placed = table.select(list(features)).append_column("place", pa.array(np.arange(len(table))))
    grouped = placed.group_by(list(features), use_threads=False).aggregate([("place", "list")])
    places = grouped["place_list"].combine_chunks()
    numbers = np.empty(len(table), dtype=np.int64)
    numbers[places.flatten().to_numpy()] = places.value_parent_indices().to_numpy()
    return numbers


@contextmanager
def opened_counts(counts: FlowCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """In-memory DuckDB that has the two tables as raw_labels and text_labels."""
    with duckdb.connect() as connection:
        connection.register("raw_labels", counts.raw)
        connection.register("text_labels", counts.text)
        yield connection
