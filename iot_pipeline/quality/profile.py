"""Profile of each class: quantiles, spread, outliers, constant features, and the grid of the values."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import identifier, opened

STATISTICS = ("count", "min", "p25", "median", "p75", "p95", "max", "mean", "std", "outlier_share")
ALL_ROWS = "(all)"
COMMONEST = 5  # values of a category
LEAST_ON_GRID = 0.99  # share of the rows


def flow_profile(flows: Path, spec: DatasetSpec) -> tuple[dict[str, Any], pd.DataFrame]:
    """Profile flows.parquet by class and feature.

    Returns ({rows, rows_by_class, zero_variance, scales, published_classes}, table). The table has one row per class
    (and `(all)`) and number: class, feature, the STATISTICS, zero_variance, published_p25/median/p75 (NaN if none).
    Outliers are values more than 1.5 interquartile ranges outside the class's quartiles. Where the data set has
    categories the summary has `categories`: {feature: {class: {distinct, shares of the commonest values}}}.
    """
    published = spec.facts.get("quartiles", {})
    found: list[dict[str, Any]] = []
    scales: dict[str, Any] = {}
    with opened(flows=flows) as connection:
        labels = connection.execute("SELECT label, count(*) FROM flows GROUP BY label").fetchall()
        counts = {str(label): int(n) for label, n in labels}
        present = [ALL_ROWS, *(name for name in spec.classes if name in counts)]
        categories = {name: _category(connection, name, present) for name in spec.category_names}
        for feature in (feature for feature in spec.features if not feature.is_category):
            # Distinct values with their row counts suffice for every statistic, and are far fewer than rows.
            values = connection.execute(
                f"SELECT {identifier(feature.name)} + 0.0 AS value, label, count(*) AS n FROM flows GROUP BY ALL"
            ).df()
            values = values.sort_values(["value", "label"], kind="stable")  # sums depend on the order of equal values
            by_class = {ALL_ROWS: values, **dict(tuple(values.groupby("label")))}
            found += [{"class": name, "feature": feature.name, **_statistics(by_class[name])} for name in present]
            scales[feature.name] = _scale(values, feature)
    found.sort(key=lambda row: present.index(row["class"]))
    table = pd.DataFrame(found, columns=["class", "feature", *STATISTICS, "zero_variance"])
    if table.empty:  # there are categories alone
        table = table.astype(dict.fromkeys(STATISTICS, np.float64) | {"zero_variance": bool})
    for place, key in enumerate(("published_p25", "published_median", "published_p75")):
        known = [published.get(row["class"], {}).get(row["feature"], [None] * 3)[place] for row in found]
        table[key] = np.array(known, np.float64)  # NaN for None
    zero = table[table["zero_variance"]]
    summary: dict[str, Any] = {
        "rows": sum(counts.values()),
        "rows_by_class": {name: counts[name] for name in present[1:]},
        "zero_variance": {str(name): group["feature"].tolist() for name, group in zero.groupby("class", sort=False)},
        "scales": scales,
        "published_classes": sorted(published),
    }
    for name, classes in categories.items():
        for label in (label for label, values in classes.items() if values["distinct"] == 1):
            summary["zero_variance"].setdefault(label, []).append(name)
    return summary | ({"categories": categories} if categories else {}), table


def _category(connection: duckdb.DuckDBPyConnection, name: str, present: list[str]) -> dict[str, Any]:
    """Count a category's values in each class: how many there are, and the shares of the commonest."""
    rows = connection.execute(
        f"SELECT label, {identifier(name)}, count(*) FROM flows GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    found: dict[str, Any] = {}
    for label in present:
        counts = Counter[str]()
        for one, word, n in rows:
            if label in (ALL_ROWS, one):
                counts[word] += n
        shares = {word: n / counts.total() for word, n in counts.most_common(COMMONEST)}
        found[label] = {"distinct": len(counts), "shares": shares}
    return found


def _statistics(frame: pd.DataFrame) -> dict[str, Any]:
    """Compute statistics of ascending values with row counts; quantiles interpolate between rows."""
    value, n = frame["value"].to_numpy(np.float64), frame["n"].to_numpy(np.int64)
    upto = np.cumsum(n)
    total = int(upto[-1])

    def quantile(share: float) -> float:
        place = share * (total - 1)
        low = math.floor(place)
        first = value[np.searchsorted(upto, low, side="right")]
        second = value[np.searchsorted(upto, min(low + 1, total - 1), side="right")]
        between = place - low
        if not math.isfinite(second - first):  # they lie at both ends of what a double holds
            return float(first * (1 - between) + second * between)
        return float(first + (second - first) * between)

    p25, p75 = quantile(0.25), quantile(0.75)
    reach = 1.5 * (p75 - p25)
    outside = n[(value < p25 - reach) | (value > p75 + reach)].sum()
    # Scaled to -1..1 by a power of two, which is exact: squares of 1e300 overflow and those of 1e-300 underflow.
    exponent = math.frexp(max(abs(value[0]), abs(value[-1])))[1]
    unit = np.ldexp(value, -exponent)
    mean = float((unit * n).sum() / total)
    std = float(np.sqrt((n * (unit - mean) ** 2).sum() / total))
    return {
        "count": total,
        "min": float(value[0]),
        "p25": p25,
        "median": quantile(0.5),
        "p75": p75,
        "p95": quantile(0.95),
        "max": float(value[-1]),
        "mean": math.ldexp(mean, exponent),
        "std": math.ldexp(std, exponent),
        "outlier_share": float(outside / total),
        "zero_variance": bool(value[0] == value[-1]),
    }


def _scale(values: pd.DataFrame, feature: Any) -> dict[str, Any]:
    """Return the even grid of a feature's values, if there is one, beside the scale that the spec states."""
    grid = recover_grid(values["value"].to_numpy(np.float64), values["n"].to_numpy(np.float64))
    stated = feature.scale.model_dump() if feature.scale is not None else None
    result: dict[str, Any] = {"stated": stated, "recovered": grid}
    if grid is not None and feature.known_scale is not None:
        units = grid["quantum"] * feature.known_scale.width
        result["raw_units_per_step"] = units
        result["agrees"] = abs(units - round(units)) < 0.01 * max(1.0, units) and round(units) >= 1
    return result


def recover_grid(values: np.ndarray, weights: np.ndarray) -> dict[str, Any] | None:
    """Find a quantum q and an offset such that values = offset + k * q for whole k; None if there is no such grid.

    Counts and bytes that were z-scored are on such a grid with q = unit / std. Needs at least 4 distinct values;
    accepted if LEAST_ON_GRID of the rows is within 2 % of a step of the grid and steps are few (k < 100,000). Values
    beyond 2**53 have no whole units left, so they return None.
    """
    if len(values) and np.abs(values).max() > 2.0**53:
        return None
    distinct, position = np.unique(np.round(values, 9), return_inverse=True)
    if len(distinct) < 4:
        return None
    mass = np.bincount(position, weights=weights)
    gaps = np.diff(distinct)
    spread = distinct[-1] - distinct[0]
    candidates = np.unique(np.round(np.concatenate([np.sort(gaps)[:5], np.sort(gaps)[len(gaps) // 4 :][:1]]), 9))
    origin = distinct[mass.argmax()]
    for quantum in candidates[::-1]:
        if quantum <= 0 or spread / quantum > 100_000:
            continue
        for _ in range(4):  # values are rounded, so the step becomes more exact as farther values are used
            steps = (distinct - origin) / quantum
            near = np.abs(steps - np.round(steps)) < 0.1
            k = np.round(steps[near])
            if (k * k * mass[near]).sum() == 0:
                break
            quantum = float((k * (distinct[near] - origin) * mass[near]).sum() / (k * k * mass[near]).sum())
        steps = (distinct - origin) / quantum
        share = float(mass[np.abs(steps - np.round(steps)) < 0.02].sum() / mass.sum())
        if share >= LEAST_ON_GRID:
            return {
                "quantum": float(quantum),
                "share_on_grid": share,
                "std_in_steps": float(1 / quantum),
                "mean_in_steps_if_minimum_is_0": float(-distinct[0] / quantum),
            }
    return None
