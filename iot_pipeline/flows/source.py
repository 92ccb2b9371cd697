"""Delivered source -> Parquet: CSV, Parquet, JSON lines and Zeek logs, also in archives; files, globs and URLs."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError, printable
from iot_pipeline.flows.download import fetch, is_url
from iot_pipeline.flows.reading.archives import unpack
from iot_pipeline.flows.reading.arff import as_csv, is_arff
from iot_pipeline.flows.reading.column_types import typed_query
from iot_pipeline.flows.reading.csv_table import read_csv
from iot_pipeline.flows.reading.encodings import as_utf8
from iot_pipeline.flows.reading.json_lines import is_json_lines, read_json_lines
from iot_pipeline.flows.reading.other_formats import refuse_other_formats
from iot_pipeline.flows.reading.parquet_table import MAGIC, read_parquet
from iot_pipeline.flows.reading.parts import SOURCE_FILE, every_part
from iot_pipeline.flows.reading.rules import Findings, Part, PlainFile, ReadingRules, rules_of
from iot_pipeline.flows.reading.zeek import is_zeek, read_zeek
from iot_pipeline.flows.reading.zeek_join import joined_logs
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, one, write_query
from iot_pipeline.lake.atomic import sha256_file

ACCEPTED = "give a CSV, Parquet, JSON lines, ARFF or Zeek log file, or an archive of them, or a glob."


@dataclass(frozen=True)
class SourceReport:
    """Files, rows and columns of a source.

    Each file has its base name, size and sha256 (and URL without credentials). `rejected` counts lines that could not
    be read as rows, by reason; `examples` has file, line and reason of the first ones. `skipped` lists archive members
    that were not read because their names are not those of tables. `left_out` counts lines that are neither rows nor
    lost, by reason; `notes` has a sentence for each thing that a person should know; `encodings` those of files that
    are not UTF-8.
    """

    files: list[dict[str, Any]]
    rows: int
    columns: list[str]
    rejected: dict[str, int]
    examples: list[dict[str, Any]]
    skipped: list[str]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a file holds it: what is seldom there is left out where there is nothing of it."""
        seldom = ("left_out", "notes", "encodings")
        return {key: value for key, value in asdict(self).items() if value or key not in seldom}


def read_source(
    spec: DatasetSpec,
    source: str,
    out: Path,
    log: Callable[[str], None] | None = None,
    max_rejected_share: float = 0.01,
    with_files: bool = False,
) -> SourceReport:
    """Read `source` into one Parquet file, by the rules of a data set (see `read_tables`).

    Args:
        spec: Spec of the data set.
        source: Path, URL or glob, or several of them separated by commas.
        out: Parquet file to write.
        log: Receives progress messages.
        max_rejected_share: Largest allowed share of rejected lines.
        with_files: True to add the column SOURCE_FILE, which is there anyway if the spec needs it.

    Raises:
        UserError: As `read_tables`, or columns are missing.
    """
    needs_files = SOURCE_FILE in spec.source_columns
    return read_tables(source, out, rules_of(spec), log, max_rejected_share, with_files or needs_files)


def read_tables(
    source: str,
    out: Path,
    rules: ReadingRules,
    log: Callable[[str], None] | None = None,
    max_rejected_share: float = 0.01,
    with_files: bool = False,
    without: Sequence[Path] = (),
) -> SourceReport:
    """Read all files of `source` into one Parquet file.

    Columns keep their names; a column with only numbers becomes BIGINT or DOUBLE, any other stays text. CSV lines with
    too few or too many columns, or not in UTF-8, are rejected and counted. Zeek logs of one capture are joined by uid.

    Args:
        source: Path, URL or glob, or several of them separated by commas.
        out: Parquet file to write.
        rules: Rules of the data set; `ReadingRules()` for an unknown table.
        log: Receives progress messages.
        max_rejected_share: Largest allowed share of rejected lines.
        with_files: True to add the column SOURCE_FILE.
        without: Files and folders that a glob may match and that are none of the source.

    Raises:
        UserError: The source is missing or empty, a file is not a table, columns are missing, a quote is never closed
            (it swallows the following lines), or too many lines are rejected.
    """
    say = log or (lambda message: None)
    findings = Findings()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iot_source_")))
        urls: dict[Path, str] = {}
        files = find_files(source, folder, urls, without)
        connection = stack.enter_context(connect(folder, *files))
        parts: list[Part] = []
        report = []
        for file in files:
            say(f"reading {file.name} ({file.stat().st_size / 1e6:.1f} MB)")
            report.append(described(file, urls))
            tell_copy(report, findings)
            for name, plain in unpack(file, folder, findings.skipped):
                part = folder / f"part{len(parts):05d}.parquet"
                parts.append(read_part(PlainFile(connection, rules, name, plain, part, findings)))
                if plain != file:
                    plain.unlink(missing_ok=True)
        parts = joined_logs(connection, parts, rules, findings)
        columns = common_columns(parts, rules, findings)
        tell(findings, say)
        everything = every_part({part.file: part.name for part in parts}, with_files)
        (rows,) = one(connection, f"SELECT count(*) FROM {everything}")
        check_lost(findings, rows, max_rejected_share)
        kept = [*columns, SOURCE_FILE] if with_files else columns
        told = len(findings.notes)
        typed = with_texts(rules, parts)
        write_query(connection, typed_query(connection, everything, kept, typed, findings), out)
        for sentence in findings.notes[told:]:
            say(sentence)
    lost, reasons = findings.lost, dict(findings.lost.rows.most_common())
    left_out, notes, encodings = dict(findings.left_out), findings.notes, findings.encodings
    return SourceReport(report, rows, columns, reasons, lost.examples, findings.skipped, left_out, notes, encodings)


def described(file: Path, urls: dict[Path, str]) -> dict[str, Any]:
    """Return name, size, sha256 and URL of a file; UserError if it is empty."""
    size = file.stat().st_size
    if size == 0:
        raise UserError(f"{printable(file.name, kept='')} is empty: give a CSV or Parquet file with rows.")
    whence = {"url": urls[file]} if file in urls else {}
    return {"name": file.name, "bytes": size, "sha256": sha256_file(file)} | whence


def tell_copy(files: Sequence[dict[str, Any]], findings: Findings) -> None:
    """Note that the last file is equal to one before it: its rows are there twice."""
    last = files[-1]
    if other := next((file["name"] for file in files[:-1] if file["sha256"] == last["sha256"]), ""):
        findings.note(f"{last['name']} is {other} again, to the byte: its rows are read twice.")


def read_part(given: PlainFile) -> Part:
    """Read one plain file, whose format follows from its first bytes, into a Parquet file.

    Raises UserError if the file is no table, or not one of the data set.
    """
    name, plain = given.name, given.plain
    if plain.stat().st_size == 0:
        raise UserError(f"{name} is empty: give a CSV or Parquet file with rows.")
    with plain.open("rb") as handle:
        magic = handle.read(len(MAGIC))
    if magic == MAGIC:
        return read_parquet(given)
    refuse_other_formats(name, plain)
    plain = as_utf8(name, plain, given.part.with_suffix(".utf8"), given.findings)
    if plain != given.plain:
        refuse_other_formats(name, plain)
        given = given._replace(plain=plain)
    if is_zeek(plain):
        return read_zeek(given)
    if is_json_lines(plain):
        return read_json_lines(given)
    if is_arff(plain):
        given = given._replace(plain=as_csv(name, plain, given.part.with_suffix(".csv")))
    return read_csv(given)


def common_columns(parts: Sequence[Part], rules: ReadingRules, findings: Findings) -> list[str]:
    """Return the columns of all parts, those of the first part first; names that differ in case only are one.

    A data set's own columns are in every part; others may differ, and are empty where a part lacks them.

    Args:
        parts: The parts.
        rules: Rules of the data set.
        findings: Receives a note about columns that differ.

    Raises:
        UserError: Columns differ, and no data set says which ones matter.
    """
    first, columns = parts[0], {column.lower(): column for column in parts[0].columns}
    for part in parts[1:]:
        added = {column.lower(): column for column in part.columns}
        known = {column.lower() for column in first.columns}
        differing = sorted((added | columns)[name] for name in set(added) ^ known)
        told = f"{part.name} has other columns than {first.name}: {', '.join(differing[:5])}"
        if differing and not rules.needed:
            raise UserError(f"{told}.")
        if differing:
            findings.note(f"{told}; the data set needs none of them, and they are empty in the rows of other files.")
        columns |= {name: column for name, column in added.items() if name not in columns}
    return list(columns.values())


def check_lost(findings: Findings, rows: int, max_rejected_share: float) -> None:
    """Raise UserError if more lines are lost than allowed."""
    lost = findings.lost
    if lost.number > max_rejected_share * (rows + lost.number):
        raise UserError(
            f"{lost.number:,} of {rows + lost.number:,} lines are no rows of the table, more than the allowed "
            f"{max_rejected_share:.2%}; {lost.commonest()}"
        )


def tell(findings: Findings, say: Callable[[str], None]) -> None:
    """Log what was not read, and the notes."""
    for name in findings.skipped:
        say(f"left out, no table by its name: {name}")
    for sentence in findings.notes:
        say(sentence)


def with_texts(rules: ReadingRules, parts: Sequence[Part]) -> ReadingRules:
    """Return the rules with the columns added that Zeek logs declare as text."""
    return replace(rules, texts=rules.texts.union(*(part.texts for part in parts)))


def local_files(source: str, without: Sequence[Path] = ()) -> list[Path]:
    """Return the files of `source` on this machine, but for `without`: those of its parts that are not URLs."""
    parts = [part for part in source.split(",") if part.strip() and not is_url(part)]
    return find_files(source, without=without) if parts else []


def matching(part: str) -> list[str]:
    """List the files that match a glob, sorted; a folder that is there by that name is meant: `data [1]/*.csv`."""
    start, *rest = Path(part).parts
    while rest and (Path(start) / rest[0]).exists():
        start = str(Path(start) / rest.pop(0))
    return sorted(glob.glob(str(Path(glob.escape(start), *rest)), recursive=True))


def check_name(path: Path) -> None:
    """Raise UserError for a path that is no text, which neither DuckDB nor a record of the run can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the path {str(path)!r} is not UTF-8: rename the file or folder.") from None


def find_files(
    source: str, folder: Path | None = None, urls: dict[Path, str] | None = None, without: Sequence[Path] = ()
) -> list[Path]:
    """Return the files that `source` names, in order; one that several of its parts name is there once.

    Args:
        source: Paths, URLs and globs, with commas.
        folder: Folder for downloads; None: URLs are passed over.
        urls: Receives the URL of each downloaded file.
        without: Files and folders that a glob may match and that are none of the source.

    Raises:
        UserError: A part matches nothing, or is no file that can be read.
    """
    found: list[Path] = []
    after_url = False
    for part in (piece.strip() for piece in source.split(",")):
        if not part:
            continue
        if is_url(part):
            fetched = dict(fetch(part, folder)) if folder is not None else {}
            found.extend(fetched)
            if urls is not None:
                urls.update(fetched)
            after_url = True
            continue
        matches = [part] if os.path.exists(part) else matching(part)  # noqa: PTH110
        if not matches and after_url:
            # It may be the rest of a URL, which may contain a secret.
            raise UserError(
                "what follows the comma after a URL of the source does not exist: write %2C for a comma within a URL."
            )
        if not matches:
            raise UserError(f"the source {part!r} does not exist: {ACCEPTED}")
        found.extend(Path(match) for match in matches)
    if not found:
        raise UserError(f"the source is empty: {ACCEPTED}")
    own = {path.resolve() for path in without}
    found = [path for path in found if not own or path.resolve() not in own]
    for path in found:
        check_name(path)
        if path.is_fifo():
            raise UserError(f"the source {path.name!r} is a pipe, which can be read once only: write it to a file.")
        if not path.is_file():
            raise UserError(
                f"the source {path.name or str(path)!r} is not a file: give files, or a glob such as folder/*.csv."
            )
        if not os.access(path, os.R_OK):
            raise UserError(f"the source {path.name!r} may not be read: check its permissions.")
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())
