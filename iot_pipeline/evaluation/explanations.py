"""Quality of explanations by rule, for student and teacher alike: every claim is held against its own flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.augmentation.answers import (
    DIRECTION,
    NAME_LIKE,
    Facts,
    ParsedAnswer,
    check_answer,
    facts_of,
    numbers_in,
    parse_answer,
)
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import RankTable, plain_number


def explanation_quality(
    flow_texts: Sequence[str],
    answers: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    ended: Sequence[bool] | None = None,
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Score answers [n] to flow texts [n] whose scored (or given) classes are `labels` [n].

    A direction is true by the percentile in the flow text (above or below 50). Without one, a standardised
    feature is judged by the sign of its value (None: all features are z-scores), any other one by `ranks`; a
    direction that nothing can decide counts as false. `ended`: whether the answer ended with end-of-text.
    Returns {items: [...], aggregate: {...}}; a share with nothing to measure is None.
    """
    if not len(flow_texts) == len(answers) == len(labels) or (ended is not None and len(ended) != len(answers)):
        raise UserError("explanations need one flow text, one answer and one label each")
    items = [
        judge(text, answer, label, classes, ranks, standardised)
        for text, answer, label in zip(flow_texts, answers, labels, strict=True)
    ]
    if ended is not None:
        for item, done in zip(items, ended, strict=True):
            item["ended"] = bool(done)
    return {"items": items, "aggregate": aggregate(items)}


def judge(
    flow_text: str,
    answer: str,
    label: str,
    classes: Sequence[str],
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
) -> dict[str, Any]:
    """All checks of one answer: counts of claims beside counts of true ones, and what is false by name.

    `faults` are the reasons for which a teacher's answer would be refused (directions: by text or sign).
    """
    plain = facts_of(flow_text)
    signed = frozenset(plain.values) if standardised is None else standardised
    facts = facts_of(flow_text, signed)
    parsed = parse_answer(answer)
    numbers = _numbers(parsed, facts)
    names = _names(parsed, facts, classes)
    cited = [item for item in parsed.indicators if item.feature in facts.values]
    directed = _directions(parsed, facts, ranks)
    return {
        "schema": not parsed.problems,
        "label": parsed.label if parsed.label in classes else None,
        "label_matches": parsed.label == label,
        "numbers": len(numbers),
        "numbers_grounded": sum(grounded for _, grounded in numbers),
        "ungrounded": sorted({number for number, grounded in numbers if not grounded}),
        "features": len(names),
        "features_real": sum(real for _, real in names),
        "unknown_features": sorted({name for name, real in names if not real}),
        "cited_features": sorted({item.feature for item in cited}),
        "values_cited": len(cited),
        "values_true": sum(plain_number(item.value) == facts.values[item.feature] for item in cited),
        "directions": len(directed),
        "directions_true": sum(right for _, right in directed),
        "false_directions": sorted({name for name, right in directed if not right}),
        "words": len(answer.split()),
        "faults": check_answer(answer, flow_text, label, classes, signed),
    }


def aggregate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all items; those of numbers, features and directions are over all mentions."""

    def of(part: str, whole: str) -> float | None:
        total = sum(item[whole] for item in items)
        return sum(item[part] for item in items) / total if total else None

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "explained": len(items),
        "schema_valid": mean([float(item["schema"]) for item in items]),
        "label_matches": mean([float(item["label_matches"]) for item in items]),
        "numbers_grounded": of("numbers_grounded", "numbers"),
        "fully_grounded": mean(
            [float(item["numbers_grounded"] == item["numbers"]) for item in items if item["numbers"]]
        ),
        "features_real": of("features_real", "features"),
        "values_true": of("values_true", "values_cited"),
        "directions_true": of("directions_true", "directions"),
        "faultless": mean([float(not item["faults"]) for item in items]),
        "features_cited_mean": mean([float(len(item["cited_features"])) for item in items]),
        "words_mean": mean([float(item["words"]) for item in items]),
        "ended": mean([float(item["ended"]) for item in items if "ended" in item]),
    }


def importance_agreement(
    items: Sequence[Mapping[str, Any]], importances: Mapping[str, float], most: int = 5
) -> dict[str, Any] | None:
    """Do explanations name what a baseline relies on? Mean share of an explanation's named features that are among the
    baseline's `most` important ones.

    items: from `judge`; importances: rise of the loss by feature, all features of a flow; only those that rise count.
    Returns {features, explanations, share, chance}: `chance` is what features named at random reach. None where no
    explanation names a feature or none matters to the baseline.
    """
    ranked = sorted(importances, key=lambda name: (-importances[name], name))
    top = [name for name in ranked[:most] if importances[name] > 0]
    named = [set(item["cited_features"]) for item in items if item["cited_features"]]
    if not top or not named:
        return None
    return {
        "features": top,
        "explanations": len(named),
        "share": sum(len(found.intersection(top)) / len(found) for found in named) / len(named),
        "chance": len(top) / len(importances),
    }


def _numbers(parsed: ParsedAnswer, facts: Facts) -> list[tuple[str, bool]]:
    """Each number of analysis and indicators, and whether it stands in the flow at the printed precision."""
    prose = [parsed.analysis, *(item.note for item in parsed.indicators)]
    found = [number for text in prose for number in numbers_in(text, facts)]
    found += [plain_number(item.value) for item in parsed.indicators]
    return [(number, number in facts.numbers) for number in found]


def _names(parsed: ParsedAnswer, facts: Facts, classes: Sequence[str]) -> list[tuple[str, bool]]:
    """Each mention of a feature, or of a word built like one, and whether that feature is real."""
    rest = facts.names.sub(" ", parsed.analysis)
    known = {name.lower() for name in classes}
    # `fwd_pkts_payload` may stand for its .tot and .avg together.
    stems = {name.rsplit(".", 1)[0] for name in facts.values}
    other = [name for name in NAME_LIKE.findall(rest) if name.lower() not in known and name not in stems]
    mentioned = [*facts.names.findall(parsed.analysis), *(item.feature for item in parsed.indicators)]
    return [(name, name in facts.values) for name in [*mentioned, *other]]


def _directions(parsed: ParsedAnswer, facts: Facts, ranks: RankTable | None) -> list[tuple[str, bool]]:
    """(feature, is its direction true?) of each indicator that says above or below."""
    found = []
    for item in parsed.indicators:
        said = DIRECTION.search(item.note)
        if said is None or item.feature not in facts.values:
            continue
        true = facts.directions[item.feature]
        if not true and ranks is not None:
            distance = ranks.percentile(item.feature, facts.values[item.feature]) - 50
            true = "above" if distance > 0 else "below" if distance < 0 else "at"
        found.append((item.feature, said[1].lower() == true))
    return found
