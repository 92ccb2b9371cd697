"""Distance between flows by their features: how far a flow is from the nearest one that the student learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.views import Floats, Ints
from iot_pipeline.flows.feature import Format
from iot_pipeline.flows.serialise import printed

NEIGHBOURS = 10  # of 1, 3, 5, 10, 20 and 50 the best or nearly so on Farm-Flow and RT-IoT2022, each class left out
HUGE = 1e150  # greater numbers would overflow in a difference or a product
FARTHEST = 30.0  # standard deviations
BLOCK = 2048  # flows compared at once: 64 MB of distances beside 4,096 reference flows
NAMED = 5  # most features that a reason names


@dataclass(frozen=True)
class Reason:
    """A feature that sets a flow apart from those that the student learnt from.

    `kind`: `out of range` (a number beyond [low, high], `by` so many widths of that range), `new value` (of a
    category), or `far` (the nearest known flow has `nearest`, `by` so large a share of all flows lies between).
    """

    feature: str
    value: float | str
    kind: str
    by: float | None = None
    low: float | None = None
    high: float | None = None
    nearest: float | str | None = None

    def __str__(self) -> str:
        if self.kind == "new value":
            return f"{self.feature} = {self.value}: no known flow has it"
        if self.kind == "far":
            return f"{self.feature} = {shown(self.value)}: the nearest known flow has {shown(self.nearest)}"
        far = f", {self.by:.3g} of that range beyond" if self.by is not None else ""
        return f"{self.feature} = {shown(self.value)}: known flows have {shown(self.low)} to {shown(self.high)}{far}"


def shown(value: float | str | None) -> str:
    """Print a value of a feature."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FeatureSpace:
    """Space of the features: a number by its rank among the reference flows, a category by its value.

    A rank is the share of reference flows below plus half of those equal. A number beyond the reference's range lies
    beyond 0 or 1 by log(1 + d), d its distance in widths of that range. Two values of a category are 1 apart.

    Numbers are those that flow texts print: rows of one flow group differ behind the last printed digit, and must get
    one verdict. The reference is printed here, other flows by `printed`, which the caller applies first.
    """

    table: pd.DataFrame  # the reference flows, as printed
    numbers: list[str]
    categories: list[str]
    form: Format

    @staticmethod
    def of(table: pd.DataFrame, features: Sequence[str], form: Format) -> FeatureSpace:
        """Return the space of some reference flows; `form`: how the data set's texts print a number."""
        numbers = [name for name in features if pd.api.types.is_numeric_dtype(table[name])]
        space = FeatureSpace(table, numbers, [name for name in features if name not in numbers], form)
        return replace(space, table=space.printed(table)[list(features)])

    def printed(self, flows: Any) -> pd.DataFrame:
        """Return the features of flows as their texts print them; `flows[name]` is a column."""
        found: dict[str, Any] = {name: as_printed(self.form, flows[name]) for name in self.numbers}
        return pd.DataFrame(found | {name: np.asarray(flows[name], object) for name in self.categories})

    def ranks(self, flows: Any) -> Floats:
        """Return the places of flows on the axes of the numbers [n, numbers]."""
        columns = []
        for name in self.numbers:
            known, own = (np.clip(np.asarray(table[name], np.float64), -HUGE, HUGE) for table in (self.table, flows))
            known = np.sort(known)
            low, high = known[0], known[-1]
            rank = (np.searchsorted(known, own) + np.searchsorted(known, own, side="right")) / (2 * len(known))
            width = high - low if high > low else max(abs(high), 1.0)
            above, below = np.maximum(own - high, 0) / width, np.maximum(low - own, 0) / width
            columns.append(rank + np.log1p(above) - np.log1p(below))
        return np.column_stack(columns) if columns else np.zeros((len(flows), 0))

    def codes(self, flows: Any) -> Floats:
        """Return the categories of flows as numbers of their values [n, categories]; -1 for a new one."""
        columns = []
        for name in self.categories:
            known = sorted(set(self.table[name]))
            columns.append(pd.Categorical(np.asarray(flows[name], object), categories=known).codes.astype(np.float64))
        return np.column_stack(columns) if columns else np.zeros((len(flows), 0))

    def logs(self, flows: Any) -> Floats:
        """Return the numbers of flows as signed logs in standard deviations of the reference's [n, numbers]."""
        columns = []
        for name in self.numbers:
            known, own = (signed_log(np.asarray(table[name], np.float64)) for table in (self.table, flows))
            columns.append(np.clip((own - known.mean()) / (known.std() or 1.0), -FARTHEST, FARTHEST))
        return np.column_stack(columns) if columns else np.zeros((len(flows), 0))

    def nearest(self, flows: Any) -> tuple[Floats, Ints]:
        """Return the mean distance (L1) of each flow to its nearest reference flows, and the number of the nearest."""
        return self._nearest(self.ranks(flows), self.codes(flows))

    def nearest_other(self) -> Floats:
        """Return the mean distance of each reference flow to the nearest others [n]."""
        return self._nearest(*self._own, others=True)[0]

    def _nearest(self, own: Floats, words: Floats, others: bool = False) -> tuple[Floats, Ints]:
        """Search by blocks.

        Args:
            own: Ranks of the flows.
            words: Their categories.
            others: True if the flows are the reference: none is its own neighbour.
        """
        from scipy.spatial.distance import cdist

        ranks, codes = self._own
        far, place = np.empty(len(own)), np.empty(len(own), dtype=np.int64)
        for start in range(0, len(own), BLOCK):
            part = slice(start, start + BLOCK)
            distance = cdist(own[part], ranks, "cityblock") if self.numbers else np.zeros((len(own[part]), len(codes)))
            if self.categories:
                distance = distance + len(self.categories) * cdist(words[part], codes, "hamming")
            place[part] = distance.argmin(axis=1)
            far[part] = mean_of_nearest(distance, start if others else None)
        return far, place

    @cached_property
    def _own(self) -> tuple[Floats, Floats]:
        """Ranks and categories of the reference flows."""
        return self.ranks(self.table), self.codes(self.table)

    def reasons(self, flows: Any, nearest: Ints) -> list[list[Reason]]:
        """Say for each flow which features set it apart: those out of range first, else the farthest from `nearest`."""
        own, other = self.ranks(flows), self.ranks(self.table.iloc[nearest])
        apart = np.abs(own - other)
        values = {name: np.asarray(flows[name]) for name in (*self.numbers, *self.categories)}
        bounds = {name: (float(self.table[name].min()), float(self.table[name].max())) for name in self.numbers}
        known = {name: set(self.table[name]) for name in self.categories}
        found = []
        for flow in range(len(own)):
            told = [
                Reason(name, str(values[name][flow]), "new value")
                for name in self.categories
                if values[name][flow] not in known[name]
            ]
            told += sorted(
                (
                    beyond(name, float(values[name][flow]), *bounds[name])
                    for name in self.numbers
                    if not bounds[name][0] <= values[name][flow] <= bounds[name][1]
                ),
                key=lambda reason: -(reason.by or np.inf),
            )
            found.append((told or self._far(values, nearest[flow], flow, apart[flow]))[:NAMED])
        return found

    def _far(self, values: dict[str, np.ndarray], nearest: int, flow: int, apart: Floats) -> list[Reason]:
        """List the numbers in which a flow is farthest from its nearest known one."""
        order = [place for place in np.argsort(-apart, kind="stable")[:NAMED] if apart[place] > 0]
        names = [self.numbers[place] for place in order]
        beside = self.table.iloc[nearest]
        return [
            Reason(name, float(values[name][flow]), "far", float(apart[place]), nearest=float(beside[name]))
            for name, place in zip(names, order, strict=True)
        ]


def as_printed(form: Format, values: Any) -> Floats:
    """Return numbers as flow texts print them; each distinct one is printed once."""
    distinct, place = np.unique(np.asarray(values, np.float64), return_inverse=True)
    shown: Floats = np.array([float(printed(form, value)) for value in distinct.tolist()], np.float64)[place]
    return shown


def mean_of_nearest(distance: Floats, start: int | None) -> Floats:
    """Return the mean of the NEIGHBOURS least distances of each row [rows]; with fewer columns, of all.

    `start`: the column of the first row's own flow, which is no neighbour of it; None if rows are no columns.
    """
    if start is not None:
        distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
    most = min(NEIGHBOURS, distance.shape[1] - (start is not None))
    if most < 1:  # a single reference flow has no other
        return np.zeros(len(distance))
    means: Floats = np.partition(distance, most - 1, axis=1)[:, :most].mean(axis=1)
    return means


def signed_log(values: Floats) -> Floats:
    """Return log(1 + |x|) with the sign of x."""
    return np.sign(values) * np.log1p(np.abs(values))


def beyond(name: str, value: float, low: float, high: float) -> Reason:
    """Return the reason of a number beyond the range of the known flows; `by` is None if these have one value alone.

    Args:
        name: The feature.
        value: Its value.
        low: Least value of the known flows.
        high: Their greatest value.
    """
    by = max(value - high, low - value) / (high - low) if high > low else None
    return Reason(name, value, "out of range", by, low, high)
