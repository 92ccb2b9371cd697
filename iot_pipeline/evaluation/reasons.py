"""Right reasons of explanations, by rule: expected evidence, what matters to a model, agreement over like flows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from iot_pipeline.augmentation.answers import facts_of
from iot_pipeline.evaluation.explanations import score_explanation
from iot_pipeline.evaluation.measure import Measure
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.categories import printed_category
from iot_pipeline.flows.distance import differing_features
from iot_pipeline.flows.evidence import Evidence, Expected
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.texts import RankTable

NEAR = 3  # features in which two flows may differ that should be explained alike
NO_EVIDENCE = "cannot be judged: the spec has no expected evidence"
# SOC field study of 2026, 12 analysts, real alarms (arXiv 2604.22001): right decisions, and right justifications.
HUMAN = {"source": "arXiv 2604.22001", "right_class": 0.83, "right_class_and_reason": 0.39}


@dataclass(frozen=True)
class Explained:
    """Explanations of one writer [n]: flows, classes that they explain, and what the rules find in them.

    `named` are the features that an explanation names, `false` those of them whose stated direction is false.
    """

    flows: list[str]
    answers: list[str]
    labels: list[str]
    named: list[frozenset[str]]
    false: list[frozenset[str]]
    faultless: Floats


def read_explanations(
    flows: Sequence[str], answers: Sequence[str], labels: Sequence[str], spec: DatasetSpec, ranks: RankTable
) -> Explained:
    """Read the features that explanations name, as `score_explanation` finds them.

    Args:
        flows: Flow texts [n].
        answers: Answers [n].
        labels: Class that each answer explains [n].
        spec: Spec of the data set, with fitted scales.
        ranks: Rank table of the train pool.
    """
    items = [
        score_explanation(flow, answer, label, spec.classes, ranks, spec.standardised, known=spec.known_values)
        for flow, answer, label in zip(flows, answers, labels, strict=True)
    ]
    return Explained(
        list(flows),
        list(answers),
        list(labels),
        [frozenset(item["named_features"]) for item in items],
        [frozenset(item["false_directions"]) for item in items],
        np.array([not item["faults"] for item in items], dtype=float),
    )


def evidence_measures(explained: Explained, expected: Expected, ranks: RankTable) -> list[Measure]:
    """Measure how far explanations name the evidence that is expected of the class that they explain.

    A named feature counts if it is expected and the flow has it on the expected side of the median, unless the
    explanation states the other side. `evidence_named`: at least one counts; `evidence_share`: share of the named
    features that count, 0 if none is named. Chance: as many features drawn at random, exactly; `other_class`: the same
    explanation by the lists of the other classes. A class without a list cannot be judged.
    """
    n = len(explained.flows)
    own, chance, other = (np.full((2, n), np.nan) for _ in range(3))
    for i, (flow, label) in enumerate(zip(explained.flows, explained.labels, strict=True)):
        if label not in expected:
            continue
        sides, values = directions(flow, ranks), facts_of(flow).values
        present = {
            name: {item.feature for item in listed if _is_present(item, sides, values)}
            for name, listed in expected.items()
        }
        named, right = explained.named[i], explained.named[i] - explained.false[i]
        counted = {name: len(right & found) for name, found in present.items()}
        own[:, i] = _hits(counted[label], len(named))
        others = [_hits(count, len(named)) for name, count in counted.items() if name != label]
        other[:, i] = np.mean(others, axis=0) if others else np.nan
        chance[:, i] = _random_hits(len(present[label]), len(named), len(sides))
    names = ("evidence_named", "evidence_share")
    return [Measure(name, own[row], chance[row], other[row]) for row, name in enumerate(names)]


def directions(flow: str, ranks: RankTable) -> dict[str, str]:
    """Return the side of the train pool's median of each feature of a flow: above, below or at, as texts rank it.

    A category has none: an empty text.
    """
    facts = facts_of(flow)
    ranked = {
        name: 50 if name in facts.shares else ranks.percentile(name, value) for name, value in facts.values.items()
    }
    sides = {name: "above" if rank > 50 else "below" if rank < 50 else "at" for name, rank in ranked.items()}
    return sides | dict.fromkeys(facts.shares, "")


def _is_present(item: Evidence, sides: Mapping[str, str], values: Mapping[str, str]) -> bool:
    """Return True if a flow shows a piece of evidence: the number's side, or the category's value."""
    if item.value is not None:
        return values[item.feature] == printed_category(item.value)
    return sides[item.feature] == item.direction


def _hits(counted: int, named: int) -> tuple[float, float]:
    return float(counted > 0), counted / named if named else 0.0


def _random_hits(present: int, named: int, features: int) -> tuple[float, float]:
    """Return the values that `named` features drawn without replacement give, `present` of them counting."""
    missed = comb(features - present, named) / comb(features, named)
    return 1 - missed, present / features if named else 0.0


def class_measures(explained: Explained, true: Sequence[str], evidence: Measure) -> list[Measure]:
    """Measure right classes, right classes with evidence named, and explanations without a fault.

    By chance a class is the most frequent one, and its evidence is named by features drawn at random; faults have no
    chance level.
    """
    right = np.array([label == name for label, name in zip(explained.labels, true, strict=True)], dtype=float)
    most = max(sorted(set(true)), key=list(true).count) if len(true) else ""
    guessed = np.array([name == most for name in true], dtype=float)
    return [
        Measure("right_class", right, guessed),
        Measure("right_class_and_reason", right * evidence.values, guessed * evidence.chance),
        Measure("faultless", explained.faultless, np.full(len(right), np.nan)),
    ]


def contribution_measure(
    explained: Explained, contributions: Floats, features: Sequence[str], classes: Sequence[str]
) -> Measure:
    """Measure the share of named features among as many that contribute most to the class, by TreeSHAP of a baseline.

    Args:
        explained: Explanations [n].
        contributions: Contributions [n, classes, features] of the baseline.
        features: Feature names.
        classes: Class names.
    """
    values, chance = np.zeros(len(explained.named)), np.zeros(len(explained.named))
    for i, (named, label) in enumerate(zip(explained.named, explained.labels, strict=True)):
        if not named:
            continue
        toward = np.abs(contributions[i, classes.index(label)])
        top = {features[place] for place in np.argsort(-toward, kind="stable")[: len(named)]}
        values[i], chance[i] = len(named & top) / len(named), len(named) / len(features)
    return Measure("shap_agreement", values, chance)


def consistency_measure(explained: Explained) -> Measure:
    """Measure the agreement (Jaccard index) of the features named for flows that differ in at most NEAR values.

    A student answers equal texts alike, so that only near-duplicates can differ. The value of a flow is its mean over
    its near-duplicates of the same class, chance its mean over the class's other flows; NaN where it lacks either.
    """
    n = len(explained.flows)
    values, chance = np.full(n, np.nan), np.full(n, np.nan)
    printed = [facts_of(flow).values for flow in explained.flows]
    columns = [
        np.unique([flow[name] for flow in printed], return_inverse=True)[1] for name in (printed[0] if n else ())
    ]
    codes = np.array(columns, dtype=np.int32).T.reshape(n, -1)
    for i, differing in enumerate(differing_features(codes, codes)):
        alike = [j for j in range(n) if j != i and explained.labels[j] == explained.labels[i]]
        close = [jaccard(explained.named[i], explained.named[j]) for j in alike if differing[j] <= NEAR]
        far = [jaccard(explained.named[i], explained.named[j]) for j in alike if differing[j] > NEAR]
        if close and far:
            values[i], chance[i] = np.mean(close), np.mean(far)
    return Measure("consistency", values, chance)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard index of two sets; 1 for two empty ones."""
    return len(first & second) / len(first | second) if first | second else 1.0


def rows_of(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the rows of the measures that could be judged of at least one explanation."""
    return [row for row in (measure.row() for measure in measures) if row["explanations"]]


def not_judged(expected: Expected, labels: Sequence[str]) -> Mapping[str, Any]:
    """Return the number of explanations whose class has no expected evidence, and the reason; empty for none."""
    without = sum(label not in expected for label in labels)
    reason = "their class has no expected evidence" if expected else NO_EVIDENCE
    return {"explanations": without, "reason": reason} if without else {}
