"""Measures of explanations by flow, each beside its chance level: means with intervals, and paired verdicts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.evaluation.exact import LEAST_FLOWS
from iot_pipeline.evaluation.study import LEVEL, holm
from iot_pipeline.evaluation.views import Floats

RESAMPLES = 1_000
BETTER, WORSE, NONE_SHOWN, FEW = "better", "worse", "no difference shown", "too few flows for a verdict"


@dataclass(frozen=True)
class Measure:
    """Values of a measure by flow [n], more being better, and those by chance; NaN where it cannot be judged."""

    name: str
    values: Floats
    chance: Floats
    other_class: Floats | None = None  # the same explanation held against the other classes

    def row(self) -> dict[str, Any]:
        """Return mean, 95 % interval and chance level, and the paired difference from chance with its interval."""
        mean = interval(self.values)
        over = interval(self.values - self.chance)
        return {
            "measure": self.name,
            "explanations": int((~np.isnan(self.values)).sum()),
            **mean,
            "chance": interval(self.chance)["value"],
            "other_class": None if self.other_class is None else interval(self.other_class)["value"],
            **{f"over_chance_{part}": over[part] for part in ("value", "low", "high")},
        }


def interval(values: Floats) -> dict[str, float | None]:
    """Return mean and 95 % bootstrap interval over flows, NaN left out: {value, low, high}, None without a value."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return {"value": None, "low": None, "high": None}
    drawn = np.random.default_rng(0).multinomial(len(kept), [1 / len(kept)] * len(kept), RESAMPLES) @ kept / len(kept)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(kept.mean()), "low": float(low), "high": float(high)}


def verdicts(first: list[Measure], second: list[Measure]) -> list[dict[str, Any]]:
    """Compare two writers on the same flows by each measure that both have: `first` minus `second`, paired.

    Returns rows {measure, flows, difference, low, high, p_holm, verdict}. Better or worse asks for an interval
    that leaves out 0, and for a p-value (paired t test) below LEVEL after Holm's correction over all measures that have
    LEAST_FLOWS flows; those with fewer have no verdict and no p-value. Each interval has 95 % by itself.
    """
    beside = {measure.name: measure for measure in second}
    both = [(one.name, one.values - beside[one.name].values) for one in first if one.name in beside]
    compared = [(name, found[~np.isnan(found)]) for name, found in both if not np.isnan(found).all()]
    tested = [_p_value(found) for _, found in compared if len(found) >= LEAST_FLOWS]
    corrected = iter(holm(tested))
    rows = []
    for name, found in compared:
        told, p_holm, verdict = interval(found), None, FEW
        low, high = told["low"], told["high"]
        assert low is not None and high is not None
        if len(found) >= LEAST_FLOWS:
            p_holm = next(corrected)
            shown = p_holm < LEVEL
            verdict = BETTER if shown and low > 0 else WORSE if shown and high < 0 else NONE_SHOWN
        row = {"measure": name, "flows": len(found), "difference": told["value"], "low": low, "high": high}
        rows.append(row | {"p_holm": p_holm, "verdict": verdict})
    return rows


def _p_value(differences: Floats) -> float:
    """Return the two-sided p-value of a paired t test; without any spread, 1 for no difference and 0 for one."""
    from scipy.stats import t

    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(differences) ** 0.5
    if error == 0:
        return float(mean == 0)
    return float(2 * t.sf(abs(mean) / error, len(differences) - 1))


def sentence(rows: list[dict[str, Any]], name: str) -> str:
    """Say in which measures the student is better or worse than a free baseline, and whether it is worth its cost."""
    told = [
        f"{verdict} in {', '.join(found)}"
        for verdict in (BETTER, WORSE)
        if (found := [row["measure"].replace("_", " ") for row in rows if row["verdict"] == verdict])
    ]
    if rows and all(row["verdict"] == FEW for row in rows):
        flows = max(row["flows"] for row in rows)
        return f"{flows:,} flows are too few to tell whether the student beats the {name}: {LEAST_FLOWS} are needed."
    better, worse = (sum(row["verdict"] == verdict for row in rows) for verdict in (BETTER, WORSE))
    worth = "beats" if better and not worse else "does not beat"
    flows = max((row["flows"] for row in rows), default=0)
    return f"Over {flows:,} flows the student is {'; '.join(told) or 'nowhere shown different'}: it {worth} the {name}."
