"""Free explanations in the form of answers: a template over LightGBM and SHAP, and a shallow tree in words."""

from collections.abc import Sequence

import numpy as np

from iot_pipeline.augmentation.answers import Facts, Indicator, ParsedAnswer, facts_of, format_answer
from iot_pipeline.augmentation.checks import MIN_INDICATORS
from iot_pipeline.baseline.contributions import TreePaths
from iot_pipeline.evaluation.reasons import directions
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.texts import RankTable

ORDER = "label_first"


def template_answer(flow: str, label: str, toward: Floats, most: int, features: Sequence[str], ranks: RankTable) -> str:
    """Write the answer of a template: the features that contribute most to the class, with value, side and percentile.

    Its numbers and directions are the flow's by construction.

    Args:
        flow: Flow text.
        label: Class that LightGBM names.
        toward: Contributions to that class [features].
        most: Number of features to name; as many as an answer needs at least.
        features: Feature names.
        ranks: Rank table of the train pool.
    """
    facts, sides = facts_of(flow), directions(flow, ranks)
    chosen = [features[place] for place in np.argsort(-toward, kind="stable")[: max(most, MIN_INDICATORS)]]
    items = [(name, facts.values[name], _note(name, sides, facts)) for name in chosen]
    told = "; ".join(f"{name} {value} ({note})" if note else f"{name} {value}" for name, value, note in items)
    analysis = f"LightGBM names {label}. The features that contribute most to this class, by SHAP value, are: {told}."
    return _answer(label, analysis, chosen, sides, facts)


def tree_answers(flows: Sequence[str], tree: TreePaths, ranks: RankTable) -> list[str]:
    """Write the answers of a shallow tree: the conditions on each flow's path, without the thresholds' numbers.

    A threshold is no number of the flow; the side on which the flow fell is said instead.
    """
    answers = []
    for flow, label, path in zip(flows, tree.labels, tree.paths, strict=True):
        facts, sides = facts_of(flow), directions(flow, ranks)
        told = "; ".join(f"{name} {facts.values[name]} {_condition(low, high)}" for name, low, high in path)
        analysis = f"A decision tree names {label}, because on its path the flow meets these conditions: {told}."
        answers.append(_answer(label, analysis, [name for name, _, _ in path], sides, facts))
    return answers


def _condition(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "is a value that the tree asks for"
    if low is not None and high is not None:
        return "lies between two thresholds of the tree"
    return "passes its threshold" if high is None else "stays within its threshold"


def _note(name: str, sides: dict[str, str], facts: Facts) -> str:
    if name in facts.shares:
        return facts.shares[name]
    rank = facts.percentiles.get(name)
    return f"{sides[name]} the median" + (f", {rank}" if rank else "")


def _answer(label: str, analysis: str, chosen: Sequence[str], sides: dict[str, str], facts: Facts) -> str:
    items = tuple(Indicator(name, facts.values[name], _note(name, sides, facts)) for name in chosen)
    return format_answer(ParsedAnswer(label, analysis, items), ORDER)
