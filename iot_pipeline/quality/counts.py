"""Row counts of flows.parquet in one pass, shared by duplicates, conflicts and leakage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import connect

# Rows grouped at a time, which bounds memory for a table of any size.
ROWS_AT_ONCE = 1_000_000
TEXTS = ["flow_group", "label"]


@dataclass(frozen=True)
class FlowCounts:
    """Rows (n) per set of exact values and label, and per flow group and label.

    raw: raw_group (int64), label, n. text: flow_group, label, n, and occurrence and row_id of the representative row
    (lowest occurrence).
    """

    raw: pa.Table
    text: pa.Table


def count_flows(flows: Path, features: Sequence[str]) -> FlowCounts:
    """Count the rows of flows.parquet; without `features`, `raw` is by flow group too.

    Values are compared as numbers (-0.0 = 0.0, otherwise exact). Raises UserError if the file is missing.
    """
    if not flows.is_file():
        raise UserError(f"{flows} is missing; materialise the asset that makes it first")
    with pq.ParquetFile(flows, read_dictionary=TEXTS) as file:
        rows = max(file.metadata.num_rows, 1)
        parts, pieces = [], list(row_groups(file))
        kept = features if len(pieces) > 1 else []  # values are needed again only to compare pieces
        for groups in pieces:
            part = file.read_row_groups(groups, columns=[*features, *TEXTS, "occurrence", "row_id"])
            # One sort key for the rows of a group: by occurrence, then by row; always below rows squared.
            rank = part["occurrence"].to_numpy() * np.int64(rows) + part["row_id"].to_numpy()
            part = part.drop(["occurrence", "row_id"]).append_column("rank", pa.array(rank))
            # Merge bitwise equal rows first: that leaves a seventh to compare as numbers.
            keys = [*features, *TEXTS]
            part = part.unify_dictionaries().group_by(keys, use_threads=False)
            part = part.aggregate([("rank", "min"), ("rank", "count")]).rename_columns([*keys, "rank", "n"])
            parts.append(distinct(part, features, kept))
    # Merge rows that occur in several parts.
    whole = distinct(pa.concat_tables(parts), features) if len(parts) > 1 else parts[0]
    raw = whole.select(["raw_group", "label", "n"])
    text = distinct(whole, [])
    occurrence, row_id = np.divmod(text["rank"].to_numpy(), rows)
    text = text.append_column("occurrence", pa.array(occurrence)).append_column("row_id", pa.array(row_id))
    return FlowCounts(plain(raw), plain(text.select([*TEXTS, "n", "occurrence", "row_id"])))


def distinct(table: pa.Table, features: Sequence[str], kept: Sequence[str] = ()) -> pa.Table:
    """Merge rows with the same exact values and label: `n` is the sum, `rank` the minimum, `raw_group` is added.

    `table` has features, flow_group, label, rank, n. The result also has the features named in `kept`.
    """
    table = table.unify_dictionaries().combine_chunks()
    group, label = (np.asarray(table[name].chunk(0).indices, dtype=np.int64) for name in TEXTS)
    raw = numbered(table, features) if features else group
    code, keys = pd.factorize(raw * (label.max(initial=0) + 1) + label)
    first = first_of(code, len(keys))
    least = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(least, code, table["rank"].to_numpy())
    n = np.bincount(code, weights=table["n"].to_numpy(), minlength=len(keys)).astype(np.int64)
    found = table.select([*kept, *TEXTS]).take(pa.array(first))
    for name, column in (("rank", least), ("n", n), ("raw_group", raw[first])):
        found = found.append_column(name, pa.array(column))
    return found


def first_of(code: np.ndarray, codes: int) -> np.ndarray:
    """Return the position of the first row of each code 0 .. codes - 1, int64 [codes]."""
    first = np.empty(codes, dtype=np.int64)
    first[code[::-1]] = np.arange(len(code) - 1, -1, -1)
    return first


def plain(table: pa.Table) -> pa.Table:
    """Convert the dictionary-encoded text columns of a table to plain strings."""
    fields = [field.with_type(pa.string()) if field.name in TEXTS else field for field in table.schema]
    return table.cast(pa.schema(fields))


def row_groups(file: pq.ParquetFile) -> Iterator[list[int]]:
    """Yield batches of row-group numbers of a file, each batch with at least ROWS_AT_ONCE rows, except the last."""
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
    """Number the rows [n] so that equal features have equal numbers; whole keys are compared."""
    keys = table.select(list(features))
    for place, name in enumerate(features):  # Arrow distinguishes -0.0 from 0.0
        keys = keys.set_column(place, name, pa.array(keys[name].to_numpy() + 0.0))
    grouped = keys.append_column("place", pa.array(np.arange(len(table)))).group_by(list(features), use_threads=False)
    places = grouped.aggregate([("place", "list")])["place_list"].combine_chunks()
    number = np.empty(len(table), dtype=np.int64)
    number[places.flatten().to_numpy()] = places.value_parent_indices().to_numpy()
    return number


@contextmanager
def opened_counts(counts: FlowCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with the two tables as raw_labels and text_labels."""
    with connect() as connection:
        connection.register("raw_labels", counts.raw)
        connection.register("text_labels", counts.text)
        yield connection
