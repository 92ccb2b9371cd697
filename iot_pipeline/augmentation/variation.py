"""Varied flows: values moved, accepted where they are no evaluation flow and an independent model keeps the label."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from iot_pipeline.augmentation.flowmeter import measures
from iot_pipeline.augmentation.label_judge import JudgeApart, LabelJudge
from iot_pipeline.augmentation.moves import FlowMoves, Mover, PaperMoves, TimeMoves, Values, raw_units
from iot_pipeline.flows.dataset import Rows, evaluation_texts
from iot_pipeline.flows.matrix import with_words
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, scan
from iot_pipeline.flows.texts import FlowTextWriter

DRAWS = 4
CONFLICT = "equal flows have other labels"


class Variation(StrEnum):
    """Variation mode.

    `physical`: times, bytes and packets that belong together. `paper`: every published value times uniform(0.95, 1.05).
    """

    physical = "physical"
    paper = "paper"


@dataclass(frozen=True)
class VariationConfig:
    """Variation of a track: mode, least probability that the judge gives the label, seed, and origin of the flows.

    simulated: the simulator published the flows, so that assumed scales are exact.
    """

    mode: Variation
    least: float
    seed: int
    simulated: bool


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
        mover: Way of moving values.
        to_text: Returns the text of values [features].
        forbidden: SHA-256 of each text that no varied flow may have.
        seed: Seed of the draws.
        judge: Models that must keep the label; None accepts every flow.
        least: Probability of the label, and its share among equal flows, from which on a flow is accepted.
    """

    mover: Mover
    to_text: Callable[[Sequence[float]], str]
    forbidden: Collection[str]
    seed: int
    judge: LabelJudge | JudgeApart | None = None
    least: float = 0.0

    def vary(
        self, ids: Sequence[int], groups: Sequence[str], labels: Sequence[str], values: Values, texts: Sequence[str]
    ) -> list[Varied]:
        """Vary flows; one that is not accepted is redrawn, up to 3 times.

        Args:
            ids: Row ids [n].
            groups: Flow groups [n].
            labels: Classes [n].
            values: Published values [n, features].
            texts: Own texts [n].
        """
        reasons = self.mover.hindrance(values)
        if self.judge is not None:
            agreed = [self.judge.agreement(*pair) >= self.least for pair in zip(groups, labels, strict=True)]
            reasons = [reason if yes else CONFLICT for reason, yes in zip(reasons, agreed, strict=True)]
        found = [
            Varied(text, f"unchanged: {reason}", None, group_id(text))
            for text, reason in zip(texts, reasons, strict=True)
        ]
        left = [place for place, one in enumerate(found) if one.outcome == "unchanged: "]
        draws = {place: self._draws(ids[place]) for place in left}
        for attempt in range(DRAWS):
            if not left:
                break
            moved, factors = self.mover.move(values[left], np.stack([draws[place][attempt] for place in left]))
            kept = self._keeps([groups[place] for place in left], [labels[place] for place in left], moved)
            for place, row, factor, keeps in zip(left, moved, factors.tolist(), kept, strict=True):
                found[place] = self._judged(found[place], row, factor, keeps)
            left = [place for place in left if found[place].outcome != "varied"]
        return found

    def close(self) -> None:
        """End the judge's process."""
        if isinstance(self.judge, JudgeApart):
            self.judge.close()

    def _draws(self, row_id: int) -> Values:
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, row_id])))
        return random.random((DRAWS, self.mover.width))

    def _keeps(self, groups: Sequence[str], labels: Sequence[str], values: Values) -> Sequence[bool]:
        """Return True for each flow that the judge gives its label."""
        if self.judge is None:
            return [True] * len(labels)
        found: list[bool] = (self.judge.probability(groups, labels, values) >= self.least).tolist()
        return found

    def _judged(self, last: Varied, values: Values, factor: float, keeps: bool) -> Varied:
        """Return the moved flow, or the flow as it was with the reason against the move."""
        if not keeps:
            return replace(last, outcome="unchanged: the model doubts the label")
        text = self.to_text(values.tolist())
        if text == last.text:
            return replace(last, outcome="unchanged: too small to print")
        if (group := group_id(text)) in self.forbidden:
            return replace(last, outcome="unchanged: met evaluation flows")
        return Varied(text, "varied", None if np.isnan(factor) else factor, group)


def fit_varier(
    config: VariationConfig, rows: Rows, flows: Path, records: Path, texts: Path, spec: DatasetSpec
) -> Varier:
    """Return the variation of some rows' flows, apart from the texts of evaluation.

    Categories keep their values: another combination of them might be one that no capture can have.

    Args:
        config: Mode, least probability, seed and origin.
        rows: Rows whose flows are varied; a physical variation trains its judge on them.
        flows: flows.parquet.
        records: records.parquet.
        texts: Folder of the asset flow_texts.
        spec: Spec of the data set.
    """
    physical = config.mode is Variation.physical
    writer = FlowTextWriter.load(texts, spec)
    spec = writer.spec
    paper = PaperMoves(len(spec.features), [spec.feature_names.index(name) for name in spec.category_names])
    return Varier(
        fit_moves(spec, rows, flows, config.simulated) if physical else paper,
        lambda values: writer.text(with_words(values, spec)),
        evaluation_texts(texts / "texts.parquet", records),
        config.seed,
        JudgeApart(rows, flows, spec, config.seed) if physical and config.least > 0 else None,
        config.least,
    )


def fit_moves(spec: DatasetSpec, rows: Rows, flows: Path, simulated: bool) -> Mover:
    """Return the moves that a data set's known scales permit: of whole flows, or of their times alone.

    Args:
        spec: Spec of the data set.
        rows: Rows whose flows are moved.
        flows: flows.parquet.
        simulated: True if the simulator published the flows.
    """
    offset, scale = raw_units(spec, simulated)
    known, measured = np.isfinite(offset), measures(spec.feature_names)
    if measured and known.all():
        return FlowMoves(spec.feature_names, offset, scale, spec.format)
    # A flow of one packet has no duration, so that the lowest value of a time or rate is its raw zero.
    lowest = ", ".join("0.0" if f.is_category else f"min({identifier(f.name)})" for f in spec.features)
    with connect(rows.file, flows) as connection:
        query = f"SELECT {lowest} FROM {scan(flows)} SEMI JOIN ({rows.query}) USING (row_id)"
        found = np.array(connection.execute(query).fetchall()[0], np.float64)
    zero = np.where(known, -offset / scale, found)
    reason = "no timing, and its bytes have no known scale" if measured else "no timing"
    return TimeMoves(spec.feature_names, zero, reason)
