"""Lines of streams -> tables of raw rows: CSV, JSON lines and Zeek logs, the two logs of a connection joined by uid.

Lines are gathered, written with their header as small files, and read by the same code as whole files. A batch that
cannot be read is halved until the line at fault is alone.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.archives import ARCHIVE_ENDINGS
from iot_pipeline.flows.reading.header import SEPARATOR_LINE, find_delimiter, same_names, split
from iot_pipeline.flows.reading.json_lines import log_path, object_of
from iot_pipeline.flows.reading.zeek import unescape
from iot_pipeline.flows.reading.zeek_join import COMPUTED, FLOWMETER_FIELD
from iot_pipeline.serving.identity import UNSET
from iot_pipeline.serving.prepared import MOST_NOTES, Losses, Reading

JOINED = ("conn", "flowmeter")
OTHER = {"conn": "flowmeter", "flowmeter": "conn"}  # the log that a log's lines wait for
# Lines that wait for the other log, and their characters; beyond them the oldest wait no longer.
MOST_WAITING, MOST_WAITING_CHARACTERS = 100_000, 256_000_000
# A header without the columns that are needed is no matter of single lines.
WRONG_TABLE = re.compile(r" lacks \d+ of the columns| of the columns needed: ")
ALONE = {"conn": "no line in flowmeter.log", "flowmeter": "no line in conn.log"}


class Line(NamedTuple):
    """A line of a log with its header (for the log's reader) and kind: `conn`, `flowmeter`, or empty."""

    log: str
    kind: str
    header: str
    text: str


@dataclass
class Header:
    """Header of one input, as far as it was read; `uid`: place of the field uid in a line of Zeek's."""

    name: str
    form: str = ""  # zeek, json, csv
    lines: str = ""
    kind: str = ""
    uid: int = -1
    separator: str = "\t"

    def take(self, text: str, needed: Sequence[str], named: Sequence[str] = ()) -> Line | None:
        """Return a line of data, None for one that belongs to the header or is blank.

        A line with all the columns that are needed begins a table anew: a rotated CSV has its header too, and another
        order of columns if its writer changed.

        Args:
            text: The line.
            needed: Columns that the data set needs.
            named: Names of the columns of a table without a header; empty if unknown.

        Raises:
            UserError: The first line is no header, and nothing names the columns.
        """
        if not text.strip():
            return None
        if not self.form or (self.form == "zeek" and text.startswith("#")):
            return self._begin(text, needed, named)
        if self.form == "zeek":
            return Line(self.name, self.kind, self.lines, text)
        if self.form == "csv" and needed[0].lower() in text.lower() and same_names(_names(text), needed):
            self.lines = text + "\n"
            return None
        kind = _kind_of(text) if self.form == "json" else ""
        return Line(self.name, kind, self.lines, text)

    def _begin(self, text: str, needed: Sequence[str], named: Sequence[str]) -> Line | None:
        plain = text.lstrip("\ufeff")
        if plain.startswith("#"):
            self._zeek(plain)
            return None
        if plain.startswith("{") or plain.rstrip().endswith("}"):  # or the end of a line that was cut
            self.form = "json"
            return self.take(text, needed)
        if SEPARATOR_LINE.fullmatch(plain):
            self.lines = plain + "\n"
            return None
        self.form = "csv"
        if {name.lower() for name in needed} & {name.lower() for name in _names(plain)}:
            self.lines += plain + "\n"
            return None
        if not named:
            raise UserError(
                f"{self.name}: its first line, {plain[:60]!r}, has none of the columns that the data set needs: give "
                "the table or log from its header on."
            )
        return Line(self.name, "", self.lines, text)

    def _zeek(self, text: str) -> None:
        """Read a `#` line; `#separator` begins a header anew, and closing lines say nothing."""
        if self.form != "zeek" or text.startswith("#separator"):
            self.form, self.lines = "zeek", ""
        if text.startswith("#separator"):
            self.separator = unescape(text[len("#separator") :].strip(" ")) or "\t"
        if not re.match(r"#(separator|set_separator|empty_field|unset_field|path|fields|types)\b", text):
            return
        self.lines += text + "\n"
        words = text.split(self.separator)
        if words[0] == "#path":
            self.kind = words[1] if len(words) > 1 and words[1] in JOINED else ""
        if words[0] == "#fields":
            self.uid = words.index("uid") - 1 if "uid" in words else -1

    def uid_of(self, line: Line) -> str | None:
        """Return the uid of a line of this input; None for one that is unset, or no name."""
        if self.form == "json":
            uid = _object(line.text).get("uid")
        else:
            cells = line.text.split(self.separator)
            uid = cells[self.uid] if 0 <= self.uid < len(cells) else None
        return str(uid) if type(uid) in (str, int) and uid not in UNSET else None


class Waiting(NamedTuple):
    """A line that waits for that of the other log, since a time (monotonic)."""

    since: float
    line: Line


class Joiner:
    """Pairs the lines of conn.log and flowmeter.log by uid.

    A line whose counterpart does not come within `wait_s` is lost and counted. `kinds`: waiting lines of each log.
    """

    def __init__(self, wait_s: float, losses: Losses, invalid: str) -> None:
        self.wait_s, self._losses, self._invalid = wait_s, losses, invalid
        self._waiting: dict[tuple[str, str], Waiting] = {}
        self._characters = 0  # of the waiting lines
        self.kinds: Counter[str] = Counter()

    def add(self, line: Line, uid: str | None) -> list[Line]:
        """Return the line with its counterpart if that is there."""
        if uid is None:
            self._lose(line, "no uid")
            return []
        if (other := self._pop(OTHER[line.kind], uid)) is not None:
            return [line, other] if line.kind == "conn" else [other, line]
        if (earlier := self._pop(line.kind, uid)) is not None:
            self._lose(earlier, f"the uid came twice in {line.kind}.log")
        self._put(line, uid)
        while len(self._waiting) > MOST_WAITING or self._characters > MOST_WAITING_CHARACTERS:
            if (oldest := self._pop(*next(iter(self._waiting)))) is not None:
                self._lose(oldest, "too many lines wait for the other log")
        return []

    def _put(self, line: Line, uid: str) -> None:
        self._waiting[line.kind, uid] = Waiting(time.monotonic(), line)
        self.kinds[line.kind] += 1
        self._characters += len(line.text)

    def _pop(self, kind: str, uid: str) -> Line | None:
        if (found := self._waiting.pop((kind, uid), None)) is None:
            return None
        self.kinds[kind] -= 1
        self._characters -= len(found.line.text)
        return found.line

    def expire(self, everything: bool = False, behind: Container[str] = ()) -> None:
        """Give up lines that waited too long, or all; none that waits for a log that was not read to its end yet."""
        until = time.monotonic() - self.wait_s
        for (kind, uid), waiting in list(self._waiting.items()):
            if not everything and waiting.since > until:
                return  # they are in the order of arrival
            if everything or OTHER[kind] not in behind:
                self._pop(kind, uid)
                self._lose(waiting.line, ALONE[kind])

    def _lose(self, line: Line, reason: str) -> None:
        where = f"{line.log}: {reason}: {line.text[:80]}"
        # A line of flowmeter.log alone is no flow, as in files.
        if self._invalid == "error" and line.kind != "flowmeter":
            raise UserError(f"{where}; --invalid skip skips and counts such lines")
        self._losses.add(reason, where)

    def state(self) -> list[list[str]]:
        """Return the waiting lines for a file."""
        return [[uid, *waiting.line] for (_, uid), waiting in self._waiting.items()]

    def restore(self, lines: Sequence[Sequence[str]]) -> None:
        """Let lines of an earlier run wait again, from now on."""
        for uid, *parts in lines:
            self._put(Line(*parts), uid)


def _names(text: str) -> list[str]:
    """Return the cells of a line of a CSV."""
    return split(text.lstrip("\ufeff"), find_delimiter(text, []))


def needs_flowmeter(reading: Reading) -> bool:
    """Return True if a data set needs a field that only flowmeter.log has."""
    return any(map(FLOWMETER_FIELD.match, reading.rules.needed))


def read_lines(reading: Reading, lines: Sequence[Line], losses: Losses) -> Iterator[pa.Table]:
    """Yield tables of raw rows of lines, in their order; what is no row is counted, or an error.

    Args:
        reading: How to read.
        lines: The lines; those of conn.log have their counterparts among them.
        losses: Receives lines that are no row.

    Raises:
        UserError: A line is no row and is not to be skipped, or the lines have not the columns that are needed.
    """
    if not lines:
        return
    with tempfile.TemporaryDirectory(prefix="iot_lines_") as folder:
        out = Path(folder) / "raw.parquet"
        try:
            report = reading.read(",".join(_files(Path(folder), lines, reading.rules.needed)), out)
        except UserError as error:
            units = _units(lines)
            damaged = any(not line.header and not _object(line.text) for line in lines)  # of JSON: read as a CSV
            if not reading.skip_invalid or (WRONG_TABLE.search(str(error)) and not damaged):
                raise
            if len(units) == 1:
                losses.add(_reason(str(error)), f"{lines[0].log}: {error}")
                return
            out.unlink(missing_ok=True)
            half = len(units) // 2
            for part in (units[:half], units[half:]):
                yield from read_lines(reading, [line for unit in part for line in unit], losses)
            return
        for reason, number in report.rejected.items():
            losses.add(reason, f"{lines[0].log}: {reason}", number)
        losses.note([note for note in report.notes if "have no line in" not in note], MOST_NOTES)
        yield pq.read_table(out)


def _reason(told: str) -> str:
    """Return the first part of an error's sentence, with n for its numbers, so that few reasons are counted."""
    return re.sub(r"\d[\d,]*", "n", told.split(":")[0])[:80]


def _units(lines: Sequence[Line]) -> list[list[Line]]:
    """Return lines as they belong together: a line of conn.log with that of flowmeter.log behind it."""
    units: list[list[Line]] = []
    for line in lines:
        if line.kind == "flowmeter" and units and units[-1][-1].kind == "conn":
            units[-1].append(line)
        else:
            units.append([line])
    return units


def _files(folder: Path, lines: Sequence[Line], needed: Sequence[str]) -> list[str]:
    """Write lines as files, one for each log and header, in a folder each so that they keep their log's name.

    A packed log loses its ending: the lines are unpacked.
    """
    texts: dict[tuple[str, str, str], list[str]] = {}
    for line in lines:
        texts.setdefault((line.log, line.kind, line.header), []).append(line.text)
    paths = []
    for number, ((log, kind, header), part) in enumerate(texts.items()):
        named = Path(log).stem if log.lower().endswith(ARCHIVE_ENDINGS) else Path(log).name
        path = folder / str(number) / (re.sub(r"[^\w.-]", "_", named) or "stream")
        path.parent.mkdir()
        objects = (place for place, line in enumerate(part) if not header and _object(line))
        if (first := next(objects, None)) is not None:
            part[first] = json.dumps(dict.fromkeys(_keys(kind, needed)) | _object(part[first]))
        path.write_bytes((header + "".join(line + "\n" for line in part)).encode("utf-8", "surrogateescape"))
        paths.append(str(path))
    return paths


def _keys(kind: str, needed: Sequence[str]) -> list[str]:
    """Return the columns that a JSON log of a kind may have: its writer leaves unset ones out, maybe of every line."""
    if not kind:
        return list(needed)
    of_flowmeter = kind == "flowmeter"
    return [name for name in needed if bool(FLOWMETER_FIELD.match(name)) == of_flowmeter and name not in COMPUTED]


def _object(text: str) -> dict[str, Any]:
    """Return an object of JSON; {} for anything else, also for one that names a key twice, which is no row."""
    try:
        found, repeated = object_of(text)
    except (ValueError, RecursionError):
        return {}
    return found if found is not None and repeated is None else {}


def _kind_of(text: str) -> str:
    kind = log_path(list(_object(text)))
    return kind if kind in JOINED else ""
