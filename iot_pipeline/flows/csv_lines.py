"""Line count of a CSV, independent of DuckDB, to refuse rows that DuckDB would lose.

DuckDB reads in buffers of 32 MB: it drops a longer line silently and never finds the end of a longer quoted cell
(measured with 33 and 34 MB, DuckDB 1.5.6).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iot_pipeline.errors import UserError

LONGEST_ROW = 16_000_000  # bytes
CHUNK = 1 << 20
FEWEST_DELIMITERS = 3  # of a row, to know rows within a cell by


def count_lines(name: str, plain: Path, delimiter: str, skip: int = 1, quoted: bool = True) -> int | None:
    """Count the non-empty lines after the first `skip`, which are a header and what stands before it.

    Returns None if there are quotes, since a quoted cell may contain line breaks. Raises UserError naming the line of a
    row longer than LONGEST_ROW.

    Args:
        name: Display name of the file.
        plain: The file.
        delimiter: Its delimiter.
        skip: Lines that are no rows.
        quoted: False for a format without quotes, in which a quote is a character like any other.
    """
    line, length, lines, quotes, ended = skip, 0, 0, False, True
    with plain.open("rb") as file:
        for _ in range(skip):
            file.readline(LONGEST_ROW)
        while chunk := file.read(CHUNK):
            if chunk.endswith(b"\r"):
                chunk += file.read(1)
            lines += beginnings(chunk, ended)
            ended = chunk.endswith((b"\n", b"\r"))
            quotes = quotes or (quoted and b'"' in chunk)
            first = chunk.find(b"\n")
            if length + (len(chunk) if first < 0 else first) > LONGEST_ROW:
                raise UserError(too_long(name, line + 1))
            length = length + len(chunk) if first < 0 else len(chunk) - 1 - chunk.rfind(b"\n")
            line += chunk.count(b"\n")
    if quotes:
        check_quoted_rows(name, plain, delimiter)
        return None
    return lines


def beginnings(chunk: bytes, ended: bool) -> int:
    """Count the characters of a chunk that begin a line; `ended` is True if a line end stands before it."""
    plain = chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk
    if b"\r" not in plain and b"\n\n" not in plain:  # four times as fast, and nearly every chunk is such
        return plain.count(b"\n") - plain.endswith(b"\n") + (ended and not plain.startswith(b"\n"))
    codes = np.frombuffer(plain, dtype=np.uint8)
    ends = (codes == ord("\n")) | (codes == ord("\r"))
    return int(np.count_nonzero(~ends & np.concatenate([[ended], ends[:-1]])))


def check_quoted_rows(name: str, plain: Path, delimiter: str) -> None:
    """Refuse a row longer than LONGEST_ROW, and one with a cell that holds the rows behind it; raises UserError.

    Such a cell has a quote that is closed in the same column of a later line, so that the row looks whole:

        1,2,"x,Normal        row 1: the cell is `x,Normal\\n3,4,y`, and the label is that of row 2
        3,4,y",Attack
    """
    csv.field_size_limit(LONGEST_ROW)
    with plain.open(encoding="latin-1", newline="") as file:  # one character per byte
        reader = csv.reader(file, delimiter=delimiter)
        began = 1
        try:
            for row in reader:
                if sum(map(len, row)) > LONGEST_ROW:
                    raise UserError(too_long(name, began))
                if reader.line_num > began and holds_rows(row, delimiter):
                    raise UserError(
                        f"{name}, line {began}, has a quote that is closed in line {reader.line_num} only, with whole "
                        "rows in between: mend or remove that line."
                    )
                began = reader.line_num + 1
        except csv.Error as error:
            raise UserError(too_long(name, began)) from error


def holds_rows(row: Sequence[str], delimiter: str) -> bool:
    """Return whether a cell has for each line break as many delimiters as a row; text of a few columns may."""
    others = len(row) - 1
    return others >= FEWEST_DELIMITERS and any(
        cell.count(delimiter) == others * cell.count("\n") for cell in row if "\n" in cell
    )


def too_long(name: str, line: int) -> str:
    """Return the error message for a row that is too long."""
    return (
        f"{name}, line {line}, begins a row longer than {LONGEST_ROW // 1_000_000} MB, which cannot be read: mend or "
        "remove that row (a quote that is never closed makes one of all that follows)."
    )
