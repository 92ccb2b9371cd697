"""Ordered joins of wide Parquet files: DuckDB orders row numbers, and each file is read once, whatever its order.

DuckDB cannot sort 300,000 rows with their texts in 256 MB, and a query for each window of rows reads every file again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.flows.sql import connect, scan, write_query

WINDOW = 5_000  # rows joined at once: with flow texts, answers and their copies some 20 MB
MOST_FILES = 500  # open at once
READ_BUFFER = 1 << 20


def numbered(path: Path, columns: str, where: str = "true") -> str:
    """Return SQL for some columns of a Parquet file and the number of each row as `place`."""
    return f"(SELECT {columns}, file_row_number AS place FROM {scan(path, ', file_row_number = true')} WHERE {where})"


def ordered_join(query: str, *files: Path, **sources: tuple[Path, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of an ordered query in windows: a record batch, then a table of the matching rows of each source.

    `query` reads `files` and `sources` (file and columns of each); its column named like a source has the number of the
    row in that file, and NULL gives nulls.
    """
    with tempfile.TemporaryDirectory(prefix="iot_pipeline-") as folder:
        rows = Path(folder) / "rows.parquet"
        with connect(*files, *(path for path, _ in sources.values())) as connection:
            count = write_query(connection, query, rows)
        window = WINDOW * (1 + count // (WINDOW * MOST_FILES))
        with pq.ParquetFile(rows, buffer_size=READ_BUFFER) as file:
            found = [
                gather(path, columns, file.read([name])[name].fill_null(-1).to_numpy(), window)
                for name, (path, columns) in sources.items()
            ]
            if count:
                for parts in zip(file.iter_batches(window), *found, strict=True):
                    yield parts
                    pa.default_memory_pool().release_unused()  # Arrow keeps its buffers for reuse


def gather(path: Path, columns: Sequence[str], numbers: np.ndarray, window: int) -> Iterator[pa.Table]:
    """Yield rows of a Parquet file by their numbers, a window at a time; the file is read once.

    Args:
        path: Parquet file.
        columns: Columns to read.
        numbers: Row numbers, int [n]; -1 gives a row of nulls.
        window: Rows of each yielded table.
    """
    windows = [numbers[start : start + window] for start in range(0, len(numbers), window)]
    needed = [np.setdiff1d(some, [-1]) for some in windows]  # sorted and distinct
    with tempfile.TemporaryDirectory(prefix="iot_pipeline-") as folder:
        files = [f"{folder}/{place}" for place in range(len(windows))]
        with pq.ParquetFile(path, buffer_size=READ_BUFFER) as source, ExitStack() as stack:
            schema = pa.schema([source.schema_arrow.field(name) for name in columns])
            sinks = [stack.enter_context(pa.OSFile(file, "wb")) for file in files]
            writers = [stack.enter_context(pa.ipc.new_stream(sink, schema)) for sink in sinks]
            start = 0
            for batch in source.iter_batches(window, columns=list(columns)):
                for writer, rows in zip(writers, needed, strict=True):
                    first, stop = np.searchsorted(rows, (start, start + len(batch)))
                    if first < stop:
                        writer.write_batch(batch.select(columns).take(pa.array(rows[first:stop] - start)))
                start += len(batch)
        for file, rows, some in zip(files, needed, windows, strict=True):
            with pa.OSFile(file) as stored, pa.ipc.open_stream(stored) as reader:
                table = reader.read_all().combine_chunks()
            Path(file).unlink()
            yield table.take(pa.array(np.searchsorted(rows, some), mask=some < 0))
