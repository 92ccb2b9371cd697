"""ARFF -> CSV: Weka's format, in which NSL-KDD and other sets are published beside their CSVs.

@attribute duration numeric            duration,service
@attribute 'service' {http,ftp}   ->   0,http
@data                                  ,ftp
0,http
?,ftp                                  ?: a missing value
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from iot_pipeline.errors import UserError

ATTRIBUTE = re.compile(r"@attribute\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))\s+\S", re.IGNORECASE)
MOST_HEADER_LINES = 100_000


def is_arff(plain: Path) -> bool:
    """Return whether the first line of a file that is neither blank nor a comment names a relation."""
    with plain.open(encoding="latin-1") as lines:
        for _ in range(1000):
            line = lines.readline(10_000)
            if line.strip() and not line.lstrip("\ufeffï»¿ ").startswith("%"):
                return line.lstrip("\ufeffï»¿ ").lower().startswith("@relation")
    return False


def as_csv(name: str, plain: Path, out: Path) -> Path:
    """Write an ARFF file as a CSV; return its path.

    Args:
        name: Display name for messages.
        plain: The ARFF file, in UTF-8.
        out: CSV to write.

    Raises:
        UserError: The file has no attribute or no @data, its rows are sparse, or a quote is not closed in its line.
    """
    # A byte that is not UTF-8 goes through, so that it costs its line there.
    kept = "surrogateescape"
    with (
        plain.open(encoding="utf-8-sig", errors=kept, newline="") as lines,
        out.open("w", encoding="utf-8", errors=kept, newline="") as written,
    ):
        writer = csv.writer(written, lineterminator="\n")
        numbered = enumerate(lines, 1)
        writer.writerow(attributes(name, numbered))
        for number, line in data_lines(name, numbered):
            cells = (cell.strip().removeprefix('"').removesuffix('"') for cell in cells_of(name, number, line))
            writer.writerow(["" if cell == "?" else cell for cell in cells])
    return out


def cells_of(name: str, number: int, line: str) -> list[str]:
    """Split one row; UserError if a quote is not closed in it: the rows behind would become a part of its cell."""
    try:
        cells: list[str] = next(csv.reader([line.rstrip("\r\n") + "\n"], quotechar="'", skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {number}, cannot be split: {error}.") from error
    if "\n" in cells[-1]:
        raise UserError(f"{name}, line {number}, has a quote that is never closed: mend or remove that line.")
    return cells


def attributes(name: str, numbered: Iterator[tuple[int, str]]) -> list[str]:
    """Read the header up to @data; return the names of the attributes."""
    found = []
    for number, line in numbered:
        text = line.strip()
        if text.lower().startswith("@data"):
            break
        if told := ATTRIBUTE.match(text):
            found.append(next(part for part in told.groups() if part is not None))
        elif text.lower().startswith("@attribute"):
            raise UserError(f"{name}, line {number}, is no attribute of an ARFF file: {text[:80]!r}.")
        if number > MOST_HEADER_LINES:
            raise UserError(f"{name} is an ARFF file without @data in its first {MOST_HEADER_LINES:,} lines.")
    if not found:
        raise UserError(f"{name} is an ARFF file without an @attribute: its columns have no names.")
    return found


def data_lines(name: str, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the rows and their numbers, without comments and blank lines; UserError for a sparse row."""
    for number, line in numbered:
        if line.startswith("{"):
            raise UserError(f"{name} is a sparse ARFF file, which is not read: save it with all values written.")
        if line.strip() and not line.startswith("%"):
            yield number, line
