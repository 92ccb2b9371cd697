"""Varied flows: values changed as a faster or slower capture would change them, or as the prior work did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np

from iot_pipeline.flows.dataset import Rows, evaluation_texts
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, scan
from iot_pipeline.flows.texts import FlowTextWriter

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
    """Text of a varied flow; `factor` is the time factor of a physical variation, `group` the text's SHA-256.

    outcome: `varied`, or `unchanged: ...` with the reason why the text is still the original's.
    """

    text: str
    outcome: str
    factor: float | None
    group: str


@dataclass(frozen=True)
class Varier:
    """Variation of one table's flows; equal (seed, row_id) and values give an equal variation.

    Args:
        variation: Variation mode.
        names: Names of the features.
        zero: Published values of raw zeros, float [features] (`zero_points`).
        to_text: Returns the text of values [features].
        forbidden: SHA-256 of each text that no varied flow may have.
        seed: Seed of the draws.
    """

    variation: Variation
    names: Sequence[str]
    zero: np.ndarray
    to_text: Callable[[Sequence[float]], str]
    forbidden: Collection[str]
    seed: int

    @cached_property
    def _masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Features that are times and those that are rates, bool [features] each."""
        rates = [name.endswith("_pkts_per_sec") for name in self.names]
        return np.array(["_iat." in name for name in self.names]), np.array(rates)

    def vary(self, row_id: int, values: np.ndarray, text: str) -> Varied:
        """Vary one flow: values float [features], `text` its own text.

        A variation that has a forbidden text is redrawn, up to 3 times.
        """
        times, rates = self._masks
        own, timed = group_id(text), times | rates
        if self.variation is Variation.physical and not np.any(np.abs(values[timed] - self.zero[timed]) > 1e-9):
            return Varied(text, "unchanged: no timing", None, own)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, row_id])))
        factor: float | None = None
        for _ in range(DRAWS):
            if self.variation is Variation.physical:
                # Times are multiplied by the factor and rates divided by it; counts and bytes stay.
                factor = float(random.uniform(1 - SPREAD, 1 + SPREAD))
                scale = np.where(times, factor, np.where(rates, 1 / factor, 1.0))
                moved = np.where(scale == 1.0, values, self.zero + (values - self.zero) * scale)
            else:
                moved = values * random.uniform(1 - SPREAD, 1 + SPREAD, len(values))
            varied = self.to_text(moved.tolist())
            if varied == text:
                return Varied(text, "unchanged: too small to print", factor, own)
            if (group := group_id(varied)) not in self.forbidden:
                return Varied(varied, "varied", factor, group)
        return Varied(text, "unchanged: met evaluation flows", None, own)


def fit_varier(
    variation: Variation, rows: Rows, flows: Path, records: Path, texts: Path, spec: DatasetSpec, seed: int
) -> Varier:
    """Return the variation of some rows' flows, apart from the texts of evaluation.

    Args:
        variation: Variation mode.
        rows: Rows whose flows are varied.
        flows: flows.parquet.
        records: records.parquet.
        texts: Folder of the asset flow_texts.
        spec: Spec of the data set.
        seed: Seed of the draws.
    """
    lowest = ", ".join(f"min({identifier(name)})" for name in spec.feature_names)
    with connect(rows.file, flows) as connection:
        query = f"SELECT {lowest} FROM {scan(flows)} SEMI JOIN ({rows.query}) USING (row_id)"
        zero = zero_points(spec, connection.execute(query).fetchall()[0])
    forbidden = evaluation_texts(texts / "texts.parquet", records)
    return Varier(variation, spec.feature_names, zero, FlowTextWriter.load(texts, spec).text, forbidden, seed)


def zero_points(spec: DatasetSpec, lowest: Sequence[float]) -> np.ndarray:
    """Return the published value of a raw zero for each feature, float [features].

    It is known if the scale was recovered or the data are not scaled. Otherwise it is the feature's minimum among the
    rows (`lowest`), because a flow of one packet has no duration.
    """
    scales = (feature.scale for feature in spec.features)
    known = (scale.from_raw(0) if scale is not None and scale.basis == "recovered" else None for scale in scales)
    if spec.scaling != "given":
        return np.zeros(len(lowest))
    return np.array([low if point is None else point for point, low in zip(known, lowest, strict=True)], np.float64)
