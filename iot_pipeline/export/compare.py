"""Comparison of an exported student with the one that it was made of: labels, calibration, explanations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.evaluate import evaluate_predictions
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.evaluation.metrics import normalise_log_probs
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.settings import Settings
from iot_pipeline.sft.tasks import asked

Log = Callable[[str], None]
RESAMPLES = 200  # of intervals that the comparison does not show
NEEDED = 0.999  # agreement of labels below which an export is refused


@dataclass(frozen=True)
class Sample:
    """Test flows of a comparison: `records` are theirs, `explained` the places of those that are explained too."""

    groups: list[str]
    texts: list[str]
    records: pd.DataFrame
    explained: list[int]

    def questions(self, settings: Settings) -> list[str]:
        """Return the questions for the class of each flow."""
        return [asked(text, "classify", settings.student.tasks) for text in self.texts]


@dataclass(frozen=True)
class Said:
    """Scores and explanations of a sample: scores float64 [flows, classes] before calibration, and explanations."""

    scores: np.ndarray
    written: list[tuple[str, bool]]


def sample_of(flows: pd.DataFrame, records: pd.DataFrame, most: int, explained: int, seed: int) -> Sample:
    """Draw test flows.

    Args:
        flows: flow_group and text of the distinct flows of the test side.
        records: Records of that side.
        most: Flows to draw at most; 0: all.
        explained: How many of them are explained.
        seed: Seed of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(flows))
    drawn = flows.iloc[np.sort(order[:most] if most else order)]
    groups = drawn["flow_group"].tolist()
    places = np.random.default_rng([seed, 1]).permutation(len(groups))[:explained]
    return Sample(groups, drawn["text"].tolist(), records[records["flow_group"].isin(groups)], sorted(places.tolist()))


def ask(student: Student, sample: Sample, classes: Sequence[str], settings: Settings, log: Log) -> Said:
    """Let a student name the class of each flow, and write freely about those that are explained.

    Args:
        student: The student.
        sample: The flows.
        classes: All classes.
        settings: The present settings.
        log: Called with progress messages.
    """
    scores = student.score_labels(sample.questions(settings), classes, log=log)
    chosen = [asked(sample.texts[place], "explain", settings.student.tasks) for place in sample.explained]
    longest = room_for(settings.teacher.explanation_words)
    return Said(scores, student.explain(chosen, longest, log=log) if chosen else [])


def compare(
    before: Said, after: Said, sample: Sample, writer: FlowTextWriter, settings: Settings, temperature: float | None
) -> dict[str, Any]:
    """Compare what the exported student says with what the student says.

    Args:
        before: Of the student.
        after: Of the exported one.
        sample: The flows.
        writer: Writer of flow texts, for the rules by which explanations are judged.
        settings: The present settings.
        temperature: Of the calibration side; None if the student was not evaluated.

    Returns:
        {flows, agreeing, agreement, low, high, most_apart, student, exported}: agreement of labels with its 95 %
        interval, the largest difference of a log-probability, and for each side accuracy, macro_f1, ece (calibrated if
        it can be) and grounded: the share of explanations without any fault, None without explanations.
    """
    from scipy.stats import binomtest

    agreeing = int((before.scores.argmax(axis=1) == after.scores.argmax(axis=1)).sum())
    flows = len(sample.groups)
    low, high = binomtest(agreeing, flows).proportion_ci(method="wilson")
    return {
        "flows": flows,
        "agreeing": agreeing,
        "agreement": agreeing / flows,
        "low": float(low),
        "high": float(high),
        "most_apart": float(np.abs(before.scores - after.scores).max()),
        "explained": len(sample.explained),
        "student": _measured(before, sample, writer, settings, temperature),
        "exported": _measured(after, sample, writer, settings, temperature),
    }


def _measured(
    said: Said, sample: Sample, writer: FlowTextWriter, settings: Settings, temperature: float | None
) -> dict[str, Any]:
    classes = list(writer.spec.classes)
    views = evaluate_predictions(
        sample.records,
        sample.groups,
        normalise_log_probs(said.scores),
        classes,
        settings.data.seed,
        temperature,
        RESAMPLES,
    )["views"]
    distinct = views["distinct"]
    found = {
        "accuracy": distinct["accuracy"],
        "macro_f1": distinct["macro_f1"],
        "ece": (distinct.get("calibrated") or distinct)["ece"],
        "grounded": None,
    }
    if said.written:
        texts = [sample.texts[place] for place in sample.explained]
        labels = [classes[said.scores[place].argmax()] for place in sample.explained]
        spec = writer.spec
        judged = score_explanations(
            texts, said.written, labels, classes, writer.ranks, spec.standardised,
            settings.teacher.facts == "marked", spec.known_values,
        )  # fmt: skip
        found["grounded"] = judged["aggregate"]["faultless"]
    return found
