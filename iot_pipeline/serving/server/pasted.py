"""Flows within a text: JSON, lines of CSV under a header, or a flow's text as the prompts show it.

A text may hold more than the flow: the sentence of a prompt, or an event that has the flow somewhere within it. Text of
a client is read, never obeyed. Names that stand twice are treated as in files (flows/reading/names.py).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from iot_pipeline.errors import UserError, printable
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.reading.names import one_value_each
from iot_pipeline.flows.rows import Features, Row, number_of
from iot_pipeline.flows.serialise import NUMBER, parse_line
from iot_pipeline.flows.spec import DatasetSpec

DELIMITERS = ",;\t|"
MOST_OPENINGS = 100  # braces and brackets at which JSON is looked for
NAMED = 60  # characters of a name that a message repeats
DEEPEST = 12  # levels of objects in which a flow is looked for
# `name: value`, `name = value`, with a mark of a list before it and its place in the train pool behind. Clients write
# the lines, so no part can match in two ways: the time is linear in the length.
_LINE = re.compile(rf"(?:[-*]\s+)?`?([^\s:=`]+)`?\s*[:=]\s*({NUMBER}|{VALUE})(?:\s+p?\d{{1,3}}%?)?")


def read_flows(text: str, spec: DatasetSpec) -> list[Row]:
    """Return the flows that a text holds, [] if none is found; a row may lack columns, which its reader tells.

    JSON and CSV hold values as in the source. Lines hold them as flow texts show them: scaled, if the data set has
    scales that were fitted on the train pool. Raises UserError for JSON that names a key twice in an object, and for
    two columns of one name whose cells differ.
    """
    known = {name.lower() for name in [*spec.feature_names, *spec.source_columns]} - {spec.label_column.lower()}
    fewest = min(len(spec.feature_names), len(spec.source_columns) - 1)
    return _objects(text, known, fewest) or _table(text, known, fewest) or _lines(text, spec)


def _objects(text: str, known: set[str], fewest: int) -> list[Row]:
    """Return the flows among the JSON objects of a text: those with half of the `fewest` columns that make a flow.

    If there are none, those with any of the columns, whose reader tells what they lack.
    """
    values: list[Any] = []
    decoder, place, openings = json.JSONDecoder(object_pairs_hook=one_value_each), 0, 0
    while (opened := _opening(text, place)) >= 0 and openings < MOST_OPENINGS:
        openings += 1
        try:
            value, place = decoder.raw_decode(text, opened)
        except (ValueError, RecursionError):
            place = opened + 1
            continue
        values.append(value)
    half = max(1, fewest // 2)
    return list(_within(values, known, half)) or list(_within(values, known, 1))


def _opening(text: str, start: int) -> int:
    """Return the place of the next brace or bracket, -1 if there is none."""
    places = [place for sign in "{[" if (place := text.find(sign, start)) >= 0]
    return min(places, default=-1)


def _within(value: Any, known: set[str], least: int, depth: int = 0) -> Iterator[Row]:
    """Yield the objects within a JSON value that have at least `least` known columns, without those within them."""
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        if sum(str(name).strip().lower() in known for name in value) >= least:
            yield value
            return
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _within(one, known, least, depth + 1)


def _table(text: str, known: set[str], fewest: int) -> list[Row]:
    """Return the rows under the first line that names columns of the data set.

    Half of the `fewest` columns that make a flow suffice, or half of the line: what is missing is told later.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines):
        for delimiter in (sign for sign in DELIMITERS if sign in line):
            header = _cells(line, delimiter)
            if header and 2 * sum(cell.lower() in known for cell in header) >= min(fewest, len(header)):
                return list(_rows(header, lines[number + 1 :], delimiter))
    return []


def _rows(header: Sequence[str], lines: Sequence[str], delimiter: str) -> Iterator[Row]:
    """Yield the rows below a header, up to the first line that is none."""
    for line in lines:
        cells = _cells(line, delimiter)
        if len(cells) != len(header):
            if line.strip():
                return
            continue
        yield _row(header, cells)


def _row(header: Sequence[str], cells: Sequence[str]) -> Row:
    """Return a row; UserError if columns of one name have different cells."""
    row = dict(zip(header, cells, strict=True))
    if len(row) < len(header):
        for name, cell in zip(header, cells, strict=True):
            if row[name] != cell and name:
                raise UserError(f"the column {printable(name, '')[:NAMED]!r} stands twice, with different cells")
    return row


def _cells(line: str, delimiter: str) -> list[str]:
    """Split a line; [] if it is no line of CSV."""
    try:
        return [cell.strip(" \ufeff") for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _lines(text: str, spec: DatasetSpec) -> list[Row]:
    """Return the flows that lines of `feature: value` make; a feature that comes again begins another flow."""
    names = {name.lower(): name for name in spec.feature_names}
    flows: list[Row] = []
    row: Features = Features()
    for line in text.splitlines():
        for name, value in _facts(line, names):
            if name in row:
                flows.append(row)
                row = Features()
            row[name] = _raw(spec, name, value)
    return [*flows, row] if row else flows


def _facts(line: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the (feature, value) pairs of a line; [] if it is not one of a flow's text."""
    line = line.strip(" \t,;")
    if (match := _LINE.fullmatch(line)) is not None and match[1].lower() in names:
        return [(names[match[1].lower()], match[2])]
    found = [(name, value) for name, value, _place in parse_line(line)]
    return found if found and all(name in names.values() for name, _ in found) else []


def _raw(spec: DatasetSpec, name: str, value: str) -> Any:
    """Return a printed value as the source has it."""
    if name in spec.category_names:
        return unquote(value)
    if name not in spec.fitted_scales:
        return value
    number = number_of(value, spec)
    return spec.fitted_scales[name].to_raw(number) if isinstance(number, float) else value
