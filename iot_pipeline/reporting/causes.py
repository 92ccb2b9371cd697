"""Causes in figures: why a split by row scores as it does, and where calibration made the ECE worse."""

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting.comparison import BASELINES
from iot_pipeline.reporting.gather import Facts, Json
from iot_pipeline.vocabulary import STAGES


def row_split(leaks: Mapping[str, Any], name: str) -> Json | None:
    """Divide the difference in accuracy between the split by row and the split by group into its two parts.

    Accuracy is the ceiling of the tested rows less what the model misses below it, so the difference is `of_ceiling`
    plus `of_model`. Returns also `difference`, both ceilings and shortfalls, and `cause`, the part that has the
    difference's sign and is the larger; None if a side has no accuracy.

    Args:
        leaks: leakage.json.
        name: `model` or `lookup`.
    """
    free, by_row = leaks["leak_free"], leaks["row_wise"]
    here, there = free[name]["row"], by_row[name]["row"]
    if here is None or there is None:
        return None
    ceiling, other = free["row_ceiling"], by_row["row_ceiling"]
    of_ceiling, difference = other - ceiling, there - here
    of_model = difference - of_ceiling
    sign = 1 if difference >= 0 else -1
    return {
        "difference": difference,
        "of_ceiling": of_ceiling,
        "of_model": of_model,
        "ceiling_by_group": ceiling,
        "ceiling_by_row": other,
        "missed_by_group": ceiling - here,
        "missed_by_row": other - there,
        "cause": "ceiling" if sign * of_ceiling > sign * of_model else "model",
    }


def worse_calibrated(facts: Facts) -> tuple[int, list[Json]]:
    """Return the number of calibrated students and baselines, and those whose ECE rose, over distinct test flows.

    Each has `name`, `before` and `after` (ECE), `temperature`, `accuracy`, mean `confidence_before` and
    `confidence_after`, and `flows_a_bin`.
    """
    students = [(f"{one.track} {one.stage}", result) for one, result in facts.evaluation.items()]
    baselines = [
        (f"{title} {stage}", facts.baselines[stage][name])
        for stage in STAGES
        if stage in facts.baselines
        for name, title in BASELINES.items()
        if name in facts.baselines[stage]
    ]
    found = [(name, one.get("temperature"), one["views"].get("distinct")) for name, one in students + baselines]
    scored = [(name, scale, view) for name, scale, view in found if view and scale and view.get("calibrated")]
    rose = [(name, scale, view) for name, scale, view in scored if _ece(view["calibrated"]) > _ece(view)]
    return len(scored), [{"name": name, "temperature": scale, **_change(view)} for name, scale, view in rose]


def _ece(view: Mapping[str, Any]) -> float:
    return float(view["ece"] if view["ece"] is not None else 0.0)


def _change(view: Mapping[str, Any]) -> Json:
    bins, after = view["reliability"], view["calibrated"]
    return {
        "before": view["ece"],
        "after": after["ece"],
        "accuracy": view["accuracy"],
        "confidence_before": mean_confidence(bins),
        "confidence_after": mean_confidence(after["reliability"]),
        "flows_a_bin": view["weight"] / max(1, len(after["reliability"])),
    }


def mean_confidence(bins: Sequence[Mapping[str, float]]) -> float:
    """Return the mean confidence of a reliability table."""
    return sum(row["weight"] * row["confidence"] for row in bins) / sum(row["weight"] for row in bins)
