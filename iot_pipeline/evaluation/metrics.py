"""Weighted metrics of one view: accuracy, per-class scores, confusion, log-loss, Brier, ECE; temperature scaling."""

from typing import Any

import numpy as np

from iot_pipeline.evaluation.views import Floats, Ints, Side

ECE_BINS = 15
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
PRIOR_SPREAD = 0.5  # standard deviation of the prior on log(temperature)


def normalise_log_probs(log_probs: Floats) -> Floats:
    """Normalise log-probabilities [n, n_classes] so that rows sum to 1 after exp; -inf entries stay -inf."""
    top = log_probs.max(axis=1, keepdims=True)
    return log_probs - top - np.log(np.exp(log_probs - top).sum(axis=1, keepdims=True))


def predict(log_probs: Floats) -> Ints:
    """Return the most probable class index [n]; ties go to the class listed first."""
    return log_probs.argmax(axis=1).astype(np.int64)


def per_class(matrix: Floats) -> dict[str, Floats]:
    """Compute precision, recall, f1, support and predicted of a confusion matrix [true, predicted], each [n_classes].

    A ratio with denominator 0 is 0.
    """
    hit, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def ratio(above: Floats, below: Floats) -> Floats:
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)

    return {
        "precision": ratio(hit, predicted),
        "recall": ratio(hit, support),
        "f1": ratio(2 * hit, support + predicted),
        "support": support,
        "predicted": predicted,
    }


def effective_size(label: Ints, weight: Floats, n_classes: int) -> Floats:
    """Compute Kish's effective sample size of each class, (sum w)^2 / sum w^2: its number of equal records.

    Records of one class are of different flows, so a class whose rows are mostly one flow has a size near 1 by rows.
    """
    total = np.bincount(label, weights=weight, minlength=n_classes)
    squares = np.bincount(label, weights=weight**2, minlength=n_classes)
    return np.divide(total**2, squares, out=np.zeros(n_classes), where=squares > 0)


def log_loss(true: Ints, log_probs: Floats, weight: Floats) -> float:
    """Compute the weighted log-loss (natural log); probabilities are clipped at 1e-12."""
    own = log_probs[np.arange(len(true)), true]
    return float(np.average(-np.maximum(own, np.log(1e-12)), weights=weight))


def brier(true: Ints, log_probs: Floats, weight: Floats) -> float:
    """Compute the weighted Brier score: squared distance between probabilities and the one-hot label (0 to 2)."""
    distance = np.exp(log_probs)
    distance[np.arange(len(true)), true] -= 1
    return float(np.average((distance**2).sum(axis=1), weights=weight))


def reliability(confidence: Floats, correct: Floats, weight: Floats, bins: int = ECE_BINS) -> list[dict[str, float]]:
    """Compute a reliability table of equal-mass confidence bins: weight, mean confidence, accuracy.

    Equal confidences share one bin.

    Args:
        confidence: Probability of the predicted class [n].
        correct: 1 where it is the true class, else 0 [n].
        weight: Weight [n].
        bins: Number of bins.
    """
    value, position = np.unique(confidence, return_inverse=True)
    mass = np.bincount(position, weights=weight)
    right = np.bincount(position, weights=weight * correct)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    bin_of = np.minimum((middle * bins).astype(int), bins - 1)
    table = []
    for index in range(bins):
        inside = (bin_of == index) & (mass > 0)
        if inside.any():
            total = mass[inside].sum()
            table.append(
                {
                    "weight": float(total),
                    "confidence": float((mass[inside] * value[inside]).sum() / total),
                    "accuracy": float(right[inside].sum() / total),
                }
            )
    return table


def ece(table: list[dict[str, float]]) -> float:
    """Compute the expected calibration error of a `reliability` table."""
    total = sum(row["weight"] for row in table)
    return sum(row["weight"] * abs(row["confidence"] - row["accuracy"]) for row in table) / total


def score(true: Ints, log_probs: Floats, weight: Floats, classes: tuple[str, ...]) -> dict[str, Any]:
    """Compute all metrics of one view.

    Args:
        true: True class index [n].
        log_probs: Normalised log-probabilities [n, n_classes].
        weight: Weight [n] with a positive sum.
        classes: Class names.
    """
    used = weight > 0
    true, log_probs, weight = true[used], log_probs[used], weight[used]
    predicted, n = predict(log_probs), len(classes)
    correct = (predicted == true).astype(np.float64)
    matrix = np.bincount(true * n + predicted, weights=weight, minlength=n * n).astype(np.float64).reshape(n, n)
    bins = reliability(np.exp(log_probs.max(axis=1)), correct, weight)
    by_class = per_class(matrix) | {"effective_size": effective_size(true, weight, n)}
    return {
        "accuracy": float(np.average(correct, weights=weight)),
        "macro_f1": float(by_class["f1"][by_class["support"] > 0].mean()),  # over the classes that occur
        "log_loss": log_loss(true, log_probs, weight),
        "brier": brier(true, log_probs, weight),
        "ece": ece(bins),
        "reliability": bins,
        "weight": float(weight.sum()),
        "records": len(true),
        "confusion": matrix.tolist(),
        "per_class": {
            name: {key: float(values[index]) for key, values in by_class.items()} for index, name in enumerate(classes)
        },
    }


def apply_temperature(log_probs: Floats, temperature: float) -> Floats:
    """Divide log-probabilities [n, n_classes] by `temperature` and renormalise; the argmax never changes."""
    return normalise_log_probs(log_probs / temperature)


def fit_temperature(side: Side, log_probs_by_group: Floats) -> dict[str, float]:
    """Fit the temperature that minimises the log-loss of distinct flows on the calibration side.

    A weak log-normal prior keeps it near 1. The prior weighs as much as one flow, so it vanishes with many flows;
    without it, a predictor that is right on a few flows would become certain of everything.

    `log_probs_by_group`: [n_groups, n_classes] in the order of side.group_ids. Returns {temperature, log_loss_before,
    log_loss_after}.
    """
    from scipy.optimize import minimize_scalar

    weight = side.weights["distinct"]
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
