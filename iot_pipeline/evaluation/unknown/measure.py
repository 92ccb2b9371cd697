"""Measures of a class that a model never saw: AUROC, flows found, risk and coverage, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.evaluation.exact import LEAST_FLOWS, exact_interval
from iot_pipeline.evaluation.intervals import RESAMPLES
from iot_pipeline.evaluation.views import Floats

RISK = 0.01  # share of answers that may be wrong
BLOCK_BYTES = 16 * 2**20  # of one block of resamples
COVERAGES = np.linspace(0.05, 1.0, 20)  # of the curve


@dataclass(frozen=True)
class Judged:
    """Distinct test flows as one model judges them.

    `scores`: strangeness [n]. `doubts`: order in which flows are answered, the least doubtful first [n]. `strange`: is
    the flow of the class that was kept from the model [n]. `errors`: share of the flow's rows that the model's class is
    not the label of [n], 1 for every strange flow. `p_values` [n]: None for a model without a calibrated threshold.
    """

    scores: Floats
    doubts: Floats
    strange: np.ndarray
    errors: Floats
    p_values: Floats | None = None


def blocks(strange: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield how often each flow is drawn: first once each, then in bootstrap resamples of flows, [rows, n] a block.

    One flow is one flow group. Flows of the class and others are drawn apart, so that each resample has as many of
    both. The same seed gives the same draws, so that models are compared on the same resamples.
    """
    yield np.ones((1, len(strange)))
    random, size = np.random.default_rng(seed), max(1, BLOCK_BYTES // (8 * len(strange)))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        counts = np.zeros((rows, len(strange)))
        for places in (np.flatnonzero(strange), np.flatnonzero(~strange)):
            if len(places):
                counts[:, places] = random.multinomial(len(places), np.full(len(places), 1 / len(places)), rows)
        yield counts


def measure(judged: Judged, seed: int, alarms: Sequence[float], resamples: int = RESAMPLES) -> dict[str, Floats]:
    """Measure one model on the flows and on every resample.

    Args:
        judged: The flows as the model judges them.
        seed: Seed of the resamples.
        alarms: Rates of false alarms.
        resamples: Number of resamples.

    Returns:
        Values [resamples + 1] by name. accuracy: share of right answers to known flows; auroc; coverage: the largest
        share of all flows that are answered, the least doubtful first, while at most RISK of the answers are wrong;
        area: mean risk over all coverages; and for each of `alarms` the share of strange flows called unknown
        (`found_0.01`) and that of others (`false_alarms_0.01`).
    """
    parts = [_measured(judged, counts, alarms) for counts in blocks(judged.strange, seed, resamples)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measured(judged: Judged, counts: Floats, alarms: Sequence[float]) -> dict[str, Floats]:
    """Measure one model on some resamples [rows, n]."""
    strange, errors, total = judged.strange, judged.errors, counts.sum(axis=1)
    by_score, by_doubt = (np.argsort(values, kind="stable") for values in (judged.scores, judged.doubts))
    risk, answered = risks(judged.doubts[by_doubt], errors[by_doubt], counts[:, by_doubt])
    found = {
        "accuracy": 1 - (counts * errors)[:, ~strange].sum(axis=1) / counts[:, ~strange].sum(axis=1),
        "auroc": _aurocs(judged.scores[by_score], strange[by_score], counts[:, by_score]),
        "coverage": np.where(risk <= RISK + 1e-12, answered, 0).max(axis=1) / total,
        "area": (risk * counts[:, by_doubt]).sum(axis=1) / total,
    }
    if judged.p_values is not None:
        for alarm in alarms:
            called = judged.p_values <= alarm
            for name, those in (("found", strange), ("false_alarms", ~strange)):
                found[f"{name}_{alarm:g}"] = counts[:, called & those].sum(axis=1) / counts[:, those].sum(axis=1)
    return found


def risks(doubts: Floats, errors: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return the risk if all flows up to each one are answered, and how many these are; both [resamples, n].

    Flows of equal doubt are answered together or not at all. All are in ascending order of their doubt.
    """
    last = np.searchsorted(doubts, doubts, side="right") - 1
    answered = counts.cumsum(axis=1)[:, last]
    wrong = (counts * errors).cumsum(axis=1)[:, last]
    return wrong / np.maximum(answered, 1e-12), answered


def _aurocs(scores: Floats, strange: np.ndarray, counts: Floats) -> Floats:
    """Return the AUROC of each resample; scores ascending."""
    known = (counts * ~strange).cumsum(axis=1)
    first, last = np.searchsorted(scores, scores), np.searchsorted(scores, scores, side="right") - 1
    padded = np.column_stack([np.zeros(len(counts)), known])
    below, upto = padded[:, first], padded[:, last + 1]
    pairs = (counts * strange * (below + upto) / 2).sum(axis=1)
    return pairs / ((counts * strange).sum(axis=1) * known[:, -1])


def curve(judged: Judged) -> list[float]:
    """Return the risk at each of COVERAGES."""
    order = np.argsort(judged.doubts, kind="stable")
    risk, _ = risks(judged.doubts[order], judged.errors[order], np.ones((1, len(order))))
    places = np.minimum(np.ceil(COVERAGES * len(order) - 1e-9).astype(int), len(order)) - 1
    return [float(risk[0, place]) for place in np.maximum(places, 0)]


def told(values: Floats, flows: int | None = None, least: float = 0.0) -> dict[str, float]:
    """Return a measure with its 95 % interval, {value, low, high}: by the resamples, or exact where these say nothing.

    Args:
        values: The value, then those of the resamples.
        flows: Flows of which it is a mean; an exact interval is taken if they are few, or if all resamples are alike.
            None: there are many.
        least: Least value of a flow; the greatest is 1.
    """
    value = float(values[0])
    low, high = np.quantile(values[1:], [0.025, 0.975])
    if flows is not None and (flows < LEAST_FLOWS or low == high):
        width = 1 - least
        low, high = (least + width * bound for bound in exact_interval((value - least) / width, flows))
    return {"value": value, "low": float(low), "high": float(high)}


def summary(by_class: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Average each measure of each model over the classes, with the interval of the mean.

    It is made of the classes' intervals (Zou and Donner 2008), so that a class of few flows widens it.

    `by_class`: class -> model -> measure -> {value, low, high}; what is no such measure is left out.
    """
    found: dict[str, Any] = {}
    for model in dict.fromkeys(name for of in by_class.values() for name in of):
        those = [of[model] for of in by_class.values() if model in of]
        names = [name for name, of in those[0].items() if isinstance(of, Mapping)]
        found[model] = {name: _mean([of[name] for of in those]) for name in names}
    return found


def _mean(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of independent measures; its bounds are as far from it as the squares of theirs add up to."""
    value, low, high = (np.array([of[part] for of in measures]) for part in ("value", "low", "high"))
    mean, n = float(value.mean()), len(measures)
    below, above = (float(np.sqrt(((value - bound) ** 2).sum())) / n for bound in (low, high))
    return {"value": mean, "low": mean - below, "high": mean + above}
