"""CSV -> Parquet part: every column as text, lines that are no rows counted, repeated headers left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.csv_lines import count_lines
from iot_pipeline.flows.reading.header import MAX_HEADER_BYTES, NAMELESS, Header, first_repeat, read_header
from iot_pipeline.flows.reading.names import check_names, check_needed, column_names, copies_note, unclear_copies
from iot_pipeline.flows.reading.parts import settle_copies
from iot_pipeline.flows.reading.rejects import cause, rejected_lines
from iot_pipeline.flows.reading.rules import BLANK_ROW, REPEATED_HEADER, Part, PlainFile
from iot_pipeline.flows.sql import file_literal, identifier, literal, one, scan, write_query


def read_csv(given: PlainFile) -> Part:
    """Write one CSV as Parquet.

    Raises UserError if the file is no CSV, lacks a column, has no valid row, or lines are unaccounted for.
    """
    connection, rules, name, plain, file, findings = given
    header = read_header(name, plain, rules.needed, rules.column_names)
    columns, copies = column_names(header.raw_names, rules.needed)
    check_names(name, columns)
    check_needed(name, columns, rules.needed, copies)
    lines = count_lines(name, plain, header.delimiter, header.skip + header.present)
    rows = write_rows(connection, name, plain, file, header, columns)
    lost = rejected_lines(connection, name, file.stem)
    if lines is not None and rows + lost.number != lines:
        raise UserError(
            f"{name} has {lines:,} lines after its header, of which {rows:,} were read and {lost.number:,} rejected: "
            "write the file anew with one line a row."
        )
    repeats, changed = drop_repeats(connection, file, columns, header.raw_names) if header.present else (0, 0)
    if changed:
        line = first_repeat(plain, header, changed=True)
        raise UserError(f"{name}, line {line}, begins a table with another header: give it as a file of its own.")
    if repeats:
        findings.left_out[REPEATED_HEADER] += repeats
        line = first_repeat(plain, header)
        findings.note(f"{name}, line {line}, repeats the header: {repeats:,} such lines are left out.")
    blank = drop_blank(connection, file, columns) if rules.label or not rules.needed else 0
    if blank:
        findings.left_out[BLANK_ROW] += blank
        findings.note(f"{name}: {blank:,} lines in which {BLANK_ROW} are left out.")
    if rows == repeats + blank:
        if lost.number:
            raise UserError(f"{name} has no row: all of its {lost.number:,} lines are rejected; {lost.commonest()}")
        raise UserError(f"{name} has column names but no rows.")
    findings.lost.include(lost)
    if copies:
        findings.note(copies_note(name, copies))
    settle_copies(connection, name, file, unclear_copies(header.raw_names, columns, copies), rules.needed)
    return Part(name, file, columns)


def write_rows(
    connection: duckdb.DuckDBPyConnection, name: str, plain: Path, file: Path, header: Header, columns: Sequence[str]
) -> int:
    """Write the rows of a CSV as text; return their number.

    Args:
        connection: DuckDB connection.
        name: Display name for messages.
        plain: The CSV, in UTF-8.
        file: Parquet file to write; the rejects table is named after it.
        header: Its header.
        columns: Names of the columns.

    Raises:
        UserError: The file is damaged.
    """
    kinds = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    query = (
        f"SELECT * FROM read_csv({file_literal(plain)}, auto_detect = false, header = {str(header.present).lower()}, "
        f"skip = {header.skip}, delim = {literal(header.delimiter)}, quote = '\"', escape = '\"', "
        f"columns = {{{kinds}}}, max_line_size = {MAX_HEADER_BYTES}, store_rejects = true, "
        f"rejects_table = {literal(file.stem + '_rejects')}, rejects_scan = {literal(file.stem + '_scans')})"
    )
    try:
        return write_query(connection, query, file)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        line = re.search(r"Line: (\d+)", str(error))
        place = f", line {line[1]}," if line else ""
        raise UserError(f"{name}{place} cannot be read: {cause(error)}") from error


def drop_repeats(
    connection: duckdb.DuckDBPyConnection, file: Path, columns: Sequence[str], raw_names: Sequence[str]
) -> tuple[int, int]:
    """Remove the rows of a part that repeat the header; return their number, and that of other headers.

    Another header is a row most of whose cells are names of columns: the rows behind it have another order. The first
    and the last column tell in nearly every file that there is none.

    Args:
        connection: DuckDB connection.
        file: The part.
        columns: Its columns.
        raw_names: Names as they stand in the header.
    """
    pairs = [(column, raw.lower()) for column, raw in zip(columns, raw_names, strict=True)]
    named = [(column, raw) for column, raw in pairs if not raw.startswith(NAMELESS.lower())]
    if not named:
        return 0, 0
    names = ", ".join(literal(raw) for _, raw in named)
    told = " OR ".join(f"{_name(column)} IN ({names})" for column in dict.fromkeys((named[0][0], named[-1][0])))
    if one(connection, f"SELECT count(*) FROM {scan(file)} WHERE {told}") == (0,):
        return 0, 0
    same = " AND ".join(f"{_name(column)} = {literal(raw)}" for column, raw in named)
    known = " + ".join(f"CAST({_name(column)} IN ({names}) AS INT)" for column, _ in named)
    repeats, changed = one(
        connection,
        f"SELECT count(*) FILTER ({same}), count(*) FILTER (NOT ({same}) AND 2 * ({known}) > {len(named)}) "
        f"FROM {scan(file)} WHERE {told}",
    )
    if repeats and not changed:
        kept = file.with_name(f"{file.stem}_kept.parquet")
        write_query(connection, f"SELECT * FROM {scan(file)} WHERE NOT ({same})", kept)
        kept.replace(file)
    return int(repeats), int(changed)


def drop_blank(connection: duckdb.DuckDBPyConnection, file: Path, columns: Sequence[str]) -> int:
    """Remove the rows of a part that have no cell, as a sheet saves its empty lines (`,,,,`); return their number.

    Only where the rows have labels: flows that are to be classified are answered line by line.
    """
    blank = " AND ".join(f"{identifier(column)} IS NULL" for column in columns)
    (rows,) = one(connection, f"SELECT count(*) FROM {scan(file)} WHERE {blank}")
    if rows:
        kept = file.with_name(f"{file.stem}_filled.parquet")
        write_query(connection, f"SELECT * FROM {scan(file)} WHERE NOT ({blank})", kept)
        kept.replace(file)
    return int(rows)


def _name(column: str) -> str:
    """Return SQL for a cell as a name is compared: a header that was appended with its file may have a mark."""
    return f"coalesce(lower(trim(ltrim({identifier(column)}, chr(65279)))), '')"
