"""Scores of strangeness of a flow: the greater, the less it is like what the student learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.unknown.features import BLOCK, FeatureSpace, mean_of_nearest
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.whitened import Whitened
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.feature import Format

# What a score is; those of several parts add log(1 + part / its 95th percentile among train flows, each left out).
SCORES = {
    "probability": "log-probability of the likeliest class, negated",
    "energy": "minus logsumexp of the labels' logits (Liu et al. 2020)",
    "class_distance": "Mahalanobis distance of the hidden state to the nearest class mean (Lee et al. 2018)",
    "neighbours": "mean distance of the hidden state, at length 1, to its 10 nearest train flows (Sun et al. 2022)",
    "features": "mean L1 distance of the features' ranks to the 10 nearest train flows",
    "whitened": "distance to the nearest train flow by logs of the features, whitened within the classes",
    "features+whitened": "both",
    "features+class_distance": "both",
    "whitened+class_distance": "both",
    "features+whitened+class_distance": "all three",
}
MOST_REFERENCE = 4096  # train flows that new ones are held against
SHRINKAGE = {"class_distance": 0.05, "whitened": 0.01}  # of a pooled covariance: few flows leave it singular


@dataclass(frozen=True)
class Reference:
    """Distinct train flows that new flows are held against: their features, labels [n] and the student's outputs."""

    space: FeatureSpace
    labels: np.ndarray
    outputs: Outputs

    @staticmethod
    def of(
        table: pd.DataFrame, features: Sequence[str], form: Format, labels: Sequence[str], outputs: Outputs
    ) -> Reference:
        """Return the reference of train flows.

        Args:
            table: Their features.
            features: Columns to use.
            form: How the data set's texts print a number.
            labels: Their labels, in the order of `table`.
            outputs: The student's outputs, in the same order.
        """
        return Reference(FeatureSpace.of(table, features, form), np.asarray(labels, dtype=object), outputs)

    def without(self, label: str, column: int) -> Reference:
        """Return the reference as if a class did not exist; `column`: its place among the label scores."""
        kept = np.flatnonzero(self.labels != label)
        table = self.space.table.iloc[kept].reset_index(drop=True)
        return Reference(replace(self.space, table=table), self.labels[kept], self.outputs.at(kept).without(column))

    def scores(self, outputs: Outputs, flows: Any, names: Sequence[str] = tuple(SCORES)) -> dict[str, Floats]:
        """Return scores of flows [n] by name.

        Args:
            outputs: The student's outputs.
            flows: Table with the features of the same flows, printed or not.
            names: Scores to compute, of SCORES.
        """
        flows = self.space.printed(flows)
        parts = {part: self._part(part, outputs, flows) for part in dict.fromkeys("+".join(names).split("+"))}
        return {name: parts[name] if name in parts else self._sum(parts, name.split("+")) for name in names}

    def _sum(self, parts: dict[str, Floats], names: Sequence[str]) -> Floats:
        whole: Floats = np.sum([np.log1p(parts[name] / self._usual(name)) for name in names], axis=0)
        return whole

    def _part(self, part: str, outputs: Outputs, flows: Any) -> Floats:
        """Return one part of a score for flows [n]."""
        if part == "probability":
            return -outputs.log_probs.max(axis=1)
        if part == "energy":
            return outputs.energy
        if part == "class_distance":
            return self._states.to_mean(outputs.states)
        if part == "neighbours":
            return neighbours(unit(outputs.states), self._unit)
        return self.space.nearest(flows)[0] if part == "features" else self._logs.to_flow(self.space.logs(flows))

    def _usual(self, part: str) -> float:
        """Return the 95th percentile of a part among the train flows, each held against the others."""
        if part not in self._quantiles:
            if part == "class_distance":
                values = self._states.to_mean(self.outputs.states)
            elif part == "neighbours":
                values = neighbours(self._unit, self._unit, others=True)
            elif part == "features":
                values = self.space.nearest_other()
            else:
                values = self._logs.to_flow(self._logs.flows, others=True)
            self._quantiles[part] = max(float(np.quantile(values, 0.95)), 1e-9)
        return self._quantiles[part]

    @cached_property
    def _quantiles(self) -> dict[str, float]:
        return {}

    @cached_property
    def _unit(self) -> Floats:
        return unit(self.outputs.states)

    @cached_property
    def _states(self) -> Whitened:
        return Whitened.of(self.outputs.states, self.labels, SHRINKAGE["class_distance"])

    @cached_property
    def _logs(self) -> Whitened:
        return Whitened.of(self.space.logs(self.space.table), self.labels, SHRINKAGE["whitened"])


def unit(states: Floats) -> Floats:
    """Scale hidden states to length 1."""
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)


def neighbours(states: Floats, reference: Floats, others: bool = False) -> Floats:
    """Return the mean Euclidean distance of each state to its nearest ones of the reference [n], all of length 1.

    Args:
        states: States of length 1.
        reference: States of length 1.
        others: True if `states` are the reference: none is its own neighbour.
    """
    found = np.empty(len(states))
    for start in range(0, len(states), BLOCK):
        part = states[start : start + BLOCK]
        found[start : start + BLOCK] = mean_of_nearest(
            np.sqrt(np.maximum(2 - 2 * part @ reference.T, 0)), start if others else None
        )
    return found
