"""One class kept from student and baseline: how both judge its test flows, and the known ones beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.unknown.choice import Choice, auroc, choose_score
from iot_pipeline.evaluation.unknown.detector import ALARMS, conformal_p
from iot_pipeline.evaluation.unknown.measure import Judged, curve, measure, told
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.scores import Reference
from iot_pipeline.evaluation.views import Floats

OF_THE_CLASS = ("auroc", "found_")  # measures that are means over the flows of the class


@dataclass(frozen=True)
class Flows:
    """Distinct flows of one side: features, and the share of each flow's rows by label [n, classes]."""

    table: pd.DataFrame
    shares: Floats
    classes: list[str]

    @staticmethod
    def of(table: pd.DataFrame, records: pd.DataFrame, classes: list[str]) -> Flows:
        """Return the flows of a side.

        Args:
            table: flow_group and features.
            records: Records of the side.
            classes: All classes of the data set.
        """
        rows = records.pivot_table(index="flow_group", columns="label", values="rows", aggfunc="sum", fill_value=0)
        counts = rows.reindex(index=table["flow_group"], columns=classes, fill_value=0).to_numpy(np.float64)
        return Flows(table.reset_index(drop=True), counts / counts.sum(axis=1, keepdims=True), classes)

    def labels(self) -> list[set[str]]:
        """Return the labels of each flow."""
        return [{self.classes[place] for place in np.flatnonzero(row)} for row in self.shares]

    def at(self, places: np.ndarray) -> Flows:
        """Return some flows."""
        return Flows(self.table.iloc[places].reset_index(drop=True), self.shares[places], self.classes)

    def errors(self, log_probs: Floats, classes: Sequence[str]) -> Floats:
        """Return the share of each flow's rows that the likeliest class is not the label of [n]."""
        columns = np.array([self.classes.index(name) for name in classes])
        wrong: Floats = 1 - self.shares[np.arange(len(self.shares)), columns[log_probs.argmax(axis=1)]]
        return wrong


@dataclass(frozen=True)
class Sides:
    """Flows of each side that a class is measured by, and their places among all.

    Validation and calibration side: the flows without the class. Test side: those of the class alone (`strange`), and
    those without it. Test flows that have this label and another one (`ambiguous` of them) are left out.
    """

    validation: tuple[Flows, np.ndarray]
    calibration: tuple[Flows, np.ndarray]
    test: tuple[Flows, np.ndarray]
    strange: np.ndarray
    ambiguous: int

    @staticmethod
    def of(label: str, sides: Mapping[str, Flows]) -> Sides:
        """Choose the flows for a class."""
        place = sides["test"].classes.index(label)
        own = {side: flows.shares[:, place] for side, flows in sides.items()}
        kept = {side: np.flatnonzero(share == 0) for side, share in own.items()}
        kept["test"] = np.flatnonzero((own["test"] == 0) | (own["test"] == 1))
        chosen = {side: (sides[side].at(places), places) for side, places in kept.items()}
        strange, ambiguous = own["test"][kept["test"]] == 1, len(own["test"]) - len(kept["test"])
        return Sides(chosen["validation"], chosen["calibration"], chosen["test"], strange, ambiguous)


def judge_student(
    reference: Reference, outputs: Mapping[str, Outputs], sides: Sides, classes: Sequence[str]
) -> tuple[Judged, Choice, dict[str, float]]:
    """Judge the test flows by the score that the validation side's known classes choose.

    A flow is doubtful if it is strange or its class improbable: minus the sum of the logs of both p-values (Fisher).

    Args:
        reference: Train flows, none of the class.
        outputs: The student's outputs for all distinct flows of each side.
        sides: The flows that are used.
        classes: Classes without the one that is left out.

    Returns:
        The student's judgement, the choice, and beside it the AUROC of every score on the test flows.
    """
    (known, kept), (calibration, fitted_on), (test, tested) = sides.validation, sides.calibration, sides.test
    choice = choose_score(reference, outputs["validation"].at(kept), known.table, known.labels(), classes)
    own = outputs["test"].at(tested)
    scores = reference.scores(own, test.table)
    fitted = outputs["calibration"].at(fitted_on)
    usual = reference.scores(fitted, calibration.table, [choice.score, "probability"])
    strangeness, improbability = (
        conformal_p(np.sort(usual[name]), scores[name]) for name in (choice.score, "probability")
    )
    doubts = -np.log(strangeness) - np.log(improbability)
    errors = test.errors(own.log_probs, classes)
    judged = Judged(scores[choice.score], doubts, sides.strange, errors, strangeness)
    return judged, choice, {name: auroc(values, sides.strange) for name, values in scores.items()}


def judge_baseline(log_probs: Mapping[str, Floats], sides: Sides, classes: Sequence[str]) -> Judged:
    """Judge the test flows by a baseline's own greatest probability.

    Args:
        log_probs: Its log-probabilities for all distinct flows of calibration and test side.
        sides: The flows that are used.
        classes: Classes of the columns.
    """
    (_, fitted_on), (test, tested) = sides.calibration, sides.test
    scores = {"calibration": -log_probs["calibration"][fitted_on].max(axis=1)}
    scores["test"] = -log_probs["test"][tested].max(axis=1)
    errors = test.errors(log_probs["test"][tested], classes)
    usual = np.sort(scores["calibration"])
    return Judged(scores["test"], scores["test"], sides.strange, errors, conformal_p(usual, scores["test"]))


def measured(judged: Mapping[str, Judged], sides: Sides, seed: int) -> dict[str, Any]:
    """Measure each model on the same resamples; return JSON values."""
    values = {name: measure(of, seed, ALARMS) for name, of in judged.items()}
    flows = int(sides.strange.sum())
    facts = {
        name: {key: told(found, flows if key.startswith(OF_THE_CLASS) else None) for key, found in of.items()}
        | {"curve": curve(judged[name])}
        for name, of in values.items()
    }
    difference = None
    if len(values) == 2:
        first, second = values.values()
        difference = told(first["auroc"] - second["auroc"], flows, least=-1.0)
    counts = {"flows": flows, "known_flows": int((~sides.strange).sum())}
    return {**counts, "ambiguous_flows": sides.ambiguous, "models": facts, "auroc_difference": difference}
