"""Moves of a flow's values: as another capture of the same behaviour has them, or as the prior work moved them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from iot_pipeline.augmentation.flowmeter import SIDES, WAYS, Parts, Values, features_of, parts_of
from iot_pipeline.flows.spec import DatasetSpec, Format, Scale

SPREAD = 0.05
TCP_HEADER, MOST_HEADER, OPTION = 20, 60, 4  # bytes; TCP options come in words of 4
SEGMENT = 1460  # payload bytes of a full packet


class Mover(Protocol):
    """Way of moving published values."""

    @property
    def width(self) -> int:
        """Random numbers, 0 to 1, that a move takes."""

    def hindrance(self, values: Values) -> list[str]:
        """Return the reason why flows [n, features] cannot be moved, an empty text for those that can."""

    def move(self, values: Values, draws: Values) -> tuple[Values, Values]:
        """Move flows [n, features] by draws [n, width]; return the values and time factors [n], NaN without time."""


@dataclass(frozen=True)
class PaperMoves:
    """Moves of the prior work: every published value times uniform(0.95, 1.05), categories apart.

    width: Number of features. fixed: Places of the categories.
    """

    width: int
    fixed: Sequence[int] = ()

    def hindrance(self, values: Values) -> list[str]:
        """Return no reason: every value can be multiplied."""
        return [""] * len(values)

    def move(self, values: Values, draws: Values) -> tuple[Values, Values]:
        """Multiply each value."""
        moved = values * _spread(draws)
        moved[:, list(self.fixed)] = values[:, list(self.fixed)]
        return moved, np.full(len(values), np.nan)


@dataclass(frozen=True)
class TimeMoves:
    """Moves of time alone: the same packets, slower or faster, which asks for no scale but the value of a raw zero.

    Args:
        names: Names of the features.
        zero: Published values of raw zeros, float [features].
        reason: Reason why a flow without time is not moved.
    """

    names: Sequence[str]
    zero: Values
    reason: str
    width: int = 1

    @cached_property
    def _masks(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Features that are times and those that are rates."""
        rates = [name.endswith("_pkts_per_sec") for name in self.names]
        return np.array(["_iat." in name for name in self.names]), np.array(rates)

    def hindrance(self, values: Values) -> list[str]:
        """Return the reason for each flow in which no time has passed."""
        timed = np.logical_or(*self._masks)
        moving = np.any(np.abs(values[:, timed] - self.zero[timed]) > 1e-9, axis=1).tolist()
        return ["" if moves else self.reason for moves in moving]

    def move(self, values: Values, draws: Values) -> tuple[Values, Values]:
        """Multiply times by a factor and divide rates by it."""
        times, rates = self._masks
        factor = _spread(draws[:, 0])
        scale = np.where(times, factor[:, None], np.where(rates, 1 / factor[:, None], 1.0))
        return np.where(scale == 1.0, values, self.zero + (values - self.zero) * scale), factor


@dataclass(frozen=True)
class FlowMoves:
    """Moves of times, bytes and packets that keep every identity of the features (flowmeter.py).

    Args:
        names: Names of the features.
        offset: Raw values that are published as 0, float [features].
        scale: Raw units per published unit, float [features].
        form: Number format of texts.
    """

    names: Sequence[str]
    offset: Values
    scale: Values
    form: Format
    width: int = 7

    def hindrance(self, values: Values) -> list[str]:
        """Return the reason for each flow whose features do not fit together, or that has nothing to move."""
        parts = parts_of(self._raw(values))
        made = self._published(features_of(parts), values)
        digits = self.form.decimals if self.form.significant is None else self.form.significant - 1
        assert digits is not None
        unit = 10.0**-digits
        fits = np.abs(made - values) <= (unit if self.form.significant is None else unit * np.abs(values) + 1e-9)
        moving = parts["duration"] > 0
        for way in SIDES:
            moving |= (parts[f"{way}_payload"] > 0) | (parts[f"{way}_header_min"] >= TCP_HEADER)
        return [
            "" if fit and moves else "its features do not fit together" if not fit else "no time, payload or options"
            for fit, moves in zip(np.all(fits, axis=1).tolist(), moving.tolist(), strict=True)
        ]

    def move(self, values: Values, draws: Values) -> tuple[Values, Values]:
        """Move times, payload, headers and packets, and compute the features anew."""
        parts = parts_of(self._raw(values))
        moved, factor = move_parts(parts, draws)
        before, after = features_of(parts), features_of(moved)
        changed = {name: after[name] for name in after if not np.array_equal(after[name], before[name])}
        published = self._published(changed, values)
        for name in changed:  # what did not move keeps its digits
            column = self.names.index(name)
            kept = after[name] == before[name]
            published[kept, column] = values[kept, column]
        return published, factor

    def _raw(self, values: Values) -> dict[str, Values]:
        return dict(zip(self.names, (values * self.scale + self.offset).T, strict=True))

    def _published(self, features: dict[str, Values], values: Values) -> Values:
        """Return values with these features in place of their own."""
        found = values.copy()
        for name, raw in features.items():
            column = self.names.index(name)
            found[:, column] = (raw - self.offset[column]) / self.scale[column]
        return found


def raw_units(spec: DatasetSpec, simulated: bool) -> tuple[Values, Values]:
    """Return offset and scale of each feature, NaN where the scale is only assumed and the flows are not simulated."""
    if spec.scaling != "given":
        return np.zeros(len(spec.features)), np.ones(len(spec.features))
    unmoved = Scale(kind="zscore", mean=0, std=1)  # of the number of a category's value
    known = [
        unmoved if f.is_category else f.scale if f.scale and (simulated or f.scale.basis != "assumed") else None
        for f in spec.features
    ]
    offset, scale = ([np.nan if s is None else getattr(s, what) for s in known] for what in ("offset", "width"))
    return np.array(offset), np.array(scale)


def move_parts(parts: Parts, draws: Values) -> tuple[Parts, Values]:
    """Move the quantities behind some flows; a way without packets, and a time of 0, stay as they are.

    Times: times 0.95 to 1.05. Payload: the same, by a byte at least, within the segments that it fills. Headers of TCP:
    one word of options more or less. Packets of TCP, where a way has two or more: bare ones added, or taken where some
    surely carry no payload; first and last stay.

    Args:
        parts: Quantities of `parts_of`, each [n].
        draws: Random numbers from 0 to 1 [n, 7].

    Returns:
        Quantities, and time factors [n], NaN where no time has passed.
    """
    moved, timed = dict(parts), parts["duration"] > 0
    factor = np.where(timed, _spread(draws[:, 0]), np.nan)
    for name in ("duration", *(f"{way}_time" for way in WAYS)):
        moved[name] = np.where(timed, parts[name] * factor, parts[name])
    for place, way in enumerate(SIDES):
        payload, content, options, count = draws[:, 1 + place], *(_step(draws[:, at + place]) for at in (1, 3, 5))
        moved[f"{way}_payload"] = _moved_payload(parts, way, payload, content)
        low, high = parts[f"{way}_header_min"], parts[f"{way}_header_max"]
        options = OPTION * options
        options[(low < TCP_HEADER) | (low + options < TCP_HEADER) | (high + options > MOST_HEADER)] = 0
        added = _moved_packets(parts, way, count)
        packets = parts[f"{way}_packets"]
        moved[f"{way}_packets"] = packets + added
        moved[f"{way}_header_min"], moved[f"{way}_header_max"] = low + options, high + options
        moved[f"{way}_header_tot"] = parts[f"{way}_header_tot"] + options * packets + added * (low + options)
    return moved, factor


def _moved_payload(parts: Parts, way: str, draw: Values, step: Values) -> Values:
    payload, packets = parts[f"{way}_payload"], parts[f"{way}_packets"]
    found = np.rint(payload * _spread(draw))
    found = np.where(found == payload, payload + step, found)
    most = np.maximum(payload, SEGMENT * np.ceil(payload / SEGMENT))
    return np.where(payload > 0, np.clip(found, np.minimum(payload, packets), most), 0.0)


def _moved_packets(parts: Parts, way: str, step: Values) -> Values:
    """Return the packets that a way gains: none, or one (5 % of many) more or less."""
    packets, low, high = (parts[f"{way}_{what}"] for what in ("packets", "header_min", "header_max"))
    other = next(name for name in SIDES if name != way)
    added = step * np.maximum(1, np.rint(SPREAD * packets))
    difference = parts["data_difference"] * (1 if way == "fwd" else -1)
    with_data = np.where(parts[f"{other}_payload"] == 0, difference, packets)  # at most
    with_data = np.where(parts[f"{way}_payload"] == 0, 0.0, with_data)
    left = packets + added
    bare = packets - with_data - (low < high)  # the largest header stays
    total = parts[f"{way}_header_tot"] + added * low
    fewer = (bare >= -added) & (left >= 2) & (total <= (left - 1) * high + low)
    return np.where((low >= TCP_HEADER) & (packets >= 2) & ((added > 0) | fewer), added, 0.0)


def _spread(draws: Values) -> Values:
    """Return factors from 0.95 to 1.05."""
    return (1 - SPREAD) + ((1 + SPREAD) - (1 - SPREAD)) * draws


def _step(draws: Values) -> Values:
    """Return -1, 0 or 1, equally often."""
    return np.floor(3 * draws) - 1
