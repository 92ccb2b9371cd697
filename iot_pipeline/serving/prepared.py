"""Files of flows -> one Parquet file of usable flows with their identity, read whole before anything is classified.

So a file that is wrong is told in seconds and not after an hour, memory does not grow with it, and a run that was
killed goes on with the very flows that it began with.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError, printable
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.reading.rules import ReadingRules, rules_of
from iot_pipeline.flows.source import SourceReport, local_files, read_tables
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.serving.events import Row
from iot_pipeline.serving.features import FeatureReader, Features
from iot_pipeline.serving.identity import COLUMNS, identity, identity_columns, seconds_of, text_of

Log = Callable[[str], None]
ROWS = 50_000  # read at once
EXAMPLES = 5  # of invalid rows that are told
# Reasons and notes may quote a line, so that a stream without end would have ever new ones.
MOST_REASONS, MOST_NOTES = 200, 50
OTHERS = "other reasons"
OWN = "iot_"  # begins the names of columns that are no feature


@dataclass
class Losses:
    """Rows that got no event, by reason, and the first of them in words; notes of the reader."""

    rows: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, reason: str, where: str, number: int = 1) -> None:
        """Count rows of a reason; `where` names the first."""
        self.rows[reason if reason in self.rows or len(self.rows) < MOST_REASONS else OTHERS] += number
        if len(self.examples) < EXAMPLES:
            self.examples.append(where)

    def note(self, sentences: Sequence[str], most: int | None = None) -> None:
        """Add notes, each once; with `most` none that would be more."""
        new = [sentence for sentence in sentences if sentence not in self.notes]
        self.notes += new if most is None else new[: max(0, most - len(self.notes))]

    def to_json(self) -> dict[str, Any]:
        """Return the losses as a file holds them."""
        return {"rows": dict(self.rows), "examples": self.examples, "notes": self.notes}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Losses:
        """Return losses read from a file."""
        return cls(Counter(content["rows"]), list(content["examples"]), list(content["notes"]))


@dataclass(frozen=True)
class Reading:
    """Rules of reading flows.

    `units`: `auto` takes Zeek logs as raw and any other table as the data set publishes it; `raw` and `scaled` say so
    of all. `skip_invalid`: rows that are no flow are counted; otherwise the first is an error. `without`: files of our
    own that a glob may match.
    """

    spec: DatasetSpec
    words: frozenset[str]
    units: str = "auto"
    skip_invalid: bool = False
    without: tuple[Path, ...] = ()

    @property
    def rules(self) -> ReadingRules:
        """Rules for the files: no label is needed, and Zeek's values are scaled only where that is known."""
        without = self.spec.model_copy(update={"label_column": self.spec.source_columns[0]})
        rules = replace(rules_of(without), label=None)
        return rules if self.units == "auto" else replace(rules, scales={}, guessed_scales=())

    def features(self) -> FeatureReader:
        """Open a reader of features."""
        return FeatureReader(self.spec, self.words, raw=self.units == "raw")

    def read(self, source: str, out: Path, log: Log | None = None) -> SourceReport:
        """Read files into one Parquet file of raw rows, each with its file."""
        share = 1.0 if self.skip_invalid else 0.0
        return read_tables(source, out, self.rules, log, share, with_files=True, without=self.without)


def prepare(reading: Reading, source: str, out: Path, log: Log) -> tuple[SourceReport, Losses]:
    """Write the usable flows of files as Parquet: own columns, then features, in the order of the source.

    Args:
        reading: How to read.
        source: Files as in IOT_SOURCE.
        out: File to write.
        log: Receives progress messages.

    Raises:
        UserError: A file is missing, no table or lacks a column, or a row is no flow and is not to be skipped.
    """
    losses = Losses()
    raw = out.with_name("raw.parquet")
    report = reading.read(source, raw, log)
    for reason, number in report.rejected.items():
        first = next((e for e in report.examples if e["reason"] == reason), None)
        losses.add(reason, f"{first['file']}, line {first['line']}: {reason}" if first else reason, number)
    for reason, number in report.left_out.items():
        losses.add(reason, reason, number)
    losses.note(report.notes)
    times = {shown(path.name): path.stat().st_mtime for path in local_files(source, reading.without)}
    preparer = Preparer(reading, losses, file_digests(report.files), times)
    try:
        with replacing(out) as temporary:
            written = _write(preparer, raw, temporary, log)
    finally:
        preparer.close()
        raw.unlink(missing_ok=True)
    if not written:
        raise UserError(f"no row of {source} is a flow; {losses.examples[0] if losses.examples else 'it has none'}")
    return report, losses


def _write(preparer: Preparer, raw: Path, out: Path, log: Log) -> int:
    """Write the usable rows of raw.parquet, part by part; return their number."""
    done = written = 0
    writer: pq.ParquetWriter | None = None
    with pq.ParquetFile(raw) as given, ExitStack() as written_file:
        total = given.metadata.num_rows
        for batch in given.iter_batches(ROWS):
            part = preparer.prepare(pa.Table.from_batches([batch]))
            writer = writer or written_file.enter_context(pq.ParquetWriter(out, part.schema, compression="lz4"))
            writer.write_table(part)
            done, written = done + batch.num_rows, written + len(part)
            log(f"read {done:,} of {total:,} rows")
    return written


class Preparer:
    """Maker of prepared tables: raw rows with SOURCE_FILE -> own columns and features of the usable ones.

    Attributes:
        counts: Rows of each file so far.
        contents: Digest of each file's content: part of the uid of its events.
        stream: A name that no other stream has, in place of the digest where a file has none.
        times: Time of each file, for flows without one; a stream has none, and its flows get that of their reading.
    """

    def __init__(
        self,
        reading: Reading,
        losses: Losses,
        contents: Mapping[str, str],
        times: Mapping[str, float],
        stream: str = "",
    ) -> None:
        self._reading, self._losses, self._reader = reading, losses, reading.features()
        self.contents, self.times, self.stream = contents, times, stream
        self.counts: Counter[str] = Counter()
        self._times_told = False

    def close(self) -> None:
        """Close the reader of features."""
        self._reader.close()

    def prepare(self, table: pa.Table) -> pa.Table:
        """Return the prepared rows; UserError for a row that is no flow, unless such are skipped."""
        found = self._reader.read(table)
        numbers = []
        for name in table[SOURCE_FILE].to_pylist():
            self.counts[name] += 1
            numbers.append((name, self.counts[name]))
        self._tell_invalid(found, numbers)
        usable = table.take(pa.array(found.rows, pa.int64()))
        own = self._own(usable, [numbers[row] for row in found.rows])
        return pa.table(own | {name: found.table[name] for name in found.table.column_names})

    def _tell_invalid(self, found: Features, numbers: Sequence[tuple[str, int]]) -> None:
        """Count the rows that are no flow; UserError for the first one if they are not to be skipped."""
        for row in found.invalid:
            file, number = numbers[row.row]
            where = f"{file}, row {number}: {row.reason}" + (f", the value is {row.cell[:60]!r}" if row.cell else "")
            if not self._reading.skip_invalid:
                raise UserError(f"{where}; fix the row, or use --invalid skip to skip and count such rows")
            self._losses.add(row.reason, where)

    def _tell_times(self, column: str, cells: Sequence[Any], given: Sequence[float | None]) -> None:
        """Note once that a column has times which are not read, so that events have another one."""
        odd = next((c for c, at in zip(cells, given, strict=True) if at is None and str(c or "-").strip() != "-"), None)
        if odd is not None and not self._times_told:
            self._times_told = True
            self._losses.note([
                f"times of column {column}, such as {str(odd)[:40]!r}, are not read (ISO 8601 and seconds since 1970 "
                "are): events without one have the time of their file or reading"
            ])  # fmt: skip

    def _own(self, usable: pa.Table, numbers: Sequence[tuple[str, int]]) -> dict[str, pa.Array]:
        """Return the own columns of usable rows, of which `numbers` are file and row."""
        columns = identity_columns(usable.column_names)
        cells = {name: usable[column].to_pylist() for name, column in columns.items()}
        given = [seconds_of(cell) for cell in cells["ts"]] if "ts" in cells else [None] * len(usable)
        if "ts" in cells:
            self._tell_times(columns["ts"], cells["ts"], given)
        files = [name.partition("/")[0] for name, _ in numbers]  # without the member of an archive
        contents = [self.contents.get(file, self.stream) for file in files]
        now, times = time.time(), self.times
        timed = zip(given, files, strict=True)
        own = {
            "uid_": [event_uid(*n, content) for n, content in zip(numbers, contents, strict=True)],
            "file": [name for name, _ in numbers],
            "row": [number for _, number in numbers],
            "time": [times.get(file, now) if at is None else at for at, file in timed],
            "timed": [
                "flow" if at is not None else "file" if file in times else "reading"
                for at, file in zip(given, files, strict=True)
            ],
        }
        kinds = {"row": pa.int64(), "time": pa.float64()}
        made = {name: pa.array(values, kinds.get(name, pa.string())) for name, values in own.items()}
        # Text in every file, so that all have one type; `identity` reads numbers out of it.
        nothing = [None] * len(usable)
        for name in COLUMNS:
            made[name] = pa.array(map(text_of, cells.get(name, nothing)), pa.string())
        return {OWN + name: values for name, values in made.items()}


def event_uid(file: str, row: int, content: str) -> str:
    """Return the name of a row's event: the same whenever the row is read from the same content."""
    return hashlib.sha256(f"{content}\0{file}\0{row}".encode()).hexdigest()[:32]


def file_digests(files: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the digest of each delivered file by name as rows have it, of files of one name together."""
    found: dict[str, str] = {}
    for file in files:
        name = shown(file["name"])
        found[name] = hashlib.sha256((found.get(name, "") + file["sha256"]).encode()).hexdigest()
    return found


def shown(name: str) -> str:
    """Return a file's name as its rows have it, without control characters."""
    return printable(name, kept="")


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a prepared table."""
    names = [*COLUMNS]
    columns = [table[f"{OWN}{name}"].to_pylist() for name in ("uid_", "file", "row", "time", "timed", *names)]
    groups = table["flow_group"].to_pylist()
    return [
        Row(uid, file, row, at, timed, identity(dict(zip(names, cells, strict=True))), group)
        for group, uid, file, row, at, timed, *cells in zip(groups, *columns, strict=True)
    ]
