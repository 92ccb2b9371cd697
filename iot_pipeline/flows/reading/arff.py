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
from typing import IO

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
        UserError: The file has no attribute or no @data, or its rows are sparse.
    """
    # A byte that is not UTF-8 goes through, so that it costs its line there.
    kept = "surrogateescape"
    with (
        plain.open(encoding="utf-8-sig", errors=kept, newline="") as lines,
        out.open("w", encoding="utf-8", errors=kept, newline="") as written,
    ):
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(attributes(name, lines))
        for row in csv.reader(data_lines(name, lines), quotechar="'", skipinitialspace=True):
            cells = (cell.strip().removeprefix('"').removesuffix('"') for cell in row)
            writer.writerow(["" if cell == "?" else cell for cell in cells])
    return out


def attributes(name: str, lines: IO[str]) -> list[str]:
    """Read the header up to @data; return the names of the attributes."""
    found = []
    for number, line in enumerate(lines, 1):
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


def data_lines(name: str, lines: IO[str]) -> Iterator[str]:
    """Yield the rows, without comments and blank lines; UserError for a sparse row."""
    for line in lines:
        if line.startswith("{"):
            raise UserError(f"{name} is a sparse ARFF file, which is not read: save it with all values written.")
        if line.strip() and not line.startswith("%"):
            yield line
