"""Raw rows -> features: unlabelled rows of a table read by the rules of a data set, each usable or told why not."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import derive_features, find_rejects, word_columns
from iot_pipeline.flows.reading.zeek_join import PUBLISHED_DECIMALS
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.serving.units import published_scales

MEMORY = "256MB"  # of DuckDB, for 100,000 rows at once
TABLES = ("derived", "bad", "rejects")


@dataclass(frozen=True)
class Invalid:
    """A row that is no flow: its number in the table, from 0, the reason, and the cell at fault."""

    row: int
    reason: str
    cell: str


@dataclass(frozen=True)
class Features:
    """Features of the usable rows of a table, with flow_group; `rows`: their numbers in the table, from 0."""

    table: pa.Table
    rows: list[int]
    invalid: list[Invalid]


def group_writer(spec: DatasetSpec) -> FlowTextWriter:
    """Return the writer of the texts that name flow groups: values as they were before any scale of the train pool."""
    raw = [f.model_copy(update={"scale": None}) if f.name in spec.fitted_scales else f for f in spec.features]
    return FlowTextWriter(spec.model_copy(update={"features": raw}), "values")


class FeatureReader:
    """Reader of features, by the rules of a data set.

    `words`: source columns that expressions see as text, as in the training source. `raw`: True if the values of a data
    set that is published scaled are in raw units; UserError if a scale is not known.
    """

    def __init__(self, spec: DatasetSpec, words: frozenset[str] = frozenset(), raw: bool = False) -> None:
        self.spec, self.words = spec, words
        self._needed = list(dict.fromkeys(column for f in spec.features for column in f.source_columns))
        self._scaled = published_scales(spec) if raw else {}
        self._values = group_writer(spec)
        self._folder = tempfile.TemporaryDirectory(prefix="iot_features_")
        self._connection = connect(Path(self._folder.name), memory=MEMORY)

    def close(self) -> None:
        """Close the connection and remove its files."""
        self._connection.close()
        self._folder.cleanup()

    def read(self, table: pa.Table) -> Features:
        """Read the rows of a table whose cells are texts or numbers; UserError if it lacks a column."""
        if missing := [column for column in self._needed if column not in table.column_names]:
            raise UserError(f"the flows lack {len(missing)} of the columns needed: {', '.join(missing[:8])}")
        spec, connection = self.spec, self._connection
        raw = Path(self._folder.name) / "raw.parquet"  # of one name: `connect` has DuckDB remember no file
        cells = [table[c].cast(pa.string()) if c in self.words else table[c] for c in self._needed]
        # Validation needs a label, which new flows lack: each gets the first class.
        label = pa.array([spec.classes[0]] * len(table), pa.string())
        pq.write_table(pa.table([*cells, label], [*self._needed, spec.label_column]), raw, compression="none")
        try:
            derive_features(connection, spec, raw, set(self.words))
            found = connection.execute(self._query()).to_arrow_table()
            invalid = self._invalid() if len(found) < len(table) else []
        finally:
            for name in TABLES:
                connection.execute(f"DROP TABLE IF EXISTS {name}")
            raw.unlink()
        rows = [number - 1 for number in found["source_row"].to_pylist()]
        groups = pa.array([group_id(text) for text in self._values.texts(found)], pa.string())
        return Features(found.drop_columns(["source_row"]).append_column("flow_group", groups), rows, invalid)

    def _query(self) -> str:
        """Return SQL for the usable rows: source_row, and features in the data set's units."""
        columns = []
        for feature in self.spec.features:
            name = identifier(feature.name)
            if (scale := self._scaled.get(feature.name)) is not None:
                value = f"round(({name} - ({scale.offset!r})) / {scale.width!r}, {PUBLISHED_DECIMALS}) + 0.0"
                name = f"{value} AS {name}"
            columns.append(name)
        return f"SELECT source_row, {', '.join(columns)} FROM derived WHERE reason IS NULL ORDER BY source_row"

    def _invalid(self) -> list[Invalid]:
        find_rejects(self._connection, self.spec, set(self.words))
        found = self._connection.execute("SELECT source_row, reason, cell FROM rejects ORDER BY source_row").fetchall()
        return [Invalid(row - 1, reason or "no usable value", cell or "") for row, reason, cell in found]


def words_of(spec: DatasetSpec, raw: Path) -> frozenset[str]:
    """Return the columns of a training source (raw.parquet) that expressions see as text."""
    with connect(raw) as connection:
        return frozenset(word_columns(connection, spec, raw))
