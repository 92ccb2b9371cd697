"""Zeek logs -> Parquet parts: tab-separated with `#` headers, as rotated, concatenated or labelled by IoT-23.

Types come from `#types`. An unset number is empty, so that a data set's file says what it means, as in
`coalesce("duration", 0)`; an unset word stays `-`. IoT-23 separates its last three fields by blanks.
"""

from __future__ import annotations

import os
import re
import shutil
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.csv_lines import count_lines
from iot_pipeline.flows.reading.encodings import first_text
from iot_pipeline.flows.reading.header import MAX_HEADER_BYTES
from iot_pipeline.flows.reading.names import check_names, column_names, copies_note
from iot_pipeline.flows.reading.rejects import cause, rejected_lines
from iot_pipeline.flows.reading.rules import Part, PlainFile
from iot_pipeline.flows.sql import file_literal, identifier, literal, write_query

UNSET = "-"
NUMBER_TYPES = {"time", "interval", "count", "int", "double", "port"}
MOST_HEADER_LINES = 100
BLANKS = re.compile(r" +")
CHUNK = 1 << 20


@dataclass(frozen=True)
class LogHeader:
    """Header of a Zeek log.

    Attributes:
        path: Kind of log, such as conn.
        fields: Names of the fields.
        types: Type of each field.
        separator: Separator of fields.
        unset: Text of an unset field.
        lines: Header lines.
        blanks: Blanks that separate some of the fields instead of the separator; empty if none do.
    """

    path: str
    fields: list[str]
    types: list[str]
    separator: str
    unset: str
    lines: int
    blanks: str


def is_zeek(plain: Path) -> bool:
    """Return whether a file begins like a Zeek log with `#` headers."""
    start = first_text(plain)
    return start.startswith("#separator") or (start.startswith("#") and "\n#fields" in "\n" + start)


def read_log_header(name: str, plain: Path) -> LogHeader:
    """Read the `#` lines at the beginning of a log; UserError without `#fields`, or with types that do not fit."""
    separator, unset, path = "\t", UNSET, ""
    fields: list[str] = []
    types: list[str] = []
    lines, blanks = 0, ""
    with plain.open("rb") as handle:
        if handle.read(len(BOM_UTF8)) != BOM_UTF8:
            handle.seek(0)
        while (raw := handle.readline(MAX_HEADER_BYTES)).startswith(b"#") and lines < MOST_HEADER_LINES:
            lines += 1
            text = raw.decode(errors="replace").rstrip("\r\n")
            if text.startswith("#separator"):
                separator = unescape(text[len("#separator") :].strip(" ")) or "\t"
                continue
            key, *values = text.split(separator)
            if key == "#unset_field" and values:
                unset = values[0]
            elif key == "#path" and values:
                path = values[0]
            elif key == "#fields":
                fields, blanks = split_blanks(values)
            elif key == "#types":
                types, _ = split_blanks(values)
    if not fields:
        raise UserError(f"{name} is a Zeek log without a #fields line: give the log with its header.")
    if types and len(types) != len(fields):
        raise UserError(f"{name} is a Zeek log whose #types line has {len(types)} types for {len(fields)} fields.")
    following = raw.decode(errors="replace").rstrip("\r\n")
    # Some editions have tabs in the rows where the header has blanks.
    rows_have_blanks = following.count(separator) + 1 < len(fields)
    return LogHeader(
        path, fields, types or ["string"] * len(fields), separator, unset, lines, blanks * rows_have_blanks
    )


def split_blanks(values: Sequence[str]) -> tuple[list[str], str]:
    """Split header values that contain blanks; return all values and the longest blanks found."""
    blanks = [found for value in values for found in BLANKS.findall(value.strip())]
    return [part for value in values for part in BLANKS.split(value.strip()) if part], max(blanks, default="")


def unescape(text: str) -> str:
    r"""Return a separator as written in a log: `\x09` is a tab."""
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)


def read_zeek(given: PlainFile) -> Part:
    """Write one Zeek log as a part.

    Raises UserError if the log is damaged, has no row, or several headers that differ.
    """
    connection, rules, name, plain, file, findings = given
    header = read_log_header(name, plain)
    fields, copies = column_names(header.fields, rules.needed)
    header = replace(header, fields=fields)
    check_names(name, fields)
    plain, cut = without_cut_line(plain, file.with_suffix(".whole"))
    comments = check_comments(name, plain, header)
    if header.blanks:
        plain = tabs_for_blanks(plain, file.with_suffix(".tabs"), header)
    lines = count_lines(name, plain, "\0", header.lines, quoted=False)
    rows = write_rows(connection, name, plain, file, header)
    lost = rejected_lines(connection, name, file.stem, comment="#")
    if rows + lost.number + comments != lines:
        raise UserError(
            f"{name} has {lines:,} lines after its header, of which {rows:,} were read, {comments:,} are comments and "
            f"{lost.number:,} rejected: write the log anew."
        )
    if cut is not None:
        lost.add(name, cut, "the line has no end")
    if rows == 0:
        raise UserError(f"{name} is a Zeek log without a row" + (f"; {lost.commonest()}" if lost.number else "."))
    findings.lost.include(lost)
    if copies:
        findings.note(copies_note(name, copies))
    texts = frozenset(f for f, kind in zip(header.fields, header.types, strict=True) if kind not in NUMBER_TYPES)
    return Part(name, file, header.fields, header.path or "zeek", texts)


def without_cut_line(plain: Path, copy: Path) -> tuple[Path, int | None]:
    """Return a log without a last line that has no end, and the number of that line, which is lost.

    Zeek ends every line: of such a line a number may lack digits, as where a log was copied while it grew.
    `copy`: file to write if need be.
    """
    with plain.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - MAX_HEADER_BYTES))
        end = handle.read()
    rest = end.rpartition(b"\n")[2]
    if not rest.strip() or rest.startswith(b"#") or len(rest) == len(end):
        return plain, None
    with plain.open("rb") as incoming, copy.open("wb") as outgoing:
        shutil.copyfileobj(incoming, outgoing)
        outgoing.truncate(size - len(rest))
    with copy.open("rb") as handle:
        line = sum(chunk.count(b"\n") for chunk in iter(lambda: handle.read(CHUNK), b"")) + 1
    return copy, line


def check_comments(name: str, plain: Path, header: LogHeader) -> int:
    """Count the `#` lines after the header; UserError if one changes how rows are read.

    Args:
        name: Display name for messages.
        plain: The log.
        header: Its first header.
    """
    count, number = 0, header.lines
    with plain.open("rb") as handle:
        for _ in range(header.lines):
            handle.readline()
        while chunk := handle.read(CHUNK):
            chunk += handle.readline()
            if b"#" in chunk:
                for place, line in enumerate(chunk.splitlines()):
                    if line.startswith(b"#"):
                        count += 1
                        check_header(name, number + place + 1, line.decode(errors="replace"), header)
            number += chunk.count(b"\n")
    return count


def check_header(name: str, number: int, line: str, header: LogHeader) -> None:
    """Raise UserError if a line is of a header by which the rows behind it read otherwise.

    Args:
        name: Display name for messages.
        number: Number of the line.
        line: The line.
        header: The first header of the log.
    """
    key, *values = line.split(header.separator)
    changed = (
        (key == "#fields" and column_names(split_blanks(values)[0], header.fields)[0] != header.fields)
        or (key == "#unset_field" and values[:1] != [header.unset])
        or (line.startswith("#separator") and (unescape(line[10:].strip(" ")) or "\t") != header.separator)
    )
    if changed:
        raise UserError(
            f"{name}, line {number}, begins a log with other {key.split(' ')[0]}: give it as a file of its own."
        )


def tabs_for_blanks(plain: Path, copy: Path, header: LogHeader) -> Path:
    """Write a log anew as `copy`, with its separator in place of the blanks of its last fields."""
    blanks, separator = header.blanks.encode(), header.separator.encode()
    with plain.open("rb") as incoming, copy.open("wb") as outgoing:
        while chunk := incoming.read(CHUNK):
            chunk += incoming.readline()
            outgoing.write(chunk.replace(blanks, separator))
    return copy


def write_rows(connection: duckdb.DuckDBPyConnection, name: str, plain: Path, file: Path, header: LogHeader) -> int:
    """Write the rows of a log as text, unset numbers as NULL; return their number.

    Args:
        connection: DuckDB connection.
        name: Display name for messages.
        plain: The log.
        file: Parquet file to write; the rejects table is named after it.
        header: Header of the log.
    """
    kinds = ", ".join(f"{literal(field)}: 'VARCHAR'" for field in header.fields)
    unset = literal(header.unset)
    cells = ", ".join(
        (
            f"nullif({field}, {unset})"
            if kind in NUMBER_TYPES
            else f"CASE {field} WHEN {unset} THEN '-' ELSE {field} END"
        )
        + f" AS {field}"
        for field, kind in zip(map(identifier, header.fields), header.types, strict=True)
    )
    query = (
        f"SELECT {cells} FROM read_csv({file_literal(plain)}, auto_detect = false, header = false, "
        f"skip = {header.lines}, delim = {literal(header.separator)}, quote = '', escape = '', columns = {{{kinds}}}, "
        f"max_line_size = {MAX_HEADER_BYTES}, store_rejects = true, "
        f"rejects_table = {literal(file.stem + '_rejects')}, rejects_scan = {literal(file.stem + '_scans')}) "
        f"WHERE NOT coalesce(starts_with({identifier(header.fields[0])}, '#'), false)"
    )
    try:
        return write_query(connection, query, file)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise UserError(f"{name} cannot be read: {cause(error)}") from error
