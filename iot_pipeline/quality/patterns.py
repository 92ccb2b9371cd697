"""Readable rules per class, learned on the train side and measured on the test side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.errors import UserError
from iot_pipeline.escaping import markdown_line
from iot_pipeline.flows.matrix import Columns
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import opened

Floats = npt.NDArray[np.float64]
MAX_DEPTH = 4
RULES_A_CLASS = 4
LEAST_PRECISION = 0.5
MOST_WORDS = 50


@dataclass(frozen=True)
class Condition:
    """The condition low < feature <= high, None meaning unbounded; bounds are in the units of the table."""

    feature: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Among:
    """The condition that a category has one of these values, or, if it is denied, none of them."""

    feature: str
    values: tuple[str, ...]
    denied: bool


Rule = list[Condition | Among]


def holds(rule: Rule, table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return a mask [n] of the rows that fulfil all conditions of a rule."""
    masks = []
    for condition in rule:
        values = table[condition.feature]
        if isinstance(condition, Among):
            masks.append(values.isin(condition.values) ^ condition.denied)
            continue
        if condition.low is not None:
            masks.append(values > condition.low)
        if condition.high is not None:
            masks.append(values <= condition.high)
    return np.logical_and.reduce(masks)


def attack_patterns(flows: Path, records: Path, spec: DatasetSpec, seed: int) -> dict[str, Any]:
    """Learn rules for each class from one-vs-rest trees of depth 4 on the distinct train flows.

    A rule's `coverage` (share of the class that it catches) and `precision` (share of the class among what it catches)
    are measured on the test side, by distinct flow and by row. Coverage is None if the class has no test flow,
    precision if nothing is caught. Returns {classes: {class: {rules, combined}}, prior_rules, guide, ...}; a class that
    is absent from the train side has no rules. `prior_rules` scores the rules in the spec's facts in the same way.

    Args:
        flows: flows.parquet.
        records: records.parquet of the split.
        spec: Spec of the data set.
        seed: Seed of the trees.

    Raises:
        UserError: A side is empty, or a rule in the facts names an unknown feature or class.
    """
    train, test = _load_side(flows, records, spec, "train"), _load_side(flows, records, spec, "test")
    result: dict[str, Any] = {}
    for name in spec.classes:
        positive = (train["label"] == name).to_numpy()
        rules = _learn(train, spec, positive, seed) if positive.any() else []
        caught = [holds(rule, test) for rule in rules]
        result[name] = {
            "rules": [
                {
                    "text": rule_text(rule, spec),
                    "conditions": [asdict(condition) for condition in rule],
                    **_measure(mask, test, [name]),
                }
                for rule, mask in zip(rules, caught, strict=True)
            ],
            "combined": _measure(np.logical_or.reduce(caught), test, [name]) if caught else None,
        }
    prior = [_measure_prior(rule, train, test, spec) for rule in spec.facts.get("prior_rules", [])]
    return {
        "learned_on": "distinct flows of the train side",
        "measured_on": "test side",
        "max_depth": MAX_DEPTH,
        "seed": seed,
        "train_flows": int(train["flow_group"].nunique()),
        "test_flows": int(test["flow_group"].nunique()),
        "classes": result,
        "prior_rules": prior,
        "guide": guide_text(result, prior),
    }


def _load_side(flows: Path, records: Path, spec: DatasetSpec, side: str) -> pd.DataFrame:
    """Load one row per record of `side`: flow_group, label, rows, weight (rows / group_rows), features.

    Feature values are those of the group's representative. Raises UserError if the side is empty.
    """
    with opened(flows=flows, records=records) as connection:
        frame = connection.execute(
            f"""SELECT r.flow_group, r.label, r.rows, r.rows / r.group_rows AS weight, {spec.feature_columns}
            FROM records r JOIN flows f ON f.row_id = r.row_id WHERE r.side = $side
            ORDER BY r.flow_group, r.label""",
            {"side": side},
        ).df()
    if frame.empty:
        raise UserError(f"the {side} side of the split has no flow; use more rows or another seed")
    return frame


def _learn(train: pd.DataFrame, spec: DatasetSpec, positive: npt.NDArray[np.bool_], seed: int) -> list[Rule]:
    """Return the largest mostly pure subtrees of a one-vs-rest tree as up to 4 rules, by caught weight of the class.

    The tree reads each of a category's MOST_WORDS commonest values as a yes or no.
    """
    from sklearn.tree import DecisionTreeClassifier

    weight = train["weight"].to_numpy(np.float64)
    # sklearn compares as float32; rounding first keeps its decisions and the rules' the same.
    columns = Columns.of(train, spec.feature_names, MOST_WORDS)
    values = columns.matrix(train)
    classifier = DecisionTreeClassifier(
        max_depth=MAX_DEPTH, min_samples_leaf=3, class_weight="balanced", random_state=seed
    )
    classifier.fit(values, positive, sample_weight=weight)
    tree = classifier.tree_
    path_of = classifier.decision_path(values).tocsc()
    found: list[tuple[float, int, Rule]] = []

    def precision(node: int) -> tuple[float, float]:
        inside = path_of.indices[path_of.indptr[node] : path_of.indptr[node + 1]]
        hit, total = weight[inside][positive[inside]].sum(), weight[inside].sum()
        return float(hit), float(hit / total) if total > 0 else 0.0

    def pure(node: int) -> bool:
        """Return True if every leaf below is mostly of the class, so that the splits between add nothing."""
        if tree.children_left[node] < 0:
            return precision(node)[1] >= LEAST_PRECISION
        return pure(int(tree.children_left[node])) and pure(int(tree.children_right[node]))

    def walk(node: int, path: list[tuple[int, float, bool]]) -> None:
        if path and pure(node):
            found.append((-precision(node)[0], node, _merge(path, columns.names, train)))
        elif tree.children_left[node] >= 0:
            split = int(tree.feature[node]), float(tree.threshold[node])
            walk(int(tree.children_left[node]), [*path, (*split, True)])
            walk(int(tree.children_right[node]), [*path, (*split, False)])

    walk(0, [])
    return [rule for _, _, rule in sorted(found, key=lambda item: item[:2])[:RULES_A_CLASS]]


def _merge(path: list[tuple[int, float, bool]], columns: Sequence[tuple[str, str]], train: pd.DataFrame) -> Rule:
    """Merge a path of splits into one condition per feature, with the shortest equivalent thresholds.

    `columns` are (feature, empty or a category's value) by number: a split on a value says that it is it, or is not.
    """
    bounds: dict[int, tuple[float, float]] = {}
    said: dict[str, Among] = {}
    for column, threshold, below in path:
        name, word = columns[column]
        if word:
            before = said.get(name)
            if before is None or (before.denied and not below):  # being one value says more than not being others
                said[name] = Among(name, (word,), below)
            elif before.denied:
                said[name] = Among(name, (*before.values, word), True)
            continue
        low, high = bounds.get(column, (-math.inf, math.inf))
        bounds[column] = (low, min(high, threshold)) if below else (max(low, threshold), high)

    def short(column: int, bound: float) -> float | None:
        name = columns[column][0]
        return short_threshold(train[name].to_numpy(np.float64), bound) if math.isfinite(bound) else None

    numbers = [
        Condition(columns[column][0], short(column, low), short(column, high)) for column, (low, high) in bounds.items()
    ]
    return [*numbers, *said.values()]


def short_threshold(values: Floats, threshold: float) -> float:
    """Return the number with the fewest digits that splits `values` exactly as `threshold` does."""
    below, above = values[values <= threshold], values[values > threshold]
    if not len(below) or not len(above):
        return threshold
    low, high = float(below.max()), float(above.min())
    for digits in range(1, 18):
        candidate = float(f"{(low + high) / 2:.{digits}g}")
        if low <= candidate < high:
            return candidate
    return low


def _measure(caught: npt.NDArray[np.bool_], test: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    """Measure coverage and precision of the caught rows for the classes `names` together."""
    mine = test["label"].isin(names).to_numpy()
    measured: dict[str, Any] = {}
    for view, column in (("distinct", "weight"), ("row", "rows")):
        weight = test[column].to_numpy(np.float64)
        hit, total, whole = weight[caught & mine].sum(), weight[caught].sum(), weight[mine].sum()
        measured[view] = {
            "coverage": float(hit / whole) if whole else None,
            "precision": float(hit / total) if total else None,
            "caught": float(total),
            "of_class": float(hit),
        }
    return measured


def _measure_prior(
    published: dict[str, Any], train: pd.DataFrame, test: pd.DataFrame, spec: DatasetSpec
) -> dict[str, Any]:
    """Measure one published rule on the test side; it has conditions [{feature, low, high}] or a stump."""
    conditions, names = published.get("conditions", []), published["classes"]
    used = [c["feature"] for c in conditions] or [published["stump"]]
    strange = [name for name in used if name not in spec.number_names]
    strange += [name for name in names if name not in [*spec.classes, *spec.absent_classes]]
    if strange:
        raise UserError(f"facts.prior_rules of data set {spec.name} name {', '.join(strange)}, which it has not")
    rule: Rule = [Condition(c["feature"], c.get("low"), c.get("high")) for c in conditions]
    if not rule:
        rule = [_fit_stump(used[0], train, train["label"].isin(names).to_numpy())]
    measured = _measure(holds(rule, test), test, names)
    return {"source": published["source"], "classes": names, "text": rule_text(rule, spec), **measured}


def _fit_stump(feature: str, train: pd.DataFrame, positive: npt.NDArray[np.bool_]) -> Condition:
    """Fit one threshold on `feature` by the best F1 for `positive`, over distinct train flows."""
    values, weight = train[feature].to_numpy(np.float64), train["weight"].to_numpy(np.float64)
    order = np.argsort(values, kind="stable")
    ends = np.append(np.diff(values[order]) > 0, True)
    caught = np.cumsum(weight[order])[ends]
    hit = np.cumsum((weight * positive)[order])[ends]
    below = 2 * hit / (caught + hit[-1])
    above = 2 * (hit[-1] - hit) / (caught[-1] - caught + hit[-1])
    best = int(np.argmax(np.maximum(below, above)))
    threshold = short_threshold(values, float(values[order][ends][best]))
    return Condition(feature, None, threshold) if below[best] >= above[best] else Condition(feature, threshold, None)


def rule_text(rule: Rule, spec: DatasetSpec) -> str:
    """Render a rule in words, with raw units beside scaled values where the spec knows the scale."""
    parts = []
    for condition in rule:
        if isinstance(condition, Among):
            parts.append(
                f"{condition.feature} {'is not' if condition.denied else 'is'} {' or '.join(condition.values)}"
            )
            continue
        low, high = condition.low, condition.high
        if low is not None and high is not None:
            text = f"{_exact(low)} < {condition.feature} <= {_exact(high)}"
        elif low is not None:
            text = f"{condition.feature} > {_exact(low)}"
        else:
            text = f"{condition.feature} <= {_exact(high)}"
        feature = spec.features[spec.feature_names.index(condition.feature)]
        if (scale := feature.known_scale) is not None:
            bounds = [(sign, bound) for sign, bound in ((">", low), ("<=", high)) if bound is not None]
            raw = " and ".join(f"{sign} {scale.to_raw(bound):.4g}" for sign, bound in bounds)
            text += f" (raw {raw} {feature.unit})"
        parts.append(text)
    return " AND ".join(parts)


def _exact(bound: float | None) -> str:
    """Return a bound in as many digits as it has: six of them may lie on the other side of a value."""
    return "" if bound is None else text if float(text := f"{bound:g}") == bound else repr(float(bound))


def guide_text(classes: dict[str, Any], prior: list[dict[str, Any]]) -> str:
    """Render the classification guide for people: Markdown, one section per class."""
    lines = ["# Classification guide", ""]
    lines += ["Learned on distinct train flows; coverage and precision measured on distinct test flows.", ""]
    for name, entry in classes.items():
        lines.append(f"## {markdown_line(name)}")
        if not entry["rules"]:
            lines += ["No rule: no part of the flows is mostly of this class. Coverage 0.0 %.", ""]
            continue
        for number, rule in enumerate(entry["rules"], start=1):
            lines.append(f"{number}. {markdown_line(rule['text'])}  \n   {_told(rule['distinct'])}")
        lines += ["", f"Together: {_told(entry['combined']['distinct'])}.", ""]
    if prior:
        lines += ["## Rules of prior work, on the same test flows", ""]
        lines += ["| rule | for | source | coverage | precision | coverage of rows | precision of rows |"]
        lines += ["|---|---|---|---|---|---|---|"]
    for rule in prior:
        shares = [_percent(rule[view][key]) for view in ("distinct", "row") for key in ("coverage", "precision")]
        named = map(markdown_line, (rule["text"], ", ".join(rule["classes"]), rule["source"]))
        lines.append(f"| {' | '.join([*named, *shares])} |")
    return "\n".join(lines)


def _told(measured: dict[str, Any]) -> str:
    """Describe coverage and precision, also of a rule that catches nothing."""
    precision = _percent(measured["precision"]) if measured["caught"] else "not measurable, no test flow is caught"
    return f"coverage {_percent(measured['coverage'])}, precision {precision}"


def _percent(share: float | None) -> str:
    return "not measurable" if share is None else f"{100 * share:.1f} %"
