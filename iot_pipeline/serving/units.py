"""Units of given flows: raw, as a sensor measures them, or scaled, as the data set is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from iot_pipeline.errors import UserError
from iot_pipeline.flows.feature import Scale
from iot_pipeline.flows.reading.zeek_join import COMPUTED, PUBLISHED_DECIMALS
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.texts import RankTable

Unit = Literal["raw", "scaled"]
UNITS: tuple[Unit, ...] = get_args(Unit)
LARGEST_ROUNDED = 2.0**52  # greater doubles have no digits to round
TINY = 1e-300  # of a feature that is always 0
NEAREST_WHOLE = 0.25  # raw units: coarser printed values cannot show whether a feature is a whole number


def published_scales(spec: DatasetSpec) -> dict[str, Scale]:
    """Return the scale by which each source column is published; {} for a data set in raw units.

    Raises UserError if a data set is published scaled and the scale of one of its columns is not known.
    """
    if spec.scaling != "given":
        return {}
    plain = [f for f in spec.features if f.expression is None and not f.is_category]
    if lacking := [f.name for f in plain if f.scale is None]:
        told = ", ".join(lacking[:8])
        raise UserError(f"flows of data set {spec.name} cannot be given raw: the scale of {told} is not known")
    return {f.name: f.scale for f in plain if f.scale is not None}


@dataclass(frozen=True)
class Units:
    """Units in which flows of a data set may be given, and evidence against those that are stated.

    A data set that is published scaled takes both, `scaled` unless a request says otherwise; any other takes `raw`
    alone. The evidence is the train pool's: in raw units a feature is never negative, or always a whole number.
    """

    spec: DatasetSpec
    ranks: RankTable

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Scale of each source column; {} if flows are given in one kind of units alone."""
        try:
            return published_scales(self.spec)
        except UserError:
            return {}

    @property
    def default(self) -> Unit:
        """Units of flows whose request states none."""
        return "scaled" if self.spec.scaling == "given" else "raw"

    @property
    def accepted(self) -> tuple[Unit, ...]:
        """Units in which flows can be given, the default first."""
        return ("scaled", "raw") if self.scales else (self.default,)

    def check(self, units: Unit) -> None:
        """Raise UserError for units in which flows of this data set cannot be given."""
        if units in self.accepted:
            return
        if units == "raw":
            published_scales(self.spec)  # says which scale is not known
        raise UserError(f"data set {self.spec.name} is in raw units: its flows cannot be given scaled")

    @property
    def assumed(self) -> list[str]:
        """Features whose scale is assumed, so that their raw values may be put a little beside the published ones."""
        return [name for name, scale in self.scales.items() if scale.basis == "assumed"]

    def completed(self, row: Mapping[str, Any], units: Unit) -> Mapping[str, Any]:
        """Return a raw row with the columns that no Zeek log has, computed from those that it has."""
        if units != "raw":
            return row
        found = {}
        for name, (first, second) in COMPUTED.items():
            one, other = _count(row.get(first)), _count(row.get(second))
            if name in self.spec.source_columns and name not in row and one is not None and other is not None:
                found[name] = one - other
        return {**row, **found} if found else row

    def read(self, flows: pd.DataFrame, units: Unit, stated: bool) -> tuple[pd.DataFrame, dict[int, str]]:
        """Return flows as the data set is published, and by index the faults of those that contradict their units.

        Args:
            flows: Features in the given units.
            units: These units.
            stated: True if the request states them. Values that only look like raw ones contradict the default alone.
        """
        if not self.scales or not len(flows):
            return flows, {}
        values = flows[list(self.scales)].to_numpy(np.float64)
        if units == "scaled":
            return flows, {} if stated else self._raw_by_evidence(flows.index.tolist(), values)
        published = self._published(values)
        faults = self._impossible(flows.index.tolist(), values, published)
        return flows.assign(**dict(zip(self.scales, published.T, strict=True))), faults

    def _published(self, raw: np.ndarray) -> np.ndarray:
        """Return raw values [n, columns] as published, rounded as by serving.features; infinite if beyond doubles."""
        with np.errstate(over="ignore"):
            exact = (raw - self._offset) / self._width
            shifted = np.abs(exact) * 10.0**PUBLISHED_DECIMALS
        rounded = np.copysign(np.floor(shifted + 0.5), exact) / 10.0**PUBLISHED_DECIMALS + 0.0
        return np.where(shifted < LARGEST_ROUNDED, rounded, exact)

    def _impossible(self, places: list[int], values: np.ndarray, published: np.ndarray) -> dict[int, str]:
        """Return the faults of flows with a value that is impossible in raw units, by place."""
        faults = {}
        wrong, huge = self._refuted(values), ~np.isfinite(published)
        for row in np.flatnonzero((wrong | huge).any(axis=1)).tolist():
            if huge[row].any():
                faults[places[row]] = f"{self._told(int(huge[row].argmax()), values[row])} is too large to be scaled"
                continue
            column = int(wrong[row].argmax())
            usual = "is never negative" if values[row, column] < 0 and self._positive[column] else "is a whole number"
            faults[places[row]] = (
                f"{self._told(column, values[row])} cannot be in raw units, where it {usual}; for values as the data "
                "set publishes them state the units: scaled"
            )
        return faults

    def _raw_by_evidence(self, places: list[int], values: np.ndarray) -> dict[int, str]:
        """Return the faults of flows that no one stated to be scaled and whose values look raw, by place.

        All of their values are possible in raw units, and as raw ones at most half as many are out of range. Without
        limits of raw values on half of the features there is no evidence.
        """
        if 2 * (self._positive | self._whole).sum() < len(self._positive):
            return {}
        outside, other = self._beyond(values), self._beyond(self._published(values)) > 0
        raw = ~self._refuted(values).any(axis=1)
        look = raw & ((outside > 0).sum(axis=1) > 0) & (2 * other.sum(axis=1) <= (outside > 0).sum(axis=1))
        return {
            places[row]: f"{self._told(int(outside[row].argmax()), values[row])} is out of the published range, and "
            "all values of this flow can be raw ones: state the units, raw or scaled"
            for row in np.flatnonzero(look).tolist()
        }

    def _told(self, column: int, given: np.ndarray) -> str:
        return f"{list(self.scales)[column]} = {given[column]:.6g}"

    def _refuted(self, values: np.ndarray) -> np.ndarray:
        """Return which values are impossible in raw units [n, columns]."""
        wrong: np.ndarray = (self._positive & (values < 0)) | (self._whole & (values != np.rint(values)))
        return wrong

    def _beyond(self, published: np.ndarray) -> np.ndarray:
        """Return how far published values are out of the train pool's range [n, columns], in widths of the range."""
        far: np.ndarray = np.maximum(published - self._high, self._low - published) - self._step
        return np.maximum(far, 0) / np.maximum(self._high - self._low, self._step)

    @cached_property
    def _offset(self) -> np.ndarray:
        return np.array([scale.offset for scale in self.scales.values()])

    @cached_property
    def _width(self) -> np.ndarray:
        return np.array([scale.width for scale in self.scales.values()])

    @cached_property
    def _low(self) -> np.ndarray:
        return np.array([self.ranks.values[name][0] for name in self.scales])

    @cached_property
    def _high(self) -> np.ndarray:
        return np.array([self.ranks.values[name][-1] for name in self.scales])

    @cached_property
    def _step(self) -> np.ndarray:
        """Most by which a printed value of the pool differs from the published one."""
        form = self.spec.format
        if form.decimals is not None:
            return np.full(len(self.scales), 0.51 * 10.0**-form.decimals)
        assert form.significant is not None
        return 5.1 * 10.0**-form.significant * np.maximum(np.maximum(np.abs(self._low), np.abs(self._high)), TINY)

    @cached_property
    def _positive(self) -> np.ndarray:
        """True for a feature that has no negative raw value in the train pool."""
        return self._low * self._width + self._offset >= -self._step * self._width

    @cached_property
    def _whole(self) -> np.ndarray:
        """True for a feature all of whose raw values in the train pool are whole, as far as it prints them."""
        found = []
        for name, step in zip(self.scales, (self._step * self._width).tolist(), strict=True):
            raw = self.scales[name].to_raw(np.array(self.ranks.values[name]))
            found.append(step <= NEAREST_WHOLE and bool((np.abs(raw - np.rint(raw)) <= step).all()))
        return np.array(found)


def _count(cell: Any) -> int | None:
    """Return a cell as a number of packets, None if it is none."""
    if isinstance(cell, str) and cell.isascii() and cell.isdigit() and len(cell) < 20:
        return int(cell)
    return int(cell) if isinstance(cell, int) or (isinstance(cell, float) and cell.is_integer()) else None
