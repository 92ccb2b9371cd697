"""Zeek logs of one capture as one table: conn.log and flowmeter.log joined by uid, in the units of the data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.parts import every_part
from iot_pipeline.flows.reading.rules import Findings, Part, ReadingRules
from iot_pipeline.flows.sql import identifier, number_sql, one, scan, write_query

if TYPE_CHECKING:
    import duckdb

# Farm-Flow's columns that no log has, computed from those that the logs have.
COMPUTED = {
    "pkts_difference": ("fwd_pkts_tot", "bwd_pkts_tot"),
    "data_pkts_difference": ("fwd_data_pkts_tot", "bwd_data_pkts_tot"),
}
PUBLISHED_DECIMALS = 6
FLOWMETER_FIELD = re.compile(
    r"(fwd|bwd|flow|active|idle)[_.]|down_up_ratio$|payload_bytes_per_second$|pkts_difference$"
)
NO_CONNECTION = "no line in conn.log"


def joined_logs(
    connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], rules: ReadingRules, findings: Findings
) -> list[Part]:
    """Return the parts with the Zeek logs among them as one table for each conn.log; other parts stay as they are.

    Args:
        connection: DuckDB connection that may read and write the folder of the parts.
        parts: Parts of the source.
        rules: Rules of the data set.
        findings: Receives notes, and the logs that are not read.

    Raises:
        UserError: A uid is there twice, no connection has a line in flowmeter.log, or a needed column is in no log.
    """
    logs = [part for part in parts if part.log]
    if not logs:
        return list(parts)
    conn = [part for part in logs if part.log == "conn"]
    flowmeter = [part for part in logs if part.log == "flowmeter"]
    if conn:
        findings.skipped += [f"{p.name} (Zeek's {p.log} log)" for p in logs if p.log not in ("conn", "flowmeter")]
        logs = join(connection, conn, flowmeter, findings) if flowmeter else conn
    made = [in_units(connection, part, rules, findings) for part in logs]
    for part in made:
        check_fields(part, rules, bool(flowmeter))
    return [*(part for part in parts if not part.log), *made]


def join(
    connection: duckdb.DuckDBPyConnection, conn: Sequence[Part], flowmeter: Sequence[Part], findings: Findings
) -> list[Part]:
    """Join each conn.log with all flowmeter.logs by uid.

    Args:
        connection: DuckDB connection.
        conn: Parts of conn.log.
        flowmeter: Parts of flowmeter.log.
        findings: Receives counts of lines without their counterpart.

    Raises:
        UserError: A uid is there twice, or none is in both logs.
    """
    tables = {
        kind: every_part({p.file: p.name for p in parts}, False)
        for kind, parts in (("conn", conn), ("flowmeter", flowmeter))
    }
    for kind, parts in (("conn", conn), ("flowmeter", flowmeter)):
        check_uids(connection, kind, parts, tables[kind])
    (both,) = one(connection, f"SELECT count(*) FROM {tables['conn']} SEMI JOIN {tables['flowmeter']} USING (uid)")
    counts = {kind: one(connection, f"SELECT count(*) FROM {table}")[0] for kind, table in tables.items()}
    if not both:
        raise UserError(f"{conn[0].name} and {flowmeter[0].name} have no uid in common: give two logs of one capture.")
    if alone := counts["flowmeter"] - both:
        findings.left_out[NO_CONNECTION] += alone
        findings.note(
            f"{alone:,} of {counts['flowmeter']:,} lines of flowmeter.log have no line in conn.log: left out."
        )
    if without := counts["conn"] - both:
        findings.note(
            f"{without:,} of {counts['conn']:,} connections have no line in flowmeter.log: a data set that needs its "
            "fields rejects them."
        )
    extra = list(dict.fromkeys(c for part in flowmeter for c in part.columns))
    texts = frozenset().union(*(part.texts for part in flowmeter))
    made = []
    for part in conn:
        added = [column for column in extra if column.lower() not in {c.lower() for c in part.columns}]
        columns = ", ".join([*(f"c.{identifier(c)}" for c in part.columns), *(f"f.{identifier(c)}" for c in added)])
        file = part.file.with_name(f"{part.file.stem}_joined.parquet")
        query = (
            f"SELECT {columns} FROM {scan(part.file, ', file_row_number = true')} c LEFT JOIN {tables['flowmeter']} f "
            "ON c.uid = f.uid ORDER BY c.file_row_number"
        )
        write_query(connection, query, file)
        made.append(Part(part.name, file, [*part.columns, *added], "conn", part.texts | texts))
    return made


def check_uids(connection: duckdb.DuckDBPyConnection, kind: str, parts: Sequence[Part], table: str) -> None:
    """Refuse logs without uid, or with the same uid twice.

    Args:
        connection: DuckDB connection.
        kind: Path of the log.
        parts: Its parts.
        table: Table expression for all of them.
    """
    for part in parts:
        if "uid" not in part.columns:
            raise UserError(f"{part.name} is a {kind} log without the field uid, by which the logs are joined.")
    twice = connection.execute(
        f"SELECT uid, count(*) AS n FROM {table} GROUP BY uid HAVING n > 1 ORDER BY n DESC, uid LIMIT 1"
    ).fetchall()
    if twice:
        uid, number = twice[0]
        raise UserError(
            f"the uid {uid} is in {number:,} lines of {kind}.log ({', '.join(part.name for part in parts[:3])}): give "
            "each log once, so that a connection has one line."
        )


def in_units(connection: duckdb.DuckDBPyConnection, part: Part, rules: ReadingRules, findings: Findings) -> Part:
    """Add computed columns, and put raw values on the scale in which the data set publishes them.

    Args:
        connection: DuckDB connection.
        part: A Zeek log, possibly joined.
        rules: Rules of the data set.
        findings: Receives notes.
    """
    there = set(part.columns)
    computed = {
        name: f"CAST({count_sql(identifier(a))} - {count_sql(identifier(b))} AS VARCHAR)"
        for name, (a, b) in COMPUTED.items()
        if name in rules.needed and name not in there and {a, b} <= there
    }
    cells = {column: identifier(column) for column in part.columns} | computed
    scaled = {column: rules.scales[column] for column in cells if column in rules.scales}
    if not computed and not scaled:
        return part
    for column, (offset, width) in scaled.items():
        raw = cells[column]
        value = f"round(({number_sql(raw)} - ({offset!r})) / {width!r}, {PUBLISHED_DECIMALS}) + 0.0"
        cells[column] = f"coalesce(CAST({value} AS VARCHAR), {raw})"
    file = part.file.with_name(f"{part.file.stem}_units.parquet")
    selected = ", ".join(f"{sql} AS {identifier(column)}" for column, sql in cells.items())
    write_query(connection, f"SELECT {selected} FROM {scan(part.file)}", file)
    if computed:
        findings.note(f"computed, as no Zeek log has them: {', '.join(computed)}.")
    if scaled:
        guessed = [column for column in scaled if column in rules.guessed_scales]
        told = f"; the scale of {', '.join(guessed)} is assumed" if guessed else ""
        findings.note(f"Zeek's values are raw: {len(scaled)} columns are put on the scale of the data set{told}.")
    return replace(part, file=file, columns=list(cells))


def count_sql(cell: str) -> str:
    """Return SQL for the count in a cell of a log, NULL if it holds none."""
    return f"CASE WHEN regexp_full_match({cell}, '[0-9]{{1,19}}([.]0*)?') THEN TRY_CAST({cell} AS BIGINT) END"


def check_fields(part: Part, rules: ReadingRules, has_flowmeter: bool) -> None:
    """Raise UserError that lists every needed column that is in no log."""
    missing = [column for column in rules.needed if column not in part.columns]
    if not missing:
        return
    remedy = "use a data set whose features these logs have."
    if not has_flowmeter and any(map(FLOWMETER_FIELD.match, missing)):
        remedy = "give flowmeter.log too, after a comma, or use a data set whose features conn.log has."
    elif missing == [rules.label]:
        remedy = "a log has no label of its own: add the label as a last field."
    told = f"{len(missing)} of the columns that the data set needs: {', '.join(missing)}"
    raise UserError(f"{part.name} (Zeek) lacks {told}; {remedy}")
