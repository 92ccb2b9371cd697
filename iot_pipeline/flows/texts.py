"""Texts of flows: one file with every distinct flow's text, and the writer for flows that are not in it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import leads, printed_sql, printer, shortened
from iot_pipeline.flows.spec import DatasetSpec, Scale
from iot_pipeline.flows.sql import ROW_GROUP, connect, identifier, scan, write_batches
from iot_pipeline.lake.atomic import read_json, write_json

TEXTS = pa.schema([("flow_group", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class RankTable:
    """Row counts of the train pool by printed value, for percentile ranks and shares.

    `values[feature]` are the distinct printed values of a number, ascending; `cumulative[feature][i]` is the number of
    rows at or below the i-th. `counts[feature]` are the rows of each value of a category. `rows` is the number of rows
    of the pool.
    """

    rows: int
    values: dict[str, list[float]]
    cumulative: dict[str, list[int]]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def share(self, feature: str, word: str) -> int:
        """Return the percentage of rows, 0..100, that have a category's printed value; halves round up."""
        return (200 * self.counts[feature].get(word, 0) + self.rows) // (2 * self.rows)

    def place(self, feature: str, text: str) -> str:
        """Return what `ranked` writes behind a printed value: its percentile (p97), or a category's share (83%)."""
        if feature in self.counts:
            return f"{self.share(feature, text)}%"
        return f"p{self.percentile(feature, text)}"

    def usual(self, feature: str) -> str:
        """Return a category's commonest printed value; of several, the first by name."""
        counts = self.counts[feature]
        return min(counts, key=lambda word: (-counts[word], word))

    def percentile(self, feature: str, text: str) -> int:
        """Return the mid-rank percentile, 0..100, of a printed value: rows below plus half of those equal."""
        values, cumulative = self.values[feature], self.cumulative[feature]
        number = float(text)
        left, right = bisect.bisect_left(values, number), bisect.bisect_right(values, number)
        below = cumulative[left - 1] if left else 0
        upto = cumulative[right - 1] if right else 0
        # Integer arithmetic: halves round up on every platform.
        return (100 * (below + upto) + self.rows) // (2 * self.rows)

    def has(self, feature: str, text: str) -> bool:
        """True if a printed number is within the pool's range, or a category's value occurs in the pool."""
        if feature in self.counts:
            return text in self.counts[feature]
        return self.values[feature][0] <= float(text) <= self.values[feature][-1]

    def median(self, feature: str) -> float:
        """Return the median printed value as a number: the lowest one that half of the rows do not exceed."""
        return self.values[feature][bisect.bisect_left(self.cumulative[feature], self.rows / 2)]


def fit_ranks(spec: DatasetSpec, flows: Path, records: Path) -> RankTable:
    """Fit the rank table on the rows of flows.parquet whose group is on side `train` of records.parquet.

    Ranks are computed on the values that texts show, scaled if there are fitted scales. Raises UserError if no flow is
    on the train side.
    """
    show, scaled = printer(spec), bool(spec.fitted_scales)
    with connect(flows, records) as connection:
        connection.execute(
            f"CREATE TEMP TABLE pool AS SELECT * FROM {scan(flows)} WHERE flow_group IN "
            f"(SELECT flow_group FROM {scan(records)} WHERE side = 'train')"
        )
        rows = connection.execute("SELECT count(*) FROM pool").fetchall()[0][0]
        if rows == 0:
            raise UserError(f"{records.name} has no flow on the train side, so there is nothing to rank against.")
        values: dict[str, list[float]] = {}
        cumulative: dict[str, list[int]] = {}
        for name in spec.number_names:
            # Group before formatting: there are far fewer distinct values than rows.
            query = f"""
                WITH counted AS (SELECT {identifier(name)} AS x, count(*) AS n FROM pool GROUP BY ALL)
                SELECT CAST({printed_sql(spec.format, "x")} AS DOUBLE) AS v, sum(n) FROM counted
                GROUP BY v ORDER BY v"""
            found = connection.execute(query).fetchall()
            upto = np.cumsum([int(row[1]) for row in found]).tolist()
            # Scaling keeps the order; where it maps several values to one, the last holds the cumulative count.
            table = dict(zip((float(show(name, v)) if scaled else v for v, _ in found), upto, strict=True))
            values[name], cumulative[name] = list(table), list(table.values())
        counts = {
            name: dict(
                connection.execute(
                    f"SELECT {identifier(name)}, count(*) FROM pool GROUP BY ALL ORDER BY ALL"
                ).fetchall()
            )
            for name in spec.category_names
        }
    return RankTable(rows=rows, values=values, cumulative=cumulative, counts=counts)


@dataclass(frozen=True)
class FlowTextWriter:
    """Writer of flow texts: a data set's spec with the scales that texts apply, the serialisation, the rank table.

    Raises UserError for an unknown serialisation, or for `ranked` without ranks, when the first text is written.
    """

    spec: DatasetSpec
    serialisation: str
    ranks: RankTable | None = None

    @staticmethod
    def load(folder: Path, spec: DatasetSpec) -> FlowTextWriter:
        """Return the writer that `save` wrote into a folder; `spec` is the data set's, without fitted scales."""
        content = read_json(folder / "writer.json")
        scales = {name: Scale.model_validate(scale) for name, scale in content["scales"].items()}
        spec = spec.with_scales(scales) if scales else spec
        ranks = RankTable(**content["ranks"])
        spec = spec.with_values(ranks.counts) if ranks.counts else spec
        return FlowTextWriter(spec, content["serialisation"], ranks)

    def save(self, folder: Path) -> None:
        """Write writer.json: all that a text depends on besides the flow and the spec; `ranks` must be given."""
        assert self.ranks is not None
        scales = {name: scale.model_dump() for name, scale in self.spec.fitted_scales.items()}
        ranks = {name: part for name, part in asdict(self.ranks).items() if name != "counts" or part}
        content = {"serialisation": self.serialisation, "scales": scales, "ranks": ranks}
        write_json(folder / "writer.json", content)

    def text(self, values: Sequence[Any]) -> str:
        """Serialise the values of one flow, in the order of the features."""
        cells = zip(self._leads, self.spec.features, values, strict=True)
        return "".join(
            lead + self._cell(feature.name, value if feature.is_category else float(value))
            for lead, feature, value in cells
        )

    def texts(self, table: Any) -> list[str]:
        """Serialise many flows; `table` is anything whose `table[name]` is a column (pandas, Arrow, dict).

        Each distinct value of a column is formatted once.
        """
        columns, cell = [], self._cell
        for lead, (name, distinct, inverse) in zip(self._leads, self._distinct(table), strict=True):
            parts = [lead + cell(name, value) for value in distinct]
            columns.append(np.array(parts, dtype=object)[inverse].tolist() if parts else [])
        return ["".join(parts) for parts in zip(*columns, strict=True)]

    def out_of_range(self, table: Any) -> list[list[str]]:
        """Return for each flow the features whose value is outside what the train pool has (see `RankTable.has`)."""
        ranks, show = self.ranks, printer(self.spec)
        assert ranks is not None  # `save` writes them for every serialisation
        columns = []
        for name, distinct, inverse in self._distinct(table):
            outside = ["" if ranks.has(name, show(name, value)) else name for value in distinct]
            columns.append(np.array(outside, dtype=object)[inverse].tolist() if outside else [])
        return [[name for name in names if name] for names in zip(*columns, strict=True)]

    def _distinct(self, table: Any) -> Iterator[tuple[str, list[Any], np.ndarray]]:
        """Yield (feature, its distinct values, the place of each flow's value among them)."""
        for feature in self.spec.features:
            given = np.asarray(table[feature.name], dtype=object if feature.is_category else np.float64)
            distinct, inverse = np.unique(given, return_inverse=True)
            yield feature.name, distinct.tolist(), inverse

    def write_texts(self, flows: Path, records: Path, out: Path) -> int:
        """Write the text of every distinct flow, by flow group, in parts of ROW_GROUP; return their number."""
        names = ", ".join(f"f.{identifier(name)}" for name in self.spec.feature_names)
        query = f"""
            SELECT r.flow_group, {names} FROM (SELECT DISTINCT flow_group, row_id FROM {scan(records)}) r
            JOIN {scan(flows)} f USING (row_id) ORDER BY r.flow_group"""
        with connect(flows, records) as connection:
            parts = connection.sql(query).to_arrow_reader(ROW_GROUP)
            return write_batches(
                out, TEXTS, (pa.record_batch([part["flow_group"], self.texts(part)], schema=TEXTS) for part in parts)
            )

    @cached_property
    def _leads(self) -> tuple[str, ...]:
        return leads(self.spec.feature_names, self.serialisation, self.spec.category_names)

    @cached_property
    def _cell(self) -> Callable[[str, Any], str]:
        """Formatter (feature, value) -> the value's text."""
        show, ranks = printer(self.spec), self.ranks
        if self.serialisation == "compact":
            categories = frozenset(self.spec.category_names)
            return lambda name, value: value if name in categories else shortened(show(name, value))
        if self.serialisation != "ranked":
            return show
        if ranks is None:
            raise UserError("the serialisation ranked needs the rank table of the train pool.")

        def ranked(name: str, value: Any) -> str:
            text = show(name, value)
            return f"{text} {ranks.place(name, text)}"

        return ranked
