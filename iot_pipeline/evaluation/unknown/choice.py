"""Choice of the score of strangeness: classes of the validation side play the unknown one in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.scores import Reference
from iot_pipeline.evaluation.views import Floats

FEWEST = 5  # flows of a class that plays the unknown one
# Scores that know nothing of a class whose flows have left the reference. All others read a student that has learnt
# the class: played this way, energy is the best of them (0.97 on RT-IoT2022, with four classes kept from students in
# truth 0.83), and class_distance, in truth the best (0.94), looks no better than the rest.
PLAYED = ("features", "whitened", "features+whitened")
OWN = "class_distance"  # the student's own part, added to the score that is chosen
DEFAULT = "features+whitened"  # where no class has so many flows


@dataclass(frozen=True)
class Choice:
    """The score that was chosen, and by what: the AUROC of each of PLAYED, by class that played the unknown one."""

    score: str
    evidence: dict[str, dict[str, float]]

    @property
    def means(self) -> dict[str, float]:
        """Mean AUROC of each score over the classes; empty without evidence."""
        if not self.evidence:
            return {}
        return {name: float(np.mean([of[name] for of in self.evidence.values()])) for name in PLAYED}


def choose_score(
    reference: Reference, outputs: Outputs, flows: pd.DataFrame, labels: Sequence[set[str]], classes: Sequence[str]
) -> Choice:
    """Choose the score by the mean AUROC over the classes of the validation side, each playing the unknown one.

    Its flows leave the reference. Chosen is the part by features alone, to which OWN is added.

    Args:
        reference: The train flows.
        outputs: The student's outputs for validation flows.
        flows: Their features.
        labels: Labels that each of them has.
        classes: Classes of the columns of the label scores.
    """
    evidence: dict[str, dict[str, float]] = {}
    for column, name in enumerate(classes):
        strange = np.array([own == {name} for own in labels], dtype=bool)
        known = np.array([name not in own for own in labels], dtype=bool)
        if strange.sum() < FEWEST or not known.any() or not (reference.labels != name).any() or len(classes) < 3:
            continue
        kept = np.flatnonzero(strange | known)
        scores = reference.without(name, column).scores(outputs.at(kept).without(column), flows.iloc[kept], PLAYED)
        evidence[name] = {score: auroc(values, strange[kept]) for score, values in scores.items()}
    means = Choice("", evidence).means
    return Choice(f"{max(PLAYED, key=lambda score: means[score]) if means else DEFAULT}+{OWN}", evidence)


def auroc(scores: Floats, strange: np.ndarray) -> float:
    """Return the probability that a strange flow has a higher score than a known one; ties count half.

    NaN if there is none of either.
    """
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), int(strange.sum())
    negative = len(scores) - positive
    if not positive or not negative:
        return float("nan")
    return float((ranks[strange].sum() - positive * (positive + 1) / 2) / (positive * negative))
