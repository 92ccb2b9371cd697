"""Tables of an equal number of rows from a Parquet file, whatever its row groups."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def batches(path: Path, rows: int, skip: int = 0, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a file in tables of `rows` rows, the last with what is left.

    Args:
        path: Parquet file.
        rows: Rows of a table.
        skip: Row to begin with, a multiple of `rows`.
        columns: Columns to read; None for all.
    """
    waiting: pa.Table | None = None
    with pq.ParquetFile(path) as given:
        for batch in given.iter_batches(rows, columns=None if columns is None else list(columns)):
            part = pa.Table.from_batches([batch])
            if skip >= len(part) and waiting is None:
                skip -= len(part)
                continue
            part, skip = part.slice(skip), 0
            waiting = part if waiting is None else pa.concat_tables([waiting, part])
            while len(waiting) >= rows:
                yield waiting.slice(0, rows)
                waiting = waiting.slice(rows)
    if waiting is not None and len(waiting):
        yield waiting
