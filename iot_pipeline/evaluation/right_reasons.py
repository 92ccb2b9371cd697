"""Student, template and tree on the same flows: all measures of right reasons, and paired verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iot_pipeline.evaluation.ablation import ablation_measures
from iot_pipeline.evaluation.class_guess import guess_measure
from iot_pipeline.evaluation.free_explanations import template_answer
from iot_pipeline.evaluation.measure import Measure, sentence, verdicts
from iot_pipeline.evaluation.reasons import (
    HUMAN,
    Explained,
    class_measures,
    consistency_measure,
    contribution_measure,
    evidence_measures,
    not_judged,
    read_explanations,
    rows_of,
)
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.texts import FlowTextWriter

STUDENT, TEMPLATE, TREE = "student", "template", "tree"
EXAMPLES = 2


@dataclass(frozen=True)
class FreeBaselines:
    """LightGBM's classes [n] and contributions [n, classes, features], and the tree's classes and answers [n]."""

    labels: list[str]
    contributions: Floats
    tree_labels: list[str]
    tree_answers: list[str]


def text_measures(
    explained: Explained, groups: Sequence[str], contributions: Floats, writer: FlowTextWriter, seed: int
) -> tuple[list[Measure], list[dict[str, Any]]]:
    """Measure explanations without a student: evidence, contributions, consistency, class guessed (with its macro-F1).

    Args:
        explained: Explanations [n].
        groups: Flow group of each [n].
        contributions: Contributions [n, classes, features] of LightGBM.
        writer: Writer of the flow texts.
        seed: Seed of the text classifier's folds.
    """
    spec, ranks = writer.spec, writer.ranks
    assert ranks is not None
    guessed, scores = guess_measure(explained.answers, explained.labels, groups, spec.classes, seed)
    measures = [
        *evidence_measures(explained, spec.expected_evidence, ranks),
        contribution_measure(explained, contributions, spec.feature_names, spec.classes),
        consistency_measure(explained),
        *guessed,
    ]
    return measures, scores


def template_answers(
    flows: Sequence[str], sizes: Sequence[int], free: FreeBaselines, writer: FlowTextWriter
) -> list[str]:
    """Write the template's answers, each naming as many features as `sizes` says.

    Args:
        flows: Flow texts [n].
        sizes: Number of features to name [n].
        free: LightGBM's classes and contributions.
        writer: Writer of the flow texts.
    """
    spec, ranks = writer.spec, writer.ranks
    assert ranks is not None
    toward = [free.contributions[i, spec.classes.index(label)] for i, label in enumerate(free.labels)]
    return [
        template_answer(flow, label, found, size, spec.feature_names, ranks)
        for flow, label, found, size in zip(flows, free.labels, toward, sizes, strict=True)
    ]


def compare_reasons(
    writer: FlowTextWriter,
    flows: dict[str, str],
    true: Sequence[str],
    written: tuple[Sequence[str], Sequence[str]],
    free: FreeBaselines,
    score: Callable[[list[str]], Floats],
    deleted: int,
    seed: int,
) -> dict[str, Any]:
    """Judge a student's explanations, and those of template and tree on the same flows, and compare them pairwise.

    The template names as many features as the student does on a flow, so that deletion and sufficiency compare sets of
    one size. Returns {explanations, deletion_flows, measures: {writer: rows}, macro_f1: {writer: rows}, verdicts:
    {baseline: rows}, sentences, not_judged, human, examples}.

    Args:
        writer: Writer of the flow texts.
        flows: Flow texts by flow group.
        true: Majority label of each flow.
        written: Classes that the student scored highest, and its explanations.
        free: What the free baselines say of the flows.
        score: Function from flow texts to the student's log-probabilities [texts, classes].
        deleted: Most flows whose features are deleted.
        seed: Seed of every random choice.
    """
    spec, ranks = writer.spec, writer.ranks
    assert ranks is not None
    texts, groups = [*flows.values()], [*flows]
    labels, answers = written
    student = read_explanations(texts, answers, labels, spec, ranks)
    template = template_answers(texts, [len(named) for named in student.named], free, writer)
    explained = {
        STUDENT: student,
        TEMPLATE: read_explanations(texts, template, free.labels, spec, ranks),
        TREE: read_explanations(texts, free.tree_answers, free.tree_labels, spec, ranks),
    }
    named = {who: found.named[:deleted] for who, found in explained.items()}
    codes = np.array([spec.classes.index(label) for label in labels[:deleted]], dtype=np.int64)
    ablated = ablation_measures(writer, texts[:deleted], codes, named, score, seed)
    measures: dict[str, list[Measure]] = {}
    guesses: dict[str, Any] = {}
    for who, found in explained.items():
        measured, guesses[who] = text_measures(found, groups, free.contributions, writer, seed)
        padded = [_padded(measure, len(texts)) for measure in ablated[who]]
        measures[who] = [*class_measures(found, true, measured[0]), *measured, *padded]
    # The template names what LightGBM goes by: its agreement with that is no finding.
    judged = [measure for measure in measures[STUDENT] if measure.name != "shap_agreement"]
    paired = {who: verdicts(judged, measures[who]) for who in (TEMPLATE, TREE)}
    return {
        "explanations": len(texts),
        "deletion_flows": min(deleted, len(texts)),
        "measures": {who: rows_of(found) for who, found in measures.items()},
        "macro_f1": guesses,
        "verdicts": paired,
        "sentences": {who: sentence(rows, who) for who, rows in paired.items()},
        "not_judged": not_judged(spec.expected_evidence, labels),
        "human": HUMAN,
        "examples": _examples(explained),
    }


def _padded(measure: Measure, n: int) -> Measure:
    """Return a measure of the first flows as one of all, NaN for the others."""
    rest = np.full(n - len(measure.values), np.nan)
    return Measure(measure.name, np.append(measure.values, rest), np.append(measure.chance, rest))


def _examples(explained: dict[str, Explained]) -> list[dict[str, str]]:
    """Return the first flows with the explanation of each writer."""
    flows = explained[STUDENT].flows
    return [
        {"flow": flow, **{who: found.answers[i] for who, found in explained.items()}}
        for i, flow in enumerate(flows[:EXAMPLES])
    ]


def teacher_reasons(
    answers: Sequence[tuple[str, str, str, str]], contributions: Floats, writer: FlowTextWriter, seed: int
) -> dict[str, Any]:
    """Judge the teacher's explanations of flows by the same rules; it has no class of its own to be right or wrong.

    Args:
        answers: Flow group, flow text, answer and given class of each [n].
        contributions: Contributions [n, classes, features] of LightGBM.
        writer: Writer of the flow texts.
        seed: Seed of the text classifier's folds.
    """
    spec: DatasetSpec = writer.spec
    assert writer.ranks is not None
    groups, texts, written, labels = (list(part) for part in zip(*answers, strict=True)) if answers else ([],) * 4
    explained = read_explanations(texts, written, labels, spec, writer.ranks)
    measures, scores = text_measures(explained, groups, contributions, writer, seed)
    return {
        "explanations": len(texts),
        "measures": rows_of([*class_measures(explained, labels, measures[0])[2:], *measures]),
        "macro_f1": scores,
        "not_judged": not_judged(spec.expected_evidence, labels),
    }
