"""Detector of unknown flows of a student, fitted beside its metrics."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from iot_pipeline.defs.inputs import flows_of, labelled_rows, records_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.evaluation.unknown.choice import choose_score
from iot_pipeline.evaluation.unknown.detector import Unknown, choose_reference, false_alarms
from iot_pipeline.evaluation.unknown.leave_out import distinct_labelled
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.scores import MOST_REFERENCE, Reference
from iot_pipeline.flows.dataset import distinct_flows, side_records


class Scored(NamedTuple):
    """Outputs of a student by part: flow groups, label scores and hidden states; and the head's rows of the labels.

    The parts are the evaluation sides and, if there are any, `train`: the flows that new ones are held against.
    """

    parts: dict[str, tuple[list[str], np.ndarray, np.ndarray]]
    label_rows: np.ndarray
    train: pd.DataFrame | None

    @property
    def scores(self) -> dict[str, tuple[list[str], np.ndarray]]:
        """Flow groups and label scores of each evaluation side."""
        return {part: (groups, scores) for part, (groups, scores, _) in self.parts.items() if part != "train"}

    def outputs(self, part: str) -> Outputs:
        """Return the outputs of a part."""
        _, scores, states = self.parts[part]
        return Outputs.of(scores, states, self.label_rows)


def reference_flows(step: Step, stage: str) -> pd.DataFrame:
    """Return the distinct flows of a stage's rows that new flows are held against, with label and features."""
    distinct = distinct_labelled(labelled_rows(step, stage))
    return distinct.iloc[choose_reference(distinct["label"].tolist(), MOST_REFERENCE, step.settings.data.seed)]


def side_flows(step: Step, side: str) -> tuple[pd.DataFrame, list[set[str]]]:
    """Return the distinct flows of a side with their features, and the labels that each has."""
    table = distinct_flows(flows_of(step), records_of(step), side)
    labels = side_records(records_of(step), side).groupby("flow_group")["label"].agg(set)
    return table, labels.loc[table["flow_group"]].tolist()


def fit_unknown(step: Step, scored: Scored) -> dict[str, Any] | None:
    """Choose the score on the validation side, fit it on the calibration side, and measure it on the test side.

    Writes unknown.json and the files beside it into the artefact; returns what of it stands in eval.json, None without
    train flows.
    """
    train = scored.train
    if train is None:
        return None
    names, classes = step.spec.feature_names, step.spec.classes
    reference = Reference.of(train, names, step.spec.format, train["label"].tolist(), scored.outputs("train"))
    tables = {side: side_flows(step, side) for side in ("validation", "calibration", "test")}
    choice = choose_score(reference, scored.outputs("validation"), *tables["validation"], classes)
    fitted = Unknown.fit(
        choice, classes, reference, scored.label_rows, scored.outputs("calibration"), tables["calibration"][0]
    )
    if few := fitted.too_few():
        step.log(few)
    table, labels = tables["test"]
    measured = {"false_alarms": false_alarms(fitted.p_values(scored.outputs("test"), table), labels, classes)}
    fitted.save(step.folder, measured)
    step.summarise(
        unknown_score=choice.score,
        **{f"called_unknown_at_{alarm}": of["share"] for alarm, of in measured["false_alarms"].items()},
    )
    step.table("unknown_scores", [{"class": name, **of} for name, of in choice.evidence.items()])
    return {"score": choice.score, "means": choice.means, **measured}
