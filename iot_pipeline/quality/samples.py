"""Real rows of each class side by side, scaled and raw, with the features that separate the classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.flows.feature import Feature
from iot_pipeline.flows.serialise import printed
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import opened

MARKED = 8
PER_CLASS = 3  # rows


def sample_comparison(flows: Path, spec: DatasetSpec, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """Sample seeded rows of each class of flows.parquet, from its distinct flows.

    Returns (summary, table). Table: one row per class, sample and feature: class, sample (0-based), row_id, feature,
    value, printed, raw (NaN where the scale is not known), unit, marked. Summary: {seed, per_class, separation:
    {feature: share of rank variance between classes, 0 to 1}, marked: the 8 highest, typical: {class: {feature:
    median}} for those, rows: {class: [row_id]}}. A category has no value but a printed one, is typical by its commonest
    value, and separates classes by the share of its variance (of the indicators of its values) between them.
    """
    with opened(flows=flows) as connection:
        firsts = connection.execute(
            f"SELECT row_id, label, {spec.feature_columns} FROM flows SEMI JOIN ("
            "SELECT flow_group, min(occurrence) AS occurrence FROM flows GROUP BY flow_group, label) "
            "USING (flow_group, occurrence) ORDER BY label, flow_group"
        ).df()
    rng = np.random.default_rng(seed)
    chosen: dict[str, list[int]] = {}
    for name in spec.classes:
        own = firsts.loc[firsts["label"] == name, "row_id"].to_numpy()
        if len(own):
            chosen[name] = sorted(int(i) for i in rng.permutation(own)[:PER_CLASS])
    separation = {
        f.name: (_category_separation if f.is_category else _separation)(firsts[f.name], firsts["label"])
        for f in spec.features
    }
    # Ties keep the order of the spec.
    ranked = sorted(separation, key=lambda name: -separation[name])
    marked = [name for name in ranked[:MARKED] if separation[name] > 0]
    typical = _typical(firsts, spec, marked)
    summary = {
        "seed": seed,
        "per_class": PER_CLASS,
        "separation": separation,
        "marked": marked,
        "typical": {name: {f: typical[f][name] for f in marked} for name in chosen},
        "rows": chosen,
    }
    values = firsts.set_index("row_id")
    lines = [
        {"class": label, "sample": sample, "row_id": row_id}
        | _cell(feature, values.at[row_id, feature.name], spec)
        | {"unit": feature.unit, "marked": feature.name in marked}
        for label, ids in chosen.items()
        for sample, row_id in enumerate(ids)
        for feature in spec.features
    ]
    return summary, pd.DataFrame(lines)


def _cell(feature: Feature, given: Any, spec: DatasetSpec) -> dict[str, Any]:
    """Return a feature's value as it is, as texts print it and in raw units; of a category only the printed one."""
    if feature.is_category:
        return {"feature": feature.name, "value": math.nan, "printed": given, "raw": math.nan}
    value, scale = float(given), feature.known_scale
    raw = math.nan if scale is None else float(scale.to_raw(value))
    return {"feature": feature.name, "value": value, "printed": printed(spec.format, value), "raw": raw}


def _typical(firsts: pd.DataFrame, spec: DatasetSpec, marked: list[str]) -> dict[str, dict[str, Any]]:
    """Return by feature and class the median, or the commonest value of a category (ties: the first by name)."""
    groups = firsts.groupby("label")
    return {
        name: {label: min(words.mode()) for label, words in groups[name]}
        if name in spec.category_names
        else groups[name].median().map(float).to_dict()
        for name in marked
    }


def _category_separation(values: pd.Series, labels: pd.Series) -> float:
    """Return the share of a category's variance between classes (Goodman and Kruskal's tau), over distinct flows."""
    counts = pd.crosstab(labels, values).to_numpy(np.float64)
    rows = counts.sum()
    impurity = 1 - float(((counts.sum(axis=0) / rows) ** 2).sum())
    within = 1 - float((counts**2 / counts.sum(axis=1, keepdims=True)).sum() / rows)
    return (impurity - within) / impurity if impurity else 0.0


def _separation(values: pd.Series, labels: pd.Series) -> float:
    """Return the share of rank variance between classes (eta squared), over distinct flows."""
    ranks = values.rank()
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if total == 0:
        return 0.0
    groups = ranks.groupby(labels)
    return float((groups.count() * (groups.mean() - ranks.mean()) ** 2).sum()) / total
