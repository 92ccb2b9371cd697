"""Parquet -> Parquet part, after a look at its metadata: a damaged or hostile file is refused before it is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import text_sql
from iot_pipeline.flows.reading.names import check_names, check_needed, column_names, copies_note, unclear_copies
from iot_pipeline.flows.reading.parts import settle_copies
from iot_pipeline.flows.reading.rules import Part, PlainFile
from iot_pipeline.flows.sql import identifier, scan, write_query

MAGIC = b"PAR1"
# Metadata of 2,000 columns in 1,000 row groups take some 200 MB; a file declares any number in four bytes.
MOST_METADATA = 256_000_000
# Equal values take no room in Parquet: 4 MB declared 600 million rows, 300 cells a byte. Tables of flows have up to 20
# cells a byte; ten million rows of 80 columns are 0.8 billion cells.
FREE_CELLS, MOST_CELLS_PER_BYTE, FEWEST_COLUMNS = 1_000_000_000, 50, 10


def read_parquet(given: PlainFile) -> Part:
    """Write one Parquet file as a part.

    Raises UserError if it is damaged, lacks a column, has no row, or holds more than a table of flows can.
    """
    connection, rules, name, plain, file, findings = given
    metadata = read_metadata(name, plain)
    schema = metadata.schema.to_arrow_schema()
    raw = list(schema.names)
    if wide := [field.name for field in schema if pa.types.is_decimal256(field.type)]:
        # DuckDB 1.5.6 reads 1.1e37 of such a column as 3.1e51.
        raise UserError(f"{name}: column {wide[0]!r} has decimals of more than 38 digits: write it as DOUBLE.")
    columns, copies = column_names(raw, rules.needed)
    check_names(name, columns)
    check_needed(name, columns, rules.needed, copies)
    aliases = ", ".join(map(identifier, columns))
    try:
        told = f"SELECT {cells_sql(schema, columns, rules.texts)} FROM {scan(plain)} AS given({aliases})"
        rows = write_query(connection, told, file)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise UserError(f"{name} cannot be read: it is damaged or does not follow the rules of its format.") from error
    if rows != metadata.num_rows:
        raise UserError(f"{name} is a damaged Parquet file: it declares {metadata.num_rows:,} rows and has {rows:,}.")
    if rows == 0:
        raise UserError(f"{name} has column names but no rows.")
    if copies:
        findings.note(copies_note(name, copies))
    settle_copies(connection, name, file, unclear_copies(raw, columns, copies), rules.needed)
    return Part(name, file, columns)


def cells_sql(schema: pa.Schema, columns: Sequence[str], texts: Collection[str]) -> str:
    """Return SQL for the cells of each row: fractions in a column of texts, as pandas has beside blanks, are words.

    Another file's 6 and this one's 6.0 are one value.

    Args:
        schema: Schema of the file.
        columns: Names of its columns.
        texts: Columns that are texts.
    """
    kinds = {
        column: "DECIMAL" if pa.types.is_decimal(field.type) else "DOUBLE"
        for column, field in zip(columns, schema, strict=True)
        if column in texts and (pa.types.is_floating(field.type) or pa.types.is_decimal(field.type))
    }
    words = (f"{text_sql(identifier(column), kind, None)} AS {identifier(column)}" for column, kind in kinds.items())
    return f"* REPLACE ({', '.join(words)})" if kinds else "*"


def read_metadata(name: str, plain: Path) -> pq.FileMetaData:
    """Read the metadata of a Parquet file; UserError if it is damaged or declares more than its bytes can hold."""
    size = plain.stat().st_size
    with plain.open("rb") as handle:
        handle.seek(max(0, size - 8))
        footer = handle.read(8)
    if footer[4:] == MAGIC and int.from_bytes(footer[:4], "little") > MOST_METADATA:
        raise UserError(f"{name} is no usable Parquet file: its metadata is larger than {MOST_METADATA // 10**6} MB.")
    try:
        metadata = pq.read_metadata(plain)
        cells = metadata.num_rows * max(metadata.num_columns, FEWEST_COLUMNS)
    except (pa.ArrowException, OSError, MemoryError) as error:
        told = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise UserError(f"{name} is a damaged Parquet file: {told}") from error
    if metadata.num_rows < 0 or (cells > FREE_CELLS and cells > MOST_CELLS_PER_BYTE * size):
        raise UserError(
            f"{name} declares {metadata.num_rows:,} rows in {size / 1e6:.1f} MB, more than a table of flows can hold: "
            "write it anew if it is yours."
        )
    return metadata
