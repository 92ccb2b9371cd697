"""First lines of a CSV: `sep=`, delimiter, column names, or data where a header is missing."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.names import AROUND

NAMELESS = "Unnamed: "
DELIMITERS = ",;\t|"
MAX_HEADER_BYTES = 1_000_000
SAMPLED_BYTES, SAMPLED_LINES = 65_536, 30
LINES_ABOVE = 5  # a title or comments above the column names
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|0x[0-9a-fA-F]+|[+-]?(nan|inf(inity)?)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Header:
    """Columns of a CSV and how its first lines are to be read.

    Attributes:
        raw_names: Names as they stand in the file, or those given for a file without a header.
        delimiter: Delimiter.
        skip: Lines before the header, or before the data where there is none.
        present: True if the file has a header.
    """

    raw_names: list[str]
    delimiter: str
    skip: int
    present: bool


def read_header(name: str, plain: Path, needed: Sequence[str] = (), given: Sequence[str] = ()) -> Header:
    """Read the first lines of a CSV.

    Args:
        name: Display name of the file.
        plain: The file, in UTF-8 with line feeds.
        needed: Columns that the data set needs: a line with all of them is a header whatever it looks like.
        given: Names of the columns of files without a header; empty if unknown.

    Raises:
        UserError: The first line is neither a header nor data whose columns are named.
    """
    skip, delimiter, line, sample = first_lines(name, plain)
    if line.count('"') % 2:
        raise UserError(f"{name}: its first line has a quote that is never closed: a name has no line break in it.")
    delimiter = delimiter or find_delimiter(line, sample)
    if delimiter not in line:
        raise UserError(
            f"{name} is not a CSV file: its first line has a single column, {line[:60]!r}{advice_for(line, sample)}."
        )
    names = cells_of(name, line, delimiter)
    rows = [cells for text in sample if len(cells := split(text, delimiter)) == len(names) and cells != names]
    header = Header(named(names), delimiter, skip, True)
    if same_names(names, needed) or (given and same_names(names, given) and len(names) == len(given)):
        return header
    is_data = looks_like_data(names, rows)
    if given:
        return without_header(name, names, given, is_data, Header(list(given), delimiter, skip, False))
    if is_data:
        raise UserError(
            f"{name}: the first line looks like data: the file has no header. Name its {len(names)} columns with "
            "column_names in the data set's file, or --columns of `datasets new`."
        )
    return header


def advice_for(line: str, following: Sequence[str]) -> str:
    """Return what to do about a first line without a delimiter, as the end of a sentence; empty if unknown."""
    if any(sign in text for text in following[:LINES_ABOVE] for sign in DELIMITERS):
        return "; remove the lines above the column names, which must come first"
    if len(line.split()) > 1:
        return "; if blanks separate its columns, write commas or tabs in their place"
    return ""


def first_lines(name: str, plain: Path) -> tuple[int, str, str, list[str]]:
    """Return the lines to skip, the delimiter that `sep=` names, the first line, and a sample of those that follow.

    Raises UserError for a file without a first line, with one that is binary, or with one that has no end.
    """
    skip, delimiter = 0, ""
    with plain.open("rb") as handle:
        while True:
            raw = handle.readline(MAX_HEADER_BYTES)
            if len(raw) == MAX_HEADER_BYTES:
                raise UserError(f"{name} is not a CSV file: its first line is longer than {MAX_HEADER_BYTES:,} bytes.")
            try:
                line = raw.decode("utf-8-sig").strip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{name} is not a CSV file: its first line is no text in UTF-8.") from error
            told = SEPARATOR_LINE.fullmatch(line)
            if not raw or (line.strip() and not told):
                break
            delimiter = told[1] if told else delimiter
            skip += 1
        if not line.strip() or "\0" in line:
            raise UserError(f"{name} is not a CSV file: its first line has no column names.")
        following = handle.read(SAMPLED_BYTES).decode(errors="replace").splitlines()
    whole = following[:-1] if len(following) > 1 else following
    return skip, delimiter, line, [text for text in whole[:SAMPLED_LINES] if text.strip()]


def find_delimiter(line: str, sample: Sequence[str]) -> str:
    """Return the commonest delimiter of the first line; a comma within numbers between semicolons is a decimal mark."""
    if ";" in line and "," in line:
        cells = [cell for text in [line, *sample] for cell in text.split(";")]
        if all("," not in cell or DECIMAL_COMMA.fullmatch(cell.strip(' "')) for cell in cells):
            return ";"
    return max(DELIMITERS, key=line.count)


def named(names: Sequence[str]) -> list[str]:
    """Name the columns without a name as pandas does: its row number, or what a delimiter at a line's end makes."""
    return [name or f"{NAMELESS}{place}" for place, name in enumerate(names)]


def cells_of(name: str, line: str, delimiter: str) -> list[str]:
    """Split the first line; UserError if it cannot be split."""
    try:
        return [cell.strip(AROUND) for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    except csv.Error as error:
        raise UserError(f"{name} is not a CSV file: its first line cannot be split: {error}.") from error


def split(line: str, delimiter: str) -> list[str]:
    """Split a line that may be damaged; an empty list if it cannot be split."""
    try:
        return [cell.strip(AROUND) for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


def same_names(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether all `names`, of which there is one at least, are among the cells of a line, ignoring case."""
    return bool(names) and {name.strip(AROUND).lower() for name in names} <= {cell.lower() for cell in cells}


def looks_like_data(cells: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Judge whether a first line is a row.

    A header has words over the columns of numbers, a row has numbers there: it is a row if at least half of its cells
    over columns of numbers are numbers. Names 0, 1, 2, ... are those that pandas gives. Without a column of numbers it
    is a row if most of its cells stand in other rows of their columns too.
    """
    if list(cells) in ([str(n) for n in range(len(cells))], [str(n + 1) for n in range(len(cells))]):
        return False
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(cells)
    numeric = [
        place for place, column in enumerate(columns) if any(column) and all(map(is_number, filter(None, column)))
    ]
    if not rows:
        numeric = [place for place, cell in enumerate(cells) if cell]
    if numeric:
        return 2 * sum(is_number(cells[place]) for place in numeric) >= len(numeric)
    return 2 * sum(bool(cell) and cell in column for cell, column in zip(cells, columns, strict=True)) > len(cells)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, also with a decimal comma or in hexadecimal."""
    return NUMBER.fullmatch(cell) is not None


def without_header(name: str, cells: Sequence[str], given: Sequence[str], is_data: bool, found: Header) -> Header:
    """Return `found`, the header of a file whose columns are named by `given`; UserError if it does not fit.

    Args:
        name: Display name of the file.
        cells: Cells of the first line.
        given: Names of the columns.
        is_data: True if the first line looks like data.
        found: The header to return.
    """
    if len(cells) != len(given):
        raise UserError(
            f"{name} has {len(cells)} columns, and column_names gives {len(given)} names: name each column."
        )
    if not is_data and not any(map(is_number, cells)):
        told = next((f"{cell!r} for {name!r}" for cell, name in zip(cells, given, strict=True) if cell != name), "")
        raise UserError(
            f"{name} has a header that differs from column_names, with {told}: remove column_names, or give the names "
            "that stand in the file."
        )
    return found


def first_repeat(plain: Path, header: Header, changed: bool = False) -> int:
    """Return the number of the first line after the header that repeats it; 0 if there is none.

    Args:
        plain: The file.
        header: Its header.
        changed: True for a line that is no repeat, and most of whose cells are names of the header.
    """
    wanted = [name.lower() for name in header.raw_names]
    names = {name for name in wanted if not name.startswith(NAMELESS.lower())}
    with plain.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            lowered = line.strip("\r\n").lower()
            if number <= header.skip + 1 or not any(name in lowered for name in names):
                continue
            cells = named(split(lowered, header.delimiter))
            same = [name.lower() for name in cells] == wanted
            if same != changed and 2 * len(names.intersection(cells)) > len(names):
                return number
    return 0
