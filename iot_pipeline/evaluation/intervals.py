"""Uncertainty of metrics: cluster bootstrap by flow group, paired differences, McNemar test on distinct flows."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.views import Floats, Ints, Side
from iot_pipeline.vocabulary import VIEWS

RESAMPLES = 1_000
_BLOCK_BYTES = 64 * 2**20  # memory for the resample counts of one block


def intervals(side: Side, predicted: Ints, seed: int, resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """Compute 95 % percentile intervals of accuracy and macro-F1 per view: {view: {metric: [low, high]}}.

    The bootstrap draws whole groups with replacement, because rows of a group share their text and are not independent.
    A class missing from a resample keeps the F1 that it has on the whole side: left out, a class of few flows that are
    all wrong would raise the macro-F1 of most resamples above that of the side. Metrics of an empty view are None.

    Args:
        side: Records of one side.
        predicted: Class index [n_groups].
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    n_classes = len(side.classes)
    answer = predicted[side.group]
    sums = _per_group(
        side,
        np.hstack(
            [
                np.hstack(
                    [
                        _one_hot(side.label, (answer == side.label) * weight, n_classes),
                        _one_hot(side.label, weight, n_classes),
                        _one_hot(answer, weight, n_classes),
                    ]
                )
                for weight in (side.weights[view] for view in VIEWS)
            ]
        ),
    )
    drawn = np.vstack(list(_resample(sums, seed, resamples))).reshape(resamples, len(VIEWS), 3, n_classes)
    whole = sums.sum(axis=0).reshape(len(VIEWS), 3, n_classes)
    result: dict[str, dict[str, Any]] = {}
    for index, view in enumerate(VIEWS):
        if side.ceilings[view] is None:
            result[view] = {"accuracy": None, "macro_f1": None}
            continue
        hit, support, guessed = drawn[:, index, 0], drawn[:, index, 1], drawn[:, index, 2]
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = hit.sum(axis=1) / support.sum(axis=1)
            own = np.where(whole[index, 1] > 0, 2 * whole[index, 0] / (whole[index, 1] + whole[index, 2]), np.nan)
            f1 = np.where(support > 0, 2 * hit / (support + guessed), own)
        kept = support.sum(axis=1) > 0  # a resample of a tiny side may contain no clean group
        result[view] = {"accuracy": _interval(accuracy[kept]), "macro_f1": _interval(np.nanmean(f1[kept], axis=1))}
    return result


def paired(side: Side, first: Ints, second: Ints, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compare the accuracy of two predictors (`first` minus `second`) per view with interval, and by McNemar test.

    Both are scored on the same resamples. McNemar: one trial per distinct flow, correct if it is the majority label of
    the group.

    Args:
        side: Records of one side.
        first: Class index [n_groups] of one predictor.
        second: The same of the other predictor.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    parts = []
    for view in VIEWS:
        weight = side.weights[view]
        a = (first[side.group] == side.label) * weight
        b = (second[side.group] == side.label) * weight
        parts += [a - b, weight]
    sums = _per_group(side, np.column_stack(parts))
    drawn = np.vstack(list(_resample(sums, seed, resamples)))
    point = sums.sum(axis=0)
    views: dict[str, Any] = {}
    for index, view in enumerate(VIEWS):
        if side.ceilings[view] is None:
            views[view] = None
            continue
        kept = drawn[:, 2 * index + 1] > 0
        low_high = _interval(drawn[kept, 2 * index] / drawn[kept, 2 * index + 1])
        views[view] = {
            "difference": float(point[2 * index] / point[2 * index + 1]),
            "interval": low_high,
            "excludes_zero": low_high[0] > 0 or low_high[1] < 0,
        }
    right = side.majority
    only_first = int(((first == right) & (second != right)).sum())
    only_second = int(((first != right) & (second == right)).sum())
    return {"views": views, "mcnemar": mcnemar(only_first, only_second), "resamples": resamples, "seed": seed}


def mcnemar(only_first: int, only_second: int) -> dict[str, Any]:
    """Compute exact two-sided and mid-p McNemar p-values for the discordant counts; 1.0 if there are none."""
    from scipy.stats import binom

    n, low = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return {"only_first": 0, "only_second": 0, "p_exact": 1.0, "p_mid": 1.0}
    tail, point = float(binom.cdf(low, n, 0.5)), float(binom.pmf(low, n, 0.5))
    exact = min(1.0, 2 * tail)
    mid = 1.0 if only_first == only_second else 2 * tail - point
    return {"only_first": only_first, "only_second": only_second, "p_exact": exact, "p_mid": min(1.0, mid)}


def _one_hot(index: Ints, weight: Floats, n_classes: int) -> Floats:
    out = np.zeros((len(index), n_classes))
    out[np.arange(len(index)), index] = weight
    return out


def _per_group(side: Side, values: Floats) -> Floats:
    """Sum [n_records, k] over the records of each group -> [n_groups, k]."""
    out = np.zeros((len(side.group_ids), values.shape[1]))
    np.add.at(out, side.group, values)
    return out


def _resample(sums: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """Yield blocks [b, k] of sums over n_groups groups drawn with replacement: counts (multinomial) @ sums."""
    if resamples < 1:
        raise UserError(f"the bootstrap needs at least 1 resample, got {resamples}")
    n = len(sums)
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _BLOCK_BYTES // (8 * n)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        counts = np.empty((size, n))
        for row in range(size):
            counts[row] = np.bincount(rng.integers(0, n, n), minlength=n)
        yield counts @ sums


def _interval(values: Floats) -> list[float]:
    low, high = np.percentile(values, [2.5, 97.5])
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("bootstrap gave a value that is not finite")
    return [float(low), float(high)]
