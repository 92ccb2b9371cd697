"""Temperature scaling: one temperature per predictor, fitted on the calibration side."""

from __future__ import annotations

import numpy as np

from iot_pipeline.evaluation.metrics import log_loss, normalise_log_probs
from iot_pipeline.evaluation.views import Floats, Side

LOWEST, HIGHEST = 0.05, 20.0
PRIOR_SPREAD = 0.5  # standard deviation of the prior on log(temperature)


def apply_temperature(log_probs: Floats, temperature: float) -> Floats:
    """Divide log-probabilities [n, n_classes] by `temperature` and renormalise; the argmax never changes."""
    return normalise_log_probs(log_probs / temperature)


def fit_temperature(side: Side, log_probs_by_group: Floats, view: str = "distinct") -> dict[str, float]:
    """Fit the temperature that minimises the log-loss of `view` on the calibration side.

    A weak log-normal prior keeps it near 1. The prior weighs as much as one flow, so it vanishes with many flows;
    without it, a predictor that is right on a few flows would become certain of everything.

    `log_probs_by_group`: [n_groups, n_classes] in the order of side.group_ids. Returns {temperature, log_loss_before,
    log_loss_after}.
    """
    from scipy.optimize import minimize_scalar

    weight = side.weights[view]
    used = weight > 0
    floor = np.log(1e-12)  # a probability of exactly 0 would stay 0 at every temperature
    log_probs = np.maximum(normalise_log_probs(log_probs_by_group), floor)[side.group][used]
    label, weight = side.label[used], weight[used]

    def loss(log_temperature: float) -> float:
        return log_loss(label, apply_temperature(log_probs, float(np.exp(log_temperature))), weight)

    def posterior(log_temperature: float) -> float:
        return loss(log_temperature) + 0.5 * (log_temperature / PRIOR_SPREAD) ** 2 / float(weight.sum())

    found = minimize_scalar(
        posterior, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-4}
    )
    before, after = loss(0.0), loss(float(found.x))
    temperature = float(np.exp(found.x)) if after < before else 1.0
    return {"temperature": temperature, "log_loss_before": before, "log_loss_after": min(before, after)}
