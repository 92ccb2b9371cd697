"""Flows given row by row (JSON objects, pasted lines), read by the rules of a data set without a file in between.

A row's result depends on the row alone, never on the others that are read with it.

A number is digits of ASCII with at most one point (or the data set's decimal comma), a sign before and an exponent
behind, with blanks around; `inf` and `nan` are read, and refused because they are not finite. Nothing else is one: no
1_000, no 0x10, no digits of other scripts. Tables are read by the same rule (`sql.number_sql`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from iot_pipeline.flows.build import AS_GIVEN, derived_columns
from iot_pipeline.flows.categories import MOST_CHARACTERS, printed_category
from iot_pipeline.flows.feature import Feature
from iot_pipeline.flows.reading.names import MOST_COLUMNS, column_names, unclear_copies
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import LONGEST_NUMBER, connect

if TYPE_CHECKING:
    import duckdb

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
NOT_FINITE = re.compile(r"[-+]?(?:inf(?:inity)?|nan)", re.IGNORECASE)
BLANKS = " \t\n\r\v\f"  # around a number
SHOWN = 60  # characters of a cell that a message repeats
NAMED = 8  # columns that a message names

Row = Mapping[str, Any]


class Features(dict[str, Any]):
    """Row of features by their names, as a flow text gives them, where a column of a feature's name may differ."""


@dataclass
class RowReader:
    """Reader of rows: source columns, raw as in the source, or all features by their names, if columns are missing.

    Further columns are ignored. One reader serves one thread. `words`: source columns that expressions see as text, as
    in the training source; None: unknown, so that each row's cells that are no numbers are seen as text.
    """

    spec: DatasetSpec
    words: frozenset[str] | None = None
    columns: list[str] = field(init=False)
    _connection: duckdb.DuckDBPyConnection | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.columns = [name for name in self.spec.source_columns if name != self.spec.label_column]

    def read(self, rows: Sequence[Row]) -> tuple[pd.DataFrame, dict[int, str]]:
        """Return the features of the good rows (index: place in `rows`), and place -> fault of the others."""
        faults: dict[int, str] = {}
        derived: dict[int, list[Any]] = {}
        given: dict[frozenset[str], dict[int, dict[str, Any]]] = {}
        for place, row in enumerate(rows):
            cells: dict[str, Any] | str = "" if isinstance(row, Features) else self._cells(row, self.columns)
            if isinstance(cells, dict) and not self._direct:
                given.setdefault(self._words(cells), {})[place] = cells
                continue
            features = cells if isinstance(cells, dict) else self._cells(row, self.spec.feature_names)
            if isinstance(features, dict):
                derived[place] = [features[name] for name in self.spec.feature_names]
            else:
                faults[place] = features if isinstance(cells, dict) else cells or features
        values: dict[int, list[Any]] = {}
        for place, found in derived.items():
            self._keep(values, faults, place, found)
        for words, part in given.items():
            for place, computed in self._computed(part, words).items():
                if isinstance(computed, str):
                    faults[place] = computed
                else:
                    self._keep(values, faults, place, computed, part[place])
        good = sorted(values)
        frame = pd.DataFrame([values[place] for place in good], columns=self.spec.feature_names, index=good)
        return frame, faults

    def _words(self, cells: Row) -> frozenset[str]:
        """Return the columns that expressions see as text in a row."""
        if self.words is not None:
            return self.words
        return frozenset(n for n in self._computed_from if isinstance(number_of(cells[n], self.spec), str))

    @cached_property
    def _direct(self) -> bool:
        return all(feature.expression is None for feature in self.spec.features)

    @cached_property
    def _computed_from(self) -> list[str]:
        """Columns that expressions read."""
        features = [feature for feature in self.spec.features if feature.expression is not None]
        return list(dict.fromkeys(column for feature in features for column in feature.source_columns))

    def _cells(self, row: Row, wanted: Sequence[str]) -> dict[str, Any] | str:
        """Return the wanted cells of a row, or its fault."""
        if len(row) > MOST_COLUMNS:
            return f"it has {len(row):,} columns, {MOST_COLUMNS:,} at most"
        if not all(name in row for name in wanted):
            given = [str(name) for name in row]
            named, copies = column_names(given, wanted)
            row = dict(zip(named, row.values(), strict=True))
            unclear = unclear_copies(given, named, copies).items()
            if twice := [name for copy, name in unclear if name in wanted and row[copy] != row[name]]:
                return f"it has the column {twice[0]} twice, in two spellings, with different values"
        if lacking := [name for name in wanted if name not in row]:
            told = ", ".join(lacking[:NAMED]) + (", ..." if len(lacking) > NAMED else "")
            return f"it lacks {len(lacking)} of the columns of data set {self.spec.name}: {told}"
        cells = {name: row[name] for name in wanted}
        strange = next((name for name, cell in cells.items() if not _is_plain(cell)), None)
        return cells if strange is None else f"{strange} is neither a number nor a text of Unicode"

    def _computed(self, part: dict[int, dict[str, Any]], words: frozenset[str]) -> dict[int, list[Any] | str]:
        """Compute the features of rows by the spec's expressions, which see the columns `words` as text.

        A row for which an expression fails has a fault in place of values.
        """
        import duckdb

        try:
            return dict(zip(part, self._compute(part, words), strict=True))
        except duckdb.Error:
            if len(part) > 1:  # the others are not to blame
                return {place: self._computed({place: row}, words)[place] for place, row in part.items()}
        ((place, cells),) = part.items()
        wrong = [(name, _wrong(cells[name], self.spec, False)) for name in self._computed_from]
        told = [f"{what} in {name}" for name, what in wrong if what]
        return {place: (told or ["the expressions of the data set's features fail on it"])[0]}

    def _compute(self, part: Mapping[int, Mapping[str, Any]], words: frozenset[str]) -> list[list[Any]]:
        if self._connection is None:
            self._connection = connect(memory="256MB")
        connection, features = self._connection, self.spec.features
        columns = {}
        for name in self._computed_from:
            cells = [row[name] for row in part.values()]
            columns[name] = (
                pa.array([_text(cell) for cell in cells], pa.string())
                if name in words
                else pa.array([_number_or_none(cell, self.spec) for cell in cells], pa.float64())
            )
        for feature in features:
            if feature.is_plain_category:
                texts = [_text(row[feature.name]) for row in part.values()]
                columns[f"{AS_GIVEN}{feature.name}"] = pa.array(texts, pa.string())
        plain = {f.name for f in features if f.expression is None and not f.is_category}
        connection.register("cells", pa.table(columns))
        try:
            derived = derived_columns(connection, _without(self.spec, plain))
            table = connection.execute(f"SELECT {', '.join(derived)} FROM cells").to_arrow_table()
        finally:
            connection.unregister("cells")
        found = {name: table.column(name).to_pylist() for name in table.column_names}
        found |= {name: [row[name] for row in part.values()] for name in plain}
        return [list(cells) for cells in zip(*(found[feature.name] for feature in features), strict=True)]

    def _keep(
        self,
        values: dict[int, list[Any]],
        faults: dict[int, str],
        place: int,
        found: Sequence[Any],
        cells: Mapping[str, Any] | None = None,
    ) -> None:
        """Put the values of a row's features into `values`, or its first fault into `faults`."""
        kept: list[Any] = []
        for feature, cell in zip(self.spec.features, found, strict=True):
            value = _category(feature, cell) if feature.is_category else number_of(cell, self.spec)
            if value is None or (isinstance(value, float) and not math.isfinite(value)) or _is_word(feature, value):
                faults[place] = self._fault(feature, cell, cells)
                return
            if isinstance(value, str) and len(value) > MOST_CHARACTERS:
                faults[place] = f"the value of {feature.name} has more than {MOST_CHARACTERS} characters as printed"
                return
            kept.append(value)
        values[place] = kept

    def _fault(self, feature: Feature, cell: Any, cells: Mapping[str, Any] | None) -> str:
        """Say why a feature has no value, by the cell that is at fault."""
        read = [feature.name] if cells is None else feature.source_columns
        for column in read:
            told = _wrong(cell if cells is None else cells[column], self.spec, feature.is_category)
            if told:
                return f"{told} in {column}"
        return f"no {'value of' if feature.is_category else 'finite'} {feature.name}"


def _is_plain(cell: Any) -> bool:
    """True for numbers, None and texts that UTF-8 can encode (JSON may hold lone surrogates)."""
    if isinstance(cell, str):
        return cell.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in cell)
    return cell is None or isinstance(cell, int | float)


def _without(spec: DatasetSpec, names: set[str]) -> DatasetSpec:
    """Return a spec without some features, whose values need no expression."""
    return spec.model_copy(update={"features": [feature for feature in spec.features if feature.name not in names]})


def _is_word(feature: Feature, value: Any) -> bool:
    """Return True for a text where a number is wanted."""
    return isinstance(value, str) and not feature.is_category


def number_of(cell: Any, spec: DatasetSpec) -> float | str | None:
    """Return a cell as a number, None if it is blank, and its text if it is no number."""
    if isinstance(cell, float):
        return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        try:
            return float(cell)
        except OverflowError:
            return math.inf
    text = _text(cell)
    if text is None or not isinstance(cell, str) or len(cell) > LONGEST_NUMBER:
        return text
    text = text.strip(BLANKS) or text
    plain = text.replace(",", ".") if spec.decimal == "," else text
    return float(plain) if NUMBER.fullmatch(plain) or NOT_FINITE.fullmatch(plain) else text


def _number_or_none(cell: Any, spec: DatasetSpec) -> float | None:
    """Return a cell as a number, None if it is none."""
    value = number_of(cell, spec)
    return None if isinstance(value, str) else value


def _text(cell: Any) -> str | None:
    """Return a cell as text, None if it is blank; a whole number has no fraction."""
    if cell is None:
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        cell = int(cell)
    return str(cell).strip(" \t\r\n") or None


def _category(feature: Feature, cell: Any) -> str | None:
    """Return the printed word of a category's cell; None if it is blank and the spec names no value for blanks."""
    text = feature.blank if (found := _text(cell)) is None else found
    return None if text is None else printed_category(text)


def _wrong(cell: Any, spec: DatasetSpec, category: bool) -> str:
    """Return what is wrong with a cell; an empty string if nothing is."""
    value = _text(cell) if category else number_of(cell, spec)
    if value is None:
        return "missing value"
    if isinstance(value, str):
        return "" if category else f"not a number ({value[:SHOWN]!r})"
    return "NaN" if math.isnan(value) else "infinite value" if math.isinf(value) else ""
