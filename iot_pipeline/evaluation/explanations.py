"""Rule-based quality of explanations by student or teacher: every claim is checked against its own flow."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iot_pipeline.augmentation.answers import (
    NAME_LIKE,
    NOTHING_KNOWN,
    Facts,
    Known,
    ParsedAnswer,
    facts_of,
    masked_names,
    mentions_in,
    numbers_at,
    numbers_in,
    parse_answer,
)
from iot_pipeline.augmentation.binding import bound_numbers
from iot_pipeline.augmentation.checks import DIRECTION, check_answer
from iot_pipeline.augmentation.marks import marked_facts
from iot_pipeline.flows.texts import RankTable

# Shares over all mentions: the true ones and all of them.
SHARES = {
    "numbers_grounded": ("numbers_grounded", "numbers"),
    "percentiles_true": ("percentiles_true", "percentiles"),
    "prose_values_true": ("prose_values_true", "prose_values"),
    "values_true": ("values_true", "values_cited"),
    "features_real": ("features_real", "features"),
    "directions_true": ("directions_true", "directions"),
}
RESAMPLES = 1_000
Item = dict[str, Any]


def score_explanations(
    flow_texts: Sequence[str],
    written: Sequence[tuple[str, bool]],
    labels: Sequence[str],
    classes: Sequence[str],
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
    marked: bool = False,
    known: Known = NOTHING_KNOWN,
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
        marked: True if features must be cited as marked facts.
        known: Values of categories in the train pool.

    Returns:
        {items, aggregate, shares}: a share with nothing to measure is None; `shares` has each share with its 95 %
        interval and its chance level, that of the same explanation held against another flow of the same class.
    """

    def scored(texts: Sequence[str]) -> list[Item]:
        return [
            score_explanation(text, answer, label, classes, ranks, standardised, marked, known) | {"ended": ended}
            for text, (answer, ended), label in zip(texts, written, labels, strict=True)
        ]

    items = scored(flow_texts)
    elsewhere = scored([flow_texts[place] for place in other_of_class(labels)])
    return {"items": items, "aggregate": aggregate(items), "shares": shares(items, elsewhere)}


def other_of_class(labels: Sequence[str]) -> list[int]:
    """Return for each flow the place of the next one of its class; of the next of any class if it is the only one."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    after = {place: found[(n + 1) % len(found)] for found in places.values() for n, place in enumerate(found)}
    return [after[place] if after[place] != place else (place + 1) % len(labels) for place in range(len(labels))]


def shares(items: Sequence[Item], elsewhere: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the shares of true claims with interval and chance level: share, value, low, high, chance.

    The interval is a bootstrap over explanations, because claims of one explanation are not independent. Where all are
    true, or none, resamples are alike, and the exact bound of as many trials as explanations stands in. `elsewhere` has
    the same explanations held against other flows; with a single flow there is no other, and no chance level.
    """
    if not items:
        return []
    drawn = np.random.default_rng(0).multinomial(len(items), [1 / len(items)] * len(items), RESAMPLES)
    found = []
    for name, (part, whole) in {**_shares_of(items), "faultless": ("faultless", "one")}.items():
        [true, total], [chance, trials] = (
            np.array([[_count(item, key) for item in of] for key in (part, whole)], dtype=float)
            for of in (items, elsewhere)
        )
        if total.sum() == 0:
            continue
        sums = drawn @ total
        low, high = np.quantile((drawn @ true)[sums > 0] / sums[sums > 0], [0.025, 0.975])
        if true.sum() in (0, total.sum()):
            bound = 0.025 ** (1 / np.count_nonzero(total))
            low, high = (bound, 1.0) if true.sum() else (0.0, 1 - bound)
        by_chance = float(chance.sum() / trials.sum()) if len(items) > 1 and trials.sum() else None
        found.append(
            {"share": name, "value": float(true.sum() / total.sum()), "low": float(low), "high": float(high),
             "chance": by_chance}
        )  # fmt: skip
    return found


def _shares_of(items: Sequence[Item]) -> dict[str, tuple[str, str]]:
    """Return the shares of items; that of marked facts only where they were asked for."""
    return SHARES | ({"facts_true": ("facts_true", "facts")} if items and "facts" in items[0] else {})


def _marked(answer: str, facts: Facts) -> dict[str, int]:
    """Count an answer's marked facts, and the true ones."""
    found = marked_facts(answer, facts)
    return {"facts": len(found), "facts_true": sum(true for _, true in found)}


def _count(item: Item, key: str) -> float:
    return 1.0 if key == "one" else float(not item["faults"]) if key == "faultless" else float(item[key])


def score_explanation(
    flow_text: str,
    answer: str,
    label: str,
    classes: Sequence[str],
    ranks: RankTable | None = None,
    standardised: frozenset[str] | None = None,
    marked: bool = False,
    known: Known = NOTHING_KNOWN,
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
        marked: True if features must be cited as marked facts, which are then counted.
        known: Values of categories in the train pool.
    """
    plain = facts_of(flow_text)
    signed = frozenset(plain.values) if standardised is None else standardised
    facts = facts_of(flow_text, signed, known)
    parsed = parse_answer(answer)
    numbers, percentiles = _numbers(parsed, facts)
    placed = _prose_values(parsed, facts)
    names = _names(parsed, facts, classes)
    cited = [item for item in parsed.indicators if item.feature in facts.values]
    directed = _directions(parsed, facts, ranks)
    return {
        "schema": not parsed.problems,
        "label": parsed.label if parsed.label in classes else None,
        "label_matches": parsed.label == label,
        "numbers": len(numbers),
        "numbers_grounded": sum(grounded for _, grounded in numbers),
        "ungrounded": sorted({number for number, grounded in numbers + percentiles if not grounded}),
        "percentiles": len(percentiles),
        "percentiles_true": sum(true for _, true in percentiles),
        "prose_values": len(placed),
        "prose_values_true": sum(placed),
        "features": len(names),
        "features_real": sum(real for _, real in names),
        "unknown_features": sorted({name for name, real in names if not real}),
        "named_features": sorted({name for name, real in names if real}),
        "cited_features": sorted({item.feature for item in cited}),
        "values_cited": len(cited),
        "values_true": sum(facts.says(item) == facts.values[item.feature] for item in cited),
        "directions": len(directed),
        "directions_true": sum(right for _, right in directed),
        "false_directions": sorted({name for name, right in directed if not right}),
        "words": len(answer.split()),
        "faults": check_answer(answer, flow_text, label, classes, signed, marked=marked, known=known),
        **(_marked(answer, facts) if marked else {}),
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
        **{name: of(part, whole) for name, (part, whole) in _shares_of(items).items()},
        "fully_grounded": mean(
            [float(item["numbers_grounded"] == item["numbers"]) for item in items if item["numbers"]]
        ),
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


Claims = list[tuple[str, bool]]


def _numbers(parsed: ParsedAnswer, facts: Facts) -> tuple[Claims, Claims]:
    """Return the numbers and the percentiles of an answer, each with True if its flow has it as printed.

    A percentile is no copied value: nearly every flow has some feature at p97. One in the note of an indicator must be
    that of its feature; p50 is the reference itself and is left out.
    """
    known = set(facts.percentiles.values())
    found = [(number, number in (known if number[:1] == "p" else facts.numbers))
             for number in numbers_in(parsed.analysis, facts)]  # fmt: skip
    for item in parsed.indicators:
        if item.feature not in facts.shares:  # whose value is a word, counted among the values
            found.append((facts.says(item), facts.says(item) in facts.numbers))
        own = facts.percentiles.get(item.feature)
        found += [(number, number == own or (number in facts.numbers and number[:1] != "p"))
                  for number in numbers_in(item.note, facts)]  # fmt: skip
    ranked = [(number, true) for number, true in found if number[:1] == "p" and number != "p50"]
    return [(number, true) for number, true in found if number[:1] != "p"], ranked


def _prose_values(parsed: ParsedAnswer, facts: Facts) -> list[bool]:
    """Return for each number of the prose that is said of a feature True if it is that feature's value."""
    masked, mentions = masked_names(parsed.analysis, facts)
    numbers = [(place, number) for place, number in numbers_at(masked, facts) if number[:1] != "p"]
    return [true for *_, true in bound_numbers(masked, mentions, numbers, facts)]


def _names(parsed: ParsedAnswer, facts: Facts, classes: Sequence[str]) -> list[tuple[str, bool]]:
    """Return each mention of a feature, or of a word formed like one, with True if the feature is real."""
    named = mentions_in(parsed.analysis, facts)
    rest = facts.names.sub(" ", parsed.analysis)
    known = {name.lower() for name in classes}
    # `fwd_pkts_payload` may mean its .tot and .avg together.
    stems = {name.rsplit(".", 1)[0] for name in facts.values}
    other = [name for name in NAME_LIKE.findall(rest) if name.lower() not in known and name not in stems]
    mentioned = [*(name[0] for name in named), *(item.feature for item in parsed.indicators)]
    return [(name, name in facts.values) for name in [*mentioned, *other]]


def _directions(parsed: ParsedAnswer, facts: Facts, ranks: RankTable | None) -> list[tuple[str, bool]]:
    """Return (feature, True if its direction is true) of each indicator that says above or below."""
    found = []
    for item in parsed.indicators:
        said = DIRECTION.search(item.note)
        if said is None or item.feature not in facts.values:
            continue
        true = facts.directions[item.feature]
        if not true and ranks is not None and item.feature not in facts.shares:
            distance = ranks.percentile(item.feature, facts.values[item.feature]) - 50
            true = "above" if distance > 0 else "below" if distance < 0 else "at"
        found.append((item.feature, said[1].lower() == true))
    return found
