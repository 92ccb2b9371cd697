"""Rule-based quality of explanations by student or teacher: every claim is checked against its own flow."""

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
from iot_pipeline.flows.serialise import plain_number
from iot_pipeline.flows.texts import RankTable


def score_explanations(
    flow_texts: Sequence[str],
    written: Sequence[tuple[str, bool]],
    labels: Sequence[str],
    classes: Sequence[str],
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Score explanations by rule against their flow texts.

    A direction is true if it agrees with the percentile in the flow text (above or below 50). Without a percentile, a
    standardised feature is checked by the sign of its value, any other feature by `ranks`; a direction that cannot be
    decided counts as false.

    Args:
        flow_texts: Flow texts [n].
        written: Answers [n], each with True if it ended with end-of-text.
        labels: Scored (or given) class of each flow [n].
        classes: All class names.
        ranks: Rank table of the train pool.
        standardised: Features that are z-scores; None: all are.

    Returns:
        {items, aggregate}; a share with nothing to measure is None.
    """
    items = [
        score_explanation(text, answer, label, classes, ranks, standardised) | {"ended": ended}
        for text, (answer, ended), label in zip(flow_texts, written, labels, strict=True)
    ]
    return {"items": items, "aggregate": aggregate(items)}


def score_explanation(
    flow_text: str,
    answer: str,
    label: str,
    classes: Sequence[str],
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Check one answer: count its claims and the true ones among them, and name the false ones.

    `faults` in the result are the reasons for which a teacher's answer would be refused (directions by text or sign
    only).

    Args:
        flow_text: Flow text.
        answer: Answer to it.
        label: Scored (or given) class.
        classes: All class names.
        ranks: Rank table of the train pool.
        standardised: Features that are z-scores; None: all are.
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
    """Aggregate items to shares; those of numbers, features, values and directions are over all mentions."""

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
        "ended": mean([float(item["ended"]) for item in items]),
    }


def importance_agreement(
    items: Sequence[Mapping[str, Any]], importances: Mapping[str, float], most: int = 5
) -> dict[str, Any] | None:
    """Return the share of features named in explanations that are among a baseline's `most` important ones.

    `items`: from `score_explanation`; `importances`: increase in loss by feature, for all features of a flow; only
    positive ones count. Returns {features, explanations, share, chance}: `share` is the mean over explanations,
    `chance` the value for features named at random. None if no explanation names a feature or no feature matters to
    the baseline.
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
    """Return each number of analysis and indicators, with True if the flow contains it at the printed precision."""
    prose = [parsed.analysis, *(item.note for item in parsed.indicators)]
    found = [number for text in prose for number in numbers_in(text, facts)]
    found += [plain_number(item.value) for item in parsed.indicators]
    return [(number, number in facts.numbers) for number in found]


def _names(parsed: ParsedAnswer, facts: Facts, classes: Sequence[str]) -> list[tuple[str, bool]]:
    """Return each mention of a feature, or of a word formed like one, with True if the feature is real."""
    rest = facts.names.sub(" ", parsed.analysis)
    known = {name.lower() for name in classes}
    # `fwd_pkts_payload` may mean its .tot and .avg together.
    stems = {name.rsplit(".", 1)[0] for name in facts.values}
    other = [name for name in NAME_LIKE.findall(rest) if name.lower() not in known and name not in stems]
    mentioned = [*facts.names.findall(parsed.analysis), *(item.feature for item in parsed.indicators)]
    return [(name, name in facts.values) for name in [*mentioned, *other]]


def _directions(parsed: ParsedAnswer, facts: Facts, ranks: RankTable | None) -> list[tuple[str, bool]]:
    """Return (feature, True if its direction is true) of each indicator that says above or below."""
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
