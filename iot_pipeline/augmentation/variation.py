"""Varied flows: values changed as a faster or slower capture would change them, or as the prior work did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from iot_pipeline.flows.serialise import group_id, values_text
from iot_pipeline.flows.spec import DatasetSpec

SPREAD = 0.05
DRAWS = 4


class Variation(StrEnum):
    """Variation mode.

    `physical`: the same packets, slower or faster. `paper`: every published value times uniform(0.95, 1.05).
    """

    physical = "physical"
    paper = "paper"


@dataclass(frozen=True)
class Varied:
    """Text of a varied flow; `factor` is the time factor of a physical variation, `group` the flow group.

    outcome: `varied`, or `unchanged: ...` with the reason why the text is still the original's.
    """

    text: str
    outcome: str
    factor: float | None
    group: str


def zero_points(spec: DatasetSpec, lowest: Sequence[float]) -> np.ndarray:
    """Return the published value of a raw zero for each feature, float [features].

    It is known if the scale was recovered or the data are not scaled. Otherwise it is the feature's minimum among the
    rows (`lowest`), because a flow of one packet has no duration.
    """
    points = []
    for feature, low in zip(spec.features, lowest, strict=True):
        if spec.scaling != "given":
            points.append(0.0)
        elif feature.scale is not None and feature.scale.basis == "recovered":
            points.append(float(feature.scale.from_raw(0)))
        else:
            points.append(float(low))
    return np.array(points)


class Varier:
    """Variation of one table's flows; equal (seed, row_id) and values give an equal variation.

    Args:
        variation: Variation mode.
        spec: Data set of the flows.
        zero: Published values of raw zeros, float [features] (`zero_points`).
        to_text: Returns the text of values [features].
        forbidden: Flow groups that no varied flow may have.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        variation: Variation,
        spec: DatasetSpec,
        zero: np.ndarray,
        to_text: Callable[[Sequence[float]], str],
        forbidden: Collection[str],
        seed: int,
    ) -> None:
        self.variation, self.spec, self.zero, self.to_text = variation, spec, zero, to_text
        self.forbidden, self.seed = forbidden, seed
        names = spec.feature_names
        self.times = np.array(["_iat." in name for name in names])
        self.rates = np.array([name.endswith("_pkts_per_sec") for name in names])

    def vary(self, row_id: int, values: np.ndarray, text: str) -> Varied:
        """Vary one flow: values float [features], `text` its own text.

        A variation that has a forbidden flow group is redrawn, up to 3 times.
        """
        own = group_id(values_text(self.spec, values.tolist()))
        if self.variation is Variation.physical and not self._has_timing(values):
            return Varied(text, "unchanged: no timing", None, own)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, row_id])))
        factor: float | None = None
        for _ in range(DRAWS):
            if self.variation is Variation.physical:
                factor = float(random.uniform(1 - SPREAD, 1 + SPREAD))
                moved = self._dilate(values, factor)
            else:
                moved = values * random.uniform(1 - SPREAD, 1 + SPREAD, len(values))
            group = group_id(values_text(self.spec, moved.tolist()))
            if group == own:
                # Every serialisation is a function of the printed values, so the texts are equal too.
                return Varied(text, "unchanged: too small to print", factor, own)
            if group not in self.forbidden:
                return Varied(self.to_text(moved.tolist()), "varied", factor, group)
        return Varied(text, "unchanged: met evaluation flows", None, own)

    def _has_timing(self, values: np.ndarray) -> bool:
        chosen = self.times | self.rates
        return bool(np.any(np.abs(values[chosen] - self.zero[chosen]) > 1e-9))

    def _dilate(self, values: np.ndarray, factor: float) -> np.ndarray:
        """Multiply all times by `factor` and divide all rates by it; counts and bytes stay."""
        scale = np.where(self.times, factor, np.where(self.rates, 1 / factor, 1.0))
        return np.where(scale == 1.0, values, self.zero + (values - self.zero) * scale)
