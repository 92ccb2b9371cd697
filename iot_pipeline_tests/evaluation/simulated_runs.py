"""Simulated predictions of students over several training seeds, where the true difference of two tracks is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import Ints, Side

CLASSES = ("a", "b", "c")


def side_of(labels: Ints) -> Side:
    """A side of distinct flows with one row each."""
    n = len(labels)
    weights = {view: np.ones(n) for view in ("row", "distinct", "clean")}
    return Side([f"{i:06d}" for i in range(n)], np.arange(n), labels, CLASSES, weights, dict.fromkeys(weights, 1.0))


def simulate_runs(
    random: np.random.Generator, accuracy: Mapping[str, float], flows: int, seeds: int, luck: float
) -> tuple[Side, dict[str, list[Ints]]]:
    """Draw labels, and the predictions of each arm and seed.

    Flows differ in difficulty, which all arms share; the accuracy of one training lies around its arm's.

    Args:
        random: Random generator.
        accuracy: Expected accuracy by arm.
        flows: Number of distinct test flows.
        seeds: Number of training seeds.
        luck: Standard deviation of a training's accuracy around that of its arm.
    """
    labels = random.integers(0, len(CLASSES), flows)
    difficulty = random.gamma(0.3, 1 / 0.3, flows)  # few flows carry most of the errors; mean 1
    arms = {}
    for name, expected in accuracy.items():
        runs = []
        for _ in range(seeds):
            error = max(0.0, 1 - expected + random.normal(0, luck))
            wrong = random.random(flows) < np.minimum(1, error * difficulty)
            runs.append(np.where(wrong, (labels + random.integers(1, len(CLASSES), flows)) % len(CLASSES), labels))
        arms[name] = runs
    return side_of(labels), arms


def verdicts(
    random: np.random.Generator, accuracy: Mapping[str, float], times: int, luck: float = 0.004, flows: int = 1_500
) -> list[str]:
    """Return the verdicts on accuracy of many simulated studies of five seeds, first arm minus second."""
    pair = tuple(accuracy)
    found = []
    for index in range(times):
        side, arms = simulate_runs(random, accuracy, flows, 5, luck)
        rows = compare_seeds(side, arms, [(pair[0], pair[1])], index, resamples=200)["contrasts"]
        found += [row["verdict"] for row in rows if row["metric"] == "accuracy"]
    return found
