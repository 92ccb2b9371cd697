"""Delivered source -> Parquet: CSV, CSV in zip or gz, Parquet; one file, several, a glob or a URL."""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.csv_lines import count_lines
from iot_pipeline.flows.download import fetch, is_url
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, literal, one, scan, write_query
from iot_pipeline.lake.atomic import sha256_file

DELIMITERS = ",;\t|"
ZIP_STARTS, GZIP_START = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b"
TABLE_ENDINGS = (".csv", ".tsv", ".parquet")
MAX_HEADER_BYTES = 1_000_000
EXAMPLES = 5
# Column of raw.parquet with the file, or the member of an archive, that a row was read from.
SOURCE_FILE = "iot_source_file"
# DuckDB's error types for rejected lines, in plain words.
REASONS = {
    "MISSING COLUMNS": "too few columns",
    "TOO MANY COLUMNS": "too many columns",
    "INVALID ENCODING": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line too long",
}


@dataclass(frozen=True)
class SourceReport:
    """Files, rows and columns of a source.

    Each file has its base name, size and sha256 (and URL without credentials). `rejected` counts lines that could not
    be read as rows, by reason; `examples` has file, line and reason of the first ones. `skipped` lists archive members
    that were not read because their names are not those of tables.
    """

    files: list[dict[str, Any]]
    rows: int
    columns: list[str]
    rejected: dict[str, int]
    examples: list[dict[str, Any]]
    skipped: list[str]


def read_source(
    spec: DatasetSpec,
    source: str,
    out: Path,
    log: Callable[[str], None] | None = None,
    max_rejected_share: float = 0.01,
    with_files: bool = False,
) -> SourceReport:
    """Read `source` into one Parquet file.

    Columns keep their names; a column with only numbers becomes BIGINT or DOUBLE unless it is a category, any other
    stays text. CSV lines with
    too few or too many columns, or not in UTF-8, are rejected and counted.

    Args:
        spec: Spec of the data set.
        source: Path, URL or glob, or several of them separated by commas.
        out: Parquet file to write.
        log: Receives progress messages.
        max_rejected_share: Largest allowed share of rejected lines.
        with_files: True to add the column SOURCE_FILE.

    Raises:
        UserError: The source is missing or empty, a file is not a table, columns are missing, a quote is never closed
            (it swallows the following lines), or too many lines are rejected.
    """
    report = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="iot_source_"))
        urls: dict[Path, str] = {}
        files = find_files(source, Path(folder), urls)
        connection = stack.enter_context(connect(Path(folder), *files))
        parts: dict[Path, str] = {}
        columns: list[str] = []
        lost: list[dict[str, Any]] = []
        skipped: list[str] = []
        for file in files:
            if log is not None:
                log(f"reading {file.name} ({file.stat().st_size / 1e6:.1f} MB)")
            if file.stat().st_size == 0:
                raise UserError(f"{file.name} is empty: give a CSV or Parquet file with rows.")
            whence = {"url": urls[file]} if file in urls else {}
            report.append({"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)} | whence)
            for name, plain in unpack(file, Path(folder), skipped):
                part = Path(folder) / f"part{len(parts):05d}.parquet"
                found = as_text_parquet(connection, spec.source_columns, name, plain, part)
                lost += rejected_lines(connection, name, part)
                if columns and set(found) != set(columns):
                    differing = sorted(set(found) ^ set(columns))
                    raise UserError(f"{name} has other columns than {files[0].name}: {', '.join(differing[:5])}.")
                columns = columns or found
                parts[part] = name
        if log is not None:
            for name in skipped:
                log(f"left out, no table by its name: {name}")
        everything = every_part(parts, with_files)
        (rows,) = one(connection, f"SELECT count(*) FROM {everything}")
        if len(lost) > max_rejected_share * (rows + len(lost)):
            raise UserError(
                f"{len(lost):,} of {rows + len(lost):,} lines are no rows of the table, more than the allowed "
                f"{max_rejected_share:.2%}; {commonest(lost)}"
            )
        kept = [*columns, SOURCE_FILE] if with_files else columns
        write_query(connection, typed_query(connection, everything, kept, spec.text_columns), out)
    reasons = dict(Counter(line["reason"] for line in lost).most_common())
    return SourceReport(report, rows, columns, reasons, lost[:EXAMPLES], skipped)


def every_part(parts: Mapping[Path, str], with_files: bool) -> str:
    """Return SQL for the rows of all parts, in their order; `parts` are Parquet files and their display names."""
    listing = ", ".join(literal(part) for part in parts)
    table = f"read_parquet([{listing}], union_by_name = true, hive_partitioning = false"
    if not with_files:
        return f"{table})"
    cases = " ".join(f"WHEN {literal(part)} THEN {literal(name)}" for part, name in parts.items())
    named = f"CASE {SOURCE_FILE} {cases} END AS {SOURCE_FILE}"
    return f"(SELECT * REPLACE ({named}) FROM {table}, filename = {literal(SOURCE_FILE)}))"


def rejected_lines(connection: duckdb.DuckDBPyConnection, name: str, part: Path) -> list[dict[str, Any]]:
    """Return {file, line, reason} of each line that DuckDB rejected while writing `part`.

    Raises UserError for a quote that is never closed.
    """
    if not connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [f"{part.stem}_rejects"]
    ).fetchall():
        return []  # a Parquet file has no lines
    found = connection.execute(
        f"SELECT DISTINCT ON (line) line, CAST(error_type AS VARCHAR) FROM {part.stem}_rejects ORDER BY line"
    ).fetchall()
    for line, kind in found:
        if kind == "UNQUOTED VALUE":
            raise UserError(f"{name}, line {line}, has a quote that is never closed: mend or remove that line.")
    return [{"file": name, "line": line, "reason": REASONS.get(kind, kind.lower())} for line, kind in found]


def commonest(lost: list[dict[str, Any]]) -> str:
    """Describe the commonest reason of rejected lines and its first line."""
    (reason, number), *_ = Counter(line["reason"] for line in lost).most_common(1)
    first = next(line for line in lost if line["reason"] == reason)
    return f"most often: {reason} ({number:,} lines), first in {first['file']}, line {first['line']}."


def local_files(source: str) -> list[Path]:
    """Return the files of `source` on this machine: those of its parts that are not URLs."""
    parts = [part for part in source.split(",") if part.strip() and not is_url(part)]
    return find_files(",".join(parts)) if parts else []


def find_files(source: str, folder: Path | None = None, urls: dict[Path, str] | None = None) -> list[Path]:
    """Return the files that `source` names, in order; UserError for a part that matches nothing or is a folder.

    URLs are downloaded into `folder`; `urls` receives the URL of each downloaded file.
    """
    found: list[Path] = []
    after_url = False
    for part in (piece.strip() for piece in source.split(",")):
        if not part:
            continue
        if is_url(part) and folder is not None:
            fetched = dict(fetch(part, folder))
            found.extend(fetched)
            if urls is not None:
                urls.update(fetched)
            after_url = True
            continue
        matches = [part] if os.path.exists(part) else sorted(glob.glob(part, recursive=True))  # noqa: PTH110
        if not matches and after_url:
            # It may be the rest of a URL, which may contain a secret.
            raise UserError(
                "what follows the comma after a URL of the source does not exist: write %2C for a comma within a URL."
            )
        if not matches:
            raise UserError(f"the source {part!r} does not exist: give a CSV, zip, gz or Parquet file, or a glob.")
        found.extend(Path(match) for match in matches)
    if not found:
        raise UserError("the source is empty: give a CSV, zip, gz or Parquet file, or a glob.")
    for path in found:
        if not path.is_file():
            raise UserError(f"the source {path.name!r} is not a file: give files, or a glob such as folder/*.csv.")
        if not os.access(path, os.R_OK):
            raise UserError(f"the source {path.name!r} may not be read: check its permissions.")
    return found


def unpack(file: Path, folder: Path, skipped: list[str] | None = None) -> list[tuple[str, Path]]:
    """Return (display name, plain file) of each table in `file`; archives are unpacked into `folder`, streamed.

    The format is detected from the first bytes: a download is often named `content` or `X.ZIP`. The extension only
    serves to distinguish a damaged archive from a bad CSV. `skipped` receives the zip members that are not read.
    """
    with file.open("rb") as handle:
        start = handle.read(4)
    zipped, gzipped = start in ZIP_STARTS, start[:2] == GZIP_START
    ending = "" if zipped or gzipped else file.suffix.lower()
    try:
        if zipped or ending == ".zip":
            return unzip(file, folder, [] if skipped is None else skipped)
        if gzipped or ending == ".gz":
            plain = folder / f"{file.name}.plain"
            with gzip.open(file, "rb") as incoming, plain.open("wb") as outgoing:
                shutil.copyfileobj(incoming, outgoing, 1 << 20)
            return [(file.name, plain)]
    except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{file.name} cannot be unpacked: {error}.") from error
    return [(file.name, file)]


def unzip(file: Path, folder: Path, skipped: list[str]) -> list[tuple[str, Path]]:
    """Extract the zip members named like tables, or all if there are none; add the others to `skipped`."""
    with zipfile.ZipFile(file) as archive:
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not member.filename.startswith("__MACOSX")
        ]
        if not members:
            raise UserError(f"{file.name} holds no file: give a zip with a CSV in it.")
        tables = [member for member in members if member.filename.lower().endswith(TABLE_ENDINGS)] or members
        skipped += [f"{file.name}/{Path(member.filename).name}" for member in members if member not in tables]
        result = []
        for number, member in enumerate(tables):
            plain = folder / f"{file.stem}.{number}{Path(member.filename).suffix}"
            with archive.open(member) as incoming, plain.open("wb") as outgoing:
                shutil.copyfileobj(incoming, outgoing, 1 << 20)
            result.append((f"{file.name}/{Path(member.filename).name}", plain))
    return result


def as_text_parquet(
    connection: duckdb.DuckDBPyConnection, needed: Sequence[str], name: str, plain: Path, part: Path
) -> list[str]:
    """Copy one plain file into a Parquet file and return its columns; columns of a CSV are read as text.

    Args:
        connection: DuckDB connection that may read and write the folder of `part`.
        needed: Columns that must be present.
        name: Display name for messages.
        plain: CSV or Parquet file.
        part: File to write; the rejects table is named after it.

    Raises:
        UserError: The file is damaged, lacks a column, has no valid row, or lines are unaccounted for.
    """
    with plain.open("rb") as handle:
        magic = handle.read(4)
    lines = None
    if magic == b"PAR1":
        try:
            columns = pq.read_schema(plain).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{name} is a damaged Parquet file: {str(error).strip().splitlines()[0]}") from error
        query = f"SELECT * FROM {scan(plain)}"
    else:
        columns, delimiter = header(name, plain)
        lines = count_lines(name, plain, delimiter)
        kinds = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
        query = (
            f"SELECT * FROM read_csv({literal(plain)}, auto_detect = false, header = true, "
            f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', columns = {{{kinds}}}, "
            f"max_line_size = {MAX_HEADER_BYTES}, store_rejects = true, "
            f"rejects_table = {literal(part.stem + '_rejects')}, rejects_scan = {literal(part.stem + '_scans')})"
        )
    check_columns(needed, name, columns)
    try:
        rows = write_query(connection, query, part)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        line = re.search(r"Line: (\d+)", str(error))
        place = f", line {line[1]}," if line else ""
        raise UserError(f"{name}{place} cannot be read: {reason(error)}") from error
    lost = rejected_lines(connection, name, part)
    if lines is not None and rows + len(lost) != lines:
        raise UserError(
            f"{name} has {lines:,} lines after its header, of which {rows:,} were read and {len(lost):,} rejected: "
            "write the file anew with one line a row."
        )
    if rows == 0:
        if lost:
            raise UserError(f"{name} has no row: all of its {len(lost):,} lines are rejected; {commonest(lost)}")
        raise UserError(f"{name} has column names but no rows.")
    return columns


def header(name: str, plain: Path) -> tuple[list[str], str]:
    """Read column names and delimiter from the first line of a CSV; UserError if it is not a header."""
    with plain.open("rb") as handle:
        raw = handle.readline(MAX_HEADER_BYTES)
    try:
        line = raw.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a UTF-8 CSV file: its first line cannot be decoded.") from error
    if not line.strip() or "\0" in line:
        raise UserError(f"{name} is not a CSV file: its first line has no column names.")
    delimiter = max(DELIMITERS, key=line.count)
    if delimiter not in line:
        raise UserError(f"{name} is not a CSV file: its first line has a single column, {line[:60]!r}.")
    try:
        columns = [column.strip() for column in next(csv.reader([line], delimiter=delimiter))]
    except csv.Error as error:
        raise UserError(f"{name} is not a CSV file: its first line cannot be split: {error}.") from error
    # pandas writes its row number as a first column without a name.
    columns[0] = columns[0] or "Unnamed: 0"
    return columns, delimiter


def check_columns(needed: Sequence[str], name: str, columns: list[str]) -> None:
    """Raise UserError if a column name is empty or repeated, or a needed column is missing."""
    lowered = [column.lower() for column in columns]
    twice = sorted({column for column in columns if lowered.count(column.lower()) > 1})
    if twice:
        raise UserError(f"{name} has the column {twice[0]!r} twice: rename or remove one.")
    if "" in columns:
        raise UserError(f"{name} has no name for column {columns.index('') + 1}.")
    missing = [column for column in needed if column not in columns]
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise UserError(f"{name} lacks {len(missing)} of the columns that the data set needs: {shown}.")


def typed_query(
    connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], categories: Collection[str] = ()
) -> str:
    """Return a SELECT that casts a text column to BIGINT or DOUBLE if all its non-empty values are such numbers.

    Args:
        connection: DuckDB connection.
        table: Table expression.
        columns: Columns to select.
        categories: Columns that stay text: a number there is a name and keeps its spelling.
    """
    kinds = dict(row[:2] for row in connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall())
    texts = [column for column in columns if kinds[column] == "VARCHAR" and column not in categories]
    selected = {column: identifier(column) for column in columns}
    tests = []
    for name in map(identifier, texts):
        there = f"{name} IS NOT NULL AND trim({name}) <> ''"
        point = f"contains({name}, '.') OR contains(lower({name}), 'e')"
        tests += [
            f"count(*) FILTER ({there})",
            f"count(*) FILTER ({there} AND TRY_CAST({name} AS DOUBLE) IS NULL)",
            f"count(*) FILTER ({there} AND (TRY_CAST({name} AS BIGINT) IS NULL OR {point}))",
        ]
    counts = one(connection, f"SELECT {', '.join(tests)} FROM {table}") if tests else ()
    for column, present, not_double, not_whole in zip(texts, counts[::3], counts[1::3], counts[2::3], strict=True):
        if present and not (not_double and not_whole):
            kind = "DOUBLE" if not_whole else "BIGINT"
            selected[column] = f"TRY_CAST({identifier(column)} AS {kind}) AS {identifier(column)}"
    return f"SELECT {', '.join(selected.values())} FROM {table}"


def reason(error: Exception) -> str:
    """Return the cause of a read error, in DuckDB's words where they are one line without a path."""
    told = re.search(
        r"Expected Number of Columns.*|Invalid unicode.*|Value with unterminated quote.*|Maximum line size.*",
        str(error),
    )
    return (told[0].rstrip(".") if told else "it is damaged or does not follow the rules of its format") + "."
