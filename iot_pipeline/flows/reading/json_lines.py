"""JSON lines -> Parquet part: logs of Zeek's JSON writer, and any table with one flat object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.encodings import first_text
from iot_pipeline.flows.reading.header import MAX_HEADER_BYTES
from iot_pipeline.flows.reading.names import check_names, column_names, copies_note
from iot_pipeline.flows.reading.rejects import cause, commonest
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
        f"SELECT line, CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END AS usable "
        f"FROM read_csv({file_literal(plain)}, auto_detect = false, header = false, delim = {literal(NO_SEPARATOR)}, "
        f"quote = '', escape = '', columns = {{'line': 'VARCHAR'}}, max_line_size = {MAX_HEADER_BYTES}, "
        "ignore_errors = true)"
    )
    try:
        write_query(connection, query, lines)
        keys = connection.execute(
            f"SELECT k FROM (SELECT unnest(json_keys(line)) AS k, file_row_number AS r FROM "
            f"{scan(lines, ', file_row_number = true')} WHERE usable) GROUP BY k ORDER BY min(r), k"
        ).fetchall()
        raw = [str(key) for (key,) in keys]
        columns, copies = column_names(raw, rules.needed)
        check_names(name, columns)
        log = log_path(columns)
        unset = [name for name in rules.needed if log == "conn" and name in CONN_OPTIONAL and name not in columns]
        raw, columns = [*raw, *unset], [*columns, *unset]
        rows = write_query(connection, cells_query(lines, raw, columns, log), file) if raw else 0
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise UserError(f"{name} cannot be read: {cause(error)}") from error
    lines.unlink(missing_ok=True)
    lost = broken_lines(name, plain, rows)
    if rows == 0:
        raise UserError(f"{name} has no object of JSON; {commonest(lost)}")
    findings.lost += lost
    if unset:
        findings.note(f"{name}: no line of it sets {', '.join(unset)}.")
    if copies:
        findings.note(copies_note(name, copies))
    return Part(name, file, columns, log, frozenset(CONN_TEXTS & set(columns)) if log else frozenset())


def cells_query(lines: Path, raw: list[str], columns: list[str], log: str) -> str:
    """Return SQL for the cells of each line as text.

    Args:
        lines: Parquet file of lines.
        raw: Keys.
        columns: Column of each key.
        log: Path of a Zeek log; empty for another table.
    """
    shape = literal(json.dumps(dict.fromkeys(raw, "VARCHAR")))
    inner = f"SELECT json_transform(line, {shape}) AS o FROM {scan(lines)} WHERE usable"
    cells = []
    for key, column in zip(raw, columns, strict=True):
        cell = f"o[{literal(key)}]"
        cell = f"coalesce({cell}, '-')" if log and key in CONN_WORDS else cell
        cells.append(f"{cell} AS {identifier(column)}")
    return f"SELECT {', '.join(cells)} FROM ({inner})"


def log_path(columns: list[str]) -> str:
    """Return the path of the Zeek log that has these fields; empty for another table."""
    there = set(columns)
    if {"uid", "id.orig_h", "proto"} <= there:
        return "conn" if {"conn_state", "orig_pkts", "missed_bytes"} & there else "zeek"
    return "flowmeter" if "uid" in there and {"fwd_pkts_tot", "flow_duration"} & there else ""


def broken_lines(name: str, plain: Path, rows: int) -> list[dict[str, Any]]:
    """Return {file, line, reason} of each line that is no object of JSON; `rows` lines are known to be."""
    with plain.open("rb") as handle:
        there = sum(1 for line in handle if line.strip())
    if there == rows:
        return []
    lost = []
    with plain.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip() and not is_object(line):
                lost.append({"file": name, "line": number, "reason": "not an object of JSON"})
    if there != rows + len(lost):
        raise UserError(f"{name} has {there:,} lines, of which {rows:,} were read and {len(lost):,} are no JSON.")
    return lost


def is_object(line: bytes) -> bool:
    """Return whether a line is an object of JSON that is not too long, of characters that UTF-8 has.

    `\\ud800` alone is a character to Python and none to DuckDB.
    """
    try:
        found = json.loads(line) if len(line) <= MAX_HEADER_BYTES else None
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)
