"""JSON lines -> Parquet part: logs of Zeek's JSON writer, and any table with one flat object a line.

A line that names a key twice is no row (names.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import text_sql
from iot_pipeline.flows.reading.encodings import first_text
from iot_pipeline.flows.reading.header import MAX_HEADER_BYTES
from iot_pipeline.flows.reading.names import (
    check_names,
    check_needed,
    column_names,
    copies_note,
    repeated_key,
    twice,
    unclear_copies,
)
from iot_pipeline.flows.reading.parts import settle_copies
from iot_pipeline.flows.reading.rejects import Lost, cause
from iot_pipeline.flows.reading.rules import Part, PlainFile
from iot_pipeline.flows.sql import file_literal, identifier, literal, scan, write_query

# Words of conn.log; Zeek leaves an unset field out of a JSON line, where its other writer has `-`.
CONN_WORDS = {"proto", "service", "conn_state", "history", "local_orig", "local_resp", "tunnel_parents"}
CONN_TEXTS = CONN_WORDS | {"uid", "id.orig_h", "id.resp_h", "label", "detailed-label"}
# Fields that conn.log may leave unset in every line of a short log.
CONN_OPTIONAL = CONN_WORDS - {"proto"} | {
    "duration", "orig_bytes", "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes",
}  # fmt: skip
NO_SEPARATOR = "\x01"  # stands in no JSON text
COMMA_BEFORE_END = re.compile(rb",(?=\s*[}\]])")  # {"a": 1,}, which DuckDB reads and Python does not


def is_json_lines(plain: Path) -> bool:
    """Return whether a file begins like an object of JSON."""
    start = first_text(plain).lstrip()
    return start.startswith("{") and '"' in start


def read_json_lines(given: PlainFile) -> Part:
    """Write a file of JSON lines as a part, one column for each key.

    Raises UserError if no line is an object.
    """
    connection, rules, name, plain, file, findings = given
    lines = file.with_name(f"{file.stem}_lines.parquet")
    query = (
        "SELECT line, CASE WHEN json_valid(line) THEN "
        "CASE WHEN json_type(line) = 'OBJECT' THEN hash(json_keys(line)) END END AS shape "
        f"FROM read_csv({file_literal(plain)}, auto_detect = false, header = false, delim = {literal(NO_SEPARATOR)}, "
        f"quote = '', escape = '', columns = {{'line': 'VARCHAR'}}, max_line_size = {MAX_HEADER_BYTES}, "
        "ignore_errors = true)"
    )
    try:
        write_query(connection, query, lines)
        usable = usable_lines(connection, lines)
        keys = connection.execute(
            f"SELECT k FROM (SELECT unnest(json_keys(line)) AS k, r FROM ({shapes_query(lines)}) WHERE {usable}) "
            "GROUP BY k ORDER BY min(r), k"
        ).fetchall()
        raw = [str(key) for (key,) in keys]
        columns, copies = column_names(raw, rules.needed)
        check_names(name, columns)
        log = log_path(columns)
        if raw and not log:  # a log's fields are looked for once it is joined
            check_needed(name, columns, rules.needed, copies)
        unset = [name for name in rules.needed if log == "conn" and name in CONN_OPTIONAL and name not in columns]
        raw, columns = [*raw, *unset], [*columns, *unset]
        rows = write_query(connection, cells_query(lines, usable, raw, columns, log, rules.texts), file) if raw else 0
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise UserError(f"{name} cannot be read: {cause(error)}") from error
    lines.unlink(missing_ok=True)
    lost = broken_lines(name, plain, rows, rules.needed)
    if rows == 0:
        raise UserError(f"{name} has no object of JSON; {lost.commonest()}")
    findings.lost.include(lost)
    if unset:
        findings.note(f"{name}: no line of it sets {', '.join(unset)}.")
    if copies:
        findings.note(copies_note(name, copies))
    settle_copies(connection, name, file, unclear_copies(raw, columns, copies), rules.needed)
    return Part(name, file, columns, log, frozenset(CONN_TEXTS & set(columns)) if log else frozenset())


def shapes_query(lines: Path) -> str:
    """Return SQL for the first line of each shape (the hash of a line's keys) and its number `r`."""
    numbered = scan(lines, ", file_row_number = true")
    firsts = f"SELECT shape, min(file_row_number) AS r FROM {numbered} WHERE shape IS NOT NULL GROUP BY shape"
    return f"SELECT line, shape, r FROM ({firsts}) JOIN (SELECT line, file_row_number AS r FROM {numbered}) USING (r)"


def usable_lines(connection: duckdb.DuckDBPyConnection, lines: Path) -> str:
    """Return SQL for whether a line is an object with each key once.

    It takes 14 microseconds to find that 80 keys are distinct, and most lines of a file have the same ones: one line of
    each shape is looked at, and every line only where a shape has a key twice.
    """
    distinct = "len(json_keys(line)) = list_unique(json_keys(line))"
    looked = connection.execute(f"SELECT coalesce(bool_and({distinct}), true) FROM ({shapes_query(lines)})")
    (all_distinct,) = looked.fetchall()[0]
    return "shape IS NOT NULL" if all_distinct else f"CASE WHEN shape IS NULL THEN false ELSE {distinct} END"


def cells_query(
    lines: Path, usable: str, raw: list[str], columns: list[str], log: str, texts: Collection[str] = ()
) -> str:
    """Return SQL for the cells of each usable line as text.

    Args:
        lines: Parquet file of lines.
        usable: SQL for whether a line is usable.
        raw: Keys.
        columns: Column of each key.
        log: Path of a Zeek log; empty for another table.
        texts: Columns that are texts, in which a number's 6.0 is the 6 of other tables.
    """
    # A struct finds its fields whatever their case, so keys that differ in case only are looked up in the line.
    spelt = Counter(key.lower() for key in raw)
    alone = [key for key in raw if spelt[key.lower()] == 1]
    shape = literal(json.dumps(dict.fromkeys(alone, "VARCHAR")))
    transformed = f"json_transform(line, {shape})" if alone else "NULL"
    inner = f"SELECT line, {transformed} AS o FROM {scan(lines)} WHERE {usable}"
    cells = []
    for key, column in zip(raw, columns, strict=True):
        pointer = literal("/" + key.replace("~", "~0").replace("/", "~1"))
        cell = f"o[{literal(key)}]" if spelt[key.lower()] == 1 else f"json_extract_string(line, {pointer})"
        cell = f"coalesce({cell}, '-')" if log and key in CONN_WORDS else cell
        if column in texts:
            number = text_sql(f"CAST({cell} AS DOUBLE)", "DOUBLE", None)
            is_whole = f"ends_with({cell}, '.0') AND json_type(line, {pointer}) = 'DOUBLE'"
            cell = f"CASE WHEN {is_whole} THEN {number} ELSE {cell} END"
        cells.append(f"{cell} AS {identifier(column)}")
    return f"SELECT {', '.join(cells)} FROM ({inner})"


def log_path(columns: list[str]) -> str:
    """Return the path of the Zeek log that has these fields; empty for another table."""
    there = set(columns)
    if {"uid", "id.orig_h", "proto"} <= there:
        return "conn" if {"conn_state", "orig_pkts", "missed_bytes"} & there else "zeek"
    return "flowmeter" if "uid" in there and {"fwd_pkts_tot", "flow_duration"} & there else ""


def broken_lines(name: str, plain: Path, rows: int, needed: Sequence[str]) -> Lost:
    """Return the lines that are no object of JSON with each key once.

    Args:
        name: Display name of the file.
        plain: The file.
        rows: Number of lines that are such objects.
        needed: Columns that the data set needs, which a reason names.
    """
    with plain.open("rb") as handle:
        there = sum(1 for line in handle if line.strip())
    if there == rows:
        return Lost()
    lost = Lost()
    with plain.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip() and (reason := fault_of(line, needed)):
                lost.add(name, number, reason)
    if there != rows + lost.number:
        raise UserError(f"{name} has {there:,} lines, of which {rows:,} were read and {lost.number:,} are no JSON.")
    return lost


def fault_of(line: bytes, needed: Sequence[str]) -> str:
    """Return why a line is no row; empty for an object of JSON that is not too long and names each key once.

    Its characters are those of UTF-8: `\\ud800` alone is a character to Python and none to DuckDB.
    """
    if len(line) <= MAX_HEADER_BYTES:
        for text in (line, COMMA_BEFORE_END.sub(b"", line)):
            try:
                found, repeated = object_of(text)
                json.dumps(found, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                continue
            if found is not None:
                return "" if repeated is None else twice(repeated) if repeated in needed else "a key stands twice"
    return "not an object of JSON"


def object_of(line: bytes | str) -> tuple[dict[str, Any] | None, str | None]:
    """Return a line's object, None if it is something else, and the first key that it names twice, if there is one.

    Raises ValueError or RecursionError for a line that is no JSON.
    """
    last: list[tuple[str, Any]] = []  # keys and values of the outermost object, which ends last

    def pairs_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal last
        last = pairs
        return dict(pairs)

    found = json.loads(line, object_pairs_hook=pairs_of, parse_int=str)  # int refuses more than 4,300 digits
    return (found, repeated_key(last)) if isinstance(found, dict) else (None, None)
