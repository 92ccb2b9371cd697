"""Mismatches between a table and its published facts, and among the published facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb

from iot_pipeline.flows.facts import class_tables, row_totals
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import identifier, literal, one, opened
from iot_pipeline.quality.duplicates import dedup_report

SHARE_STEP = 1e-4  # published shares have 4 decimals
QUARTILES = ("25 %", "50 %", "75 %")
IP_HEADER = 20  # bytes
Number = int | float | None


@dataclass(frozen=True)
class Finding:
    """Comparison of a value with a published one; None means that this side does not have the value at all.

    kind: `data` (table against fact), `facts` (fact against fact) or `spec` (table against declared labels). source:
    keys of the facts used. They agree if they differ by no more than `tolerance`.
    """

    kind: str
    what: str
    expected: Number
    found: Number
    source: str
    tolerance: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the finding with difference = found - expected (None if one side is absent) and agreement."""
        if self.expected is None or self.found is None:
            difference, agrees = None, self.expected is self.found
        else:
            difference = self.found - self.expected
            agrees = abs(difference) <= self.tolerance + 1e-12
        found = asdict(self) | {"difference": difference, "agrees": agrees}
        del found["tolerance"]
        return found


@dataclass(frozen=True)
class Table:
    """flows.parquet, open as the view `flows`, with its spec and its rows by label."""

    path: Path
    connection: duckdb.DuckDBPyConnection
    spec: DatasetSpec
    counts: dict[str, int]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.counts.values())


def dataset_mismatch(flows: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Compare flows.parquet with every published fact of the spec, and those facts with each other.

    Returns {findings, agreements, checked, disagreeing, note}; each finding as in `Finding.to_json`.
    """
    with opened(flows=flows) as connection:
        counted = connection.execute("SELECT label, count(*) FROM flows GROUP BY label").fetchall()
        table = Table(flows, connection, spec, {str(label): int(n) for label, n in counted})
        compared = [finding.to_json() for comparison in COMPARISONS for finding in comparison(table)]
    disagreeing = [item for item in compared if not item["agrees"]]
    note = f"The spec of {spec.name} holds no published facts, so only its labels could be compared."
    return {
        "checked": len(compared),
        "disagreeing": len(disagreeing),
        "findings": disagreeing,
        "agreements": [item for item in compared if item["agrees"]],
        "note": None if spec.facts else note,
    }


def reconcile(raw: Path, flows: Path, rejected: Mapping[str, int], left_out: Mapping[str, int]) -> dict[str, int]:
    """Reconcile the rows of raw.parquet with those of flows.parquet, both counted in the files.

    Returns {rows_in, kept, rejected, left_out, unaccounted}; unaccounted = rows_in - kept - rejected - left_out is 0
    unless rows were lost, invented or counted twice.

    Args:
        raw: raw.parquet.
        flows: flows.parquet.
        rejected: Rejected rows by reason.
        left_out: Rows left out by class.
    """
    with opened(raw=raw, flows=flows) as connection:
        rows_in, kept = one(connection, "SELECT (SELECT count(*) FROM raw), (SELECT count(*) FROM flows)")
    behind = {"rejected": sum(rejected.values()), "left_out": sum(left_out.values())}
    return {"rows_in": rows_in, "kept": kept, **behind, "unaccounted": rows_in - kept - sum(behind.values())}


def _labels(table: Table) -> Iterator[Finding]:
    declared = [*table.spec.classes, *table.spec.absent_classes]
    yield Finding("spec", "number of classes", len(declared), len(table.counts), "labels of the spec")
    for name in declared:
        if name not in table.counts:
            yield Finding("spec", f"rows of {name}, a declared class", None, 0, "labels of the spec")


def _totals(table: Table) -> Iterator[Finding]:
    totals = row_totals(table.spec.facts)
    for key, value in totals.items():
        yield Finding("data", "rows", value, table.rows, key)
    for (first, a), (second, b) in combinations(totals.items(), 2):
        yield Finding("facts", f"rows: {second} against {first}", a, b, f"{first}, {second}")


def _class_tables(table: Table) -> Iterator[Finding]:
    tables, totals = class_tables(table.spec.facts), row_totals(table.spec.facts)
    for key, published in tables.items():
        total = totals.get("rows" + key.removeprefix("class_rows"), totals.get("rows"))
        yield Finding("facts", f"sum of {key} against the stated rows", total, sum(published.values()), key)
        yield Finding("data", f"number of classes in {key}", len(published), len(table.counts), key)
        for name in sorted(published.keys() | table.counts.keys()):
            yield Finding("data", f"rows of {name}", published.get(name), table.counts.get(name, 0), key)
        for name in sorted({*table.spec.classes, *table.spec.absent_classes} - published.keys()):
            if not any(name in other for other in tables.values()):  # otherwise reported below, table against table
                yield Finding("facts", f"{key} has no row for {name}, a declared class", None, 0, key)
    for (first, a), (second, b) in combinations(tables.items(), 2):
        source = f"{first}, {second}"
        yield Finding("facts", f"number of classes: {second} against {first}", len(a), len(b), source)
        for name in sorted(a.keys() | b.keys()):
            yield Finding("facts", f"rows of {name}: {second} against {first}", a.get(name), b.get(name), source)


def _duplicates(table: Table) -> Iterator[Finding]:
    facts, source, half = table.spec.facts.get("duplicates"), "duplicates", SHARE_STEP / 2
    if not facts:
        return
    report = dedup_report(table.path, table.spec)
    raw, rows = report["raw"], table.spec.facts.get("rows")
    for key, found, tolerance in (
        ("rows", raw["duplicate_rows"], 0.0),
        ("distinct", raw["distinct"], 0.0),
        ("share", raw["duplicate_share"], half),
    ):
        if key in facts:
            yield Finding("data", f"duplicates on raw values: {key}", facts[key], found, source, tolerance)
    by_class = facts.get("by_class", {})
    for name, share in by_class.items():
        found = report["by_class"].get(name, {}).get("duplicate_share_raw")
        yield Finding("data", f"duplicate share of {name} on raw values", share, found, source, half)
    if rows and {"rows", "distinct"} <= facts.keys():
        both = facts["rows"] + facts["distinct"]
        yield Finding("facts", "duplicates + distinct flows against rows", rows, both, source)
    if rows and {"rows", "share"} <= facts.keys():
        what = "duplicate share against duplicate rows / rows"
        yield Finding("facts", what, facts["share"], facts["rows"] / rows, source, half)
    published = table.spec.facts.get("class_rows", {})
    if "rows" in facts and by_class and by_class.keys() <= published.keys():
        # Rates within classes exclude repeats across classes, so equality means that no flow has two labels.
        within = round(sum(share * published[name] for name, share in by_class.items()))
        rounding = half * sum(published[name] for name in by_class)
        what = "duplicate rows within classes (from published rates) against all duplicate rows"
        yield Finding("facts", what, facts["rows"], within, source, rounding)
        here = sum(item["rows"] - item["distinct_raw"] for item in report["by_class"].values())
        what = "duplicate rows across classes (flows under two labels), by published rates"
        yield Finding("data", what, facts["rows"] - within, raw["duplicate_rows"] - here, source, rounding)


def _quartiles(table: Table) -> Iterator[Finding]:
    """Compare published quartiles, which have 4 decimals: half a unit of the last one is allowed."""
    for name, features in table.spec.facts.get("quartiles", {}).items():
        used = [feature for feature in features if feature in table.spec.number_names]
        if not used:
            continue
        columns = ", ".join(f"quantile_cont({identifier(item)}, [0.25, 0.5, 0.75])" for item in used)
        query = f"SELECT count(*), {columns} FROM flows WHERE label = {literal(name)}"
        present, *found = one(table.connection, query)
        if not present:
            yield Finding("data", f"quartiles are published for {name}, which has no row", None, 0, "quartiles")
            continue
        for feature, values in zip(used, found, strict=True):
            for title, expected, value in zip(QUARTILES, features[feature], values, strict=True):
                if expected is not None:
                    what = f"{title} quantile of {feature} in {name}"
                    yield Finding("data", what, expected, float(value), "quartiles", 0.6e-4)


def _quartile_bounds(table: Table) -> Iterator[Finding]:
    """Check published quartiles against each other: bytes are at least the largest header plus an IP header."""
    scales = {feature.name: feature.scale for feature in table.spec.features if feature.scale is not None}
    for name, features in table.spec.facts.get("quartiles", {}).items():
        for way, side in (("fwd", "orig"), ("bwd", "resp")):
            header, size = f"{way}_header_size_max", f"{side}_ip_bytes"
            if not {header, size} <= features.keys() & scales.keys():
                continue
            for title, least, found in zip(QUARTILES, features[header], features[size], strict=True):
                if least is None or found is None:
                    continue
                least, found = round(scales[header].to_raw(least), 1), round(scales[size].to_raw(found), 1)
                if least:
                    what = f"{title} quantile of {size} in {name}, bytes: at least {header} + {IP_HEADER}"
                    yield Finding("facts", what, max(found, least + IP_HEADER), found, "quartiles", 0.1)


def _shares(table: Table) -> Iterator[Finding]:
    """Compare published shares of a class's rows above a value (as published, scaled)."""
    for fact in table.spec.facts.get("shares_above", []):
        name, feature, above = fact["class"], fact["feature"], fact["above"]
        if feature in table.spec.number_names:
            larger = f"avg(CAST({identifier(feature)} > {above!r} AS INT))"
            (found,) = one(table.connection, f"SELECT {larger} FROM flows WHERE label = {literal(name)}")
            what = f"share of {name} with {feature} above {above}"
            yield Finding("data", what, fact["share"], found, "shares_above", half_step(fact["share"]))


def _raw_medians(table: Table) -> Iterator[Finding]:
    """Compare medians of the raw capture, in raw units, with the published medians and the rows."""
    features = {feature.name: feature for feature in table.spec.features if not feature.is_category}
    for name, classes in table.spec.facts.get("raw_medians", {}).items():
        if name not in features:
            continue
        if (scale := features[name].known_scale) is None and features[name].scale is not None:
            continue  # medians in raw units cannot be compared with values whose scale is a guess
        for label, expected in classes.items():
            query = f"SELECT median({identifier(name)}) FROM flows WHERE label = {literal(label)}"
            (median,) = one(table.connection, query)
            published = table.spec.facts.get("quartiles", {}).get(label, {}).get(name, [None] * 3)[1]
            told = f"median of {name} in {label}, raw {features[name].unit}"
            for kind, value, what in (
                ("data", median, f"{told}: raw capture against the rows"),
                ("facts", published, f"{told}: raw capture against the published median"),
            ):
                if value is not None:
                    # Scaled values have 4 or more decimals; medians are published with 2 or 3 digits.
                    found, step = (value, 0.0) if scale is None else (scale.to_raw(value), 0.6e-4 * scale.width)
                    tolerance = max(half_step(expected), 0.005 * abs(expected)) + step
                    yield Finding(kind, what, expected, round(found, 3), "raw_medians", tolerance)


def half_step(value: float) -> float:
    """Return half a unit of the last digit that a published number shows."""
    return 0.5 * 10.0 ** -len(repr(value).partition(".")[2].rstrip("0"))


def _scales(table: Table) -> Iterator[Finding]:
    facts, scales = table.spec.facts, {feature.name: feature.scale for feature in table.spec.features}
    for name, known in facts.get("recovered_scales", {}).items():
        checks = {raw: ((raw - known["mean"]) / known["std"], z) for raw, z in known.get("checks", {}).items()}
        if checks:
            raw = max(checks, key=lambda raw: abs(checks[raw][0] - checks[raw][1]) - half_step(checks[raw][1]))
            found, z = checks[raw]
            what = f"z-score of {name} = {raw}: from mean and std as they go round against the published value"
            yield Finding("facts", what, z, round(found, 6), "recovered_scales", half_step(z))
        for key, value in facts.get("raw_scales", {}).get(name, {}).items():
            what = f"{key} of {name}: the published scaling against a scaler of the raw capture"
            yield Finding("facts", what, value, known[key], "recovered_scales, raw_scales", 1e-4 * abs(value))
        for key in ("mean", "std"):
            used, what = getattr(scales.get(name), key, None), f"{key} of {name}: spec against recovered"
            # 4 published decimals of z-scores fix a scale to about 1 part in 10,000.
            yield Finding("facts", what, known[key], used, "recovered_scales", 1e-4 * (1 + abs(known[key])))


def _prior_split(table: Table) -> Iterator[Finding]:
    prior, source = table.spec.facts.get("prior_work", {}), "prior_work"
    if not {"train_rows", "validation_rows"} <= prior.keys():
        return
    train, both = prior["train_rows"], prior["train_rows"] + prior["validation_rows"]
    what = "80:20 split: training + validation rows against"
    for key, total in row_totals(table.spec.facts).items():
        yield Finding("facts", f"{what} {key}", total, both, source)
        yield Finding("facts", f"80:20 split: training rows against 80 % of {key}", round(0.8 * total), train, source)
    for key, published in class_tables(table.spec.facts).items():
        yield Finding("facts", f"{what} the sum of {key}", sum(published.values()), both, source)
    yield Finding("data", f"{what} the rows found", both, table.rows, source)


def _claimed_accuracy(table: Table) -> Iterator[Finding]:
    """Compare the claimed accuracy with the ceiling that equal values under different labels set, for its classes."""
    claimed = table.spec.facts.get("prior_work", {}).get("baseline_accuracy")
    classes = class_tables(table.spec.facts).get("class_rows_prior_work", table.counts).keys()
    if claimed is None or classes != table.counts.keys():
        return
    columns = table.spec.feature_columns
    (ceiling,) = one(
        table.connection,
        f"""SELECT (sum(best) / sum(rows))::DOUBLE FROM (SELECT max(n) AS best, sum(n) AS rows FROM (
            SELECT {columns}, label, count(*) AS n FROM flows GROUP BY ALL) GROUP BY {columns})""",
    )
    what = "row ceiling of the exact values: at least the accuracy claimed"
    yield Finding("data", what, max(claimed, ceiling), ceiling, "prior_work")


def _zscored(table: Table) -> Iterator[Finding]:
    """Compare published counts after z-scoring with the whole table and rounding to 3 decimals, if there are any."""
    facts, source = table.spec.facts.get("zscored_3_decimals"), "zscored_3_decimals"
    if not facts:
        return
    names = [identifier(name) for name in table.spec.number_names]
    if not names:
        return
    # Scaled to -1..1 by a power of two, which is exact: DuckDB fails on the deviation of values near 1e300.
    largest = one(table.connection, f"SELECT {', '.join(f'max(abs({name}))' for name in names)} FROM flows")
    shrinks = [math.ldexp(1.0, -max(math.frexp(most)[1], -1000)) for most in largest]
    names = [f"({name} * {shrink!r})" for name, shrink in zip(names, shrinks, strict=True)]
    wanted = ", ".join(f"avg({name}), stddev_samp({name})" for name in names)
    total, *moments = one(table.connection, f"SELECT count(*), {wanted} FROM flows")
    pairs = zip(names, moments[::2], moments[1::2], strict=True)
    scaled = ", ".join(
        f"round(({name} - {mean!r}) / {std or 1.0!r}, 3) AS f{i}" for i, (name, mean, std) in enumerate(pairs)
    )
    keys = ", ".join([*(f"f{i}" for i in range(len(names))), *map(identifier, table.spec.category_names)])
    scaled += "".join(f", {identifier(name)}" for name in table.spec.category_names)
    distinct, conflicting, best = one(
        table.connection,
        f"""SELECT count(*), count(*) FILTER (labels > 1), sum(best)::BIGINT FROM (
            SELECT count(*) AS labels, max(n) AS best FROM (
                SELECT {keys}, label, count(*) AS n FROM (SELECT {scaled}, label FROM flows) GROUP BY ALL
            ) GROUP BY {keys})""",
    )
    for key, found, tolerance in (
        ("distinct", distinct, 0.0),
        ("conflicting", conflicting, 0.0),
        ("duplicate_share", 1 - distinct / total, SHARE_STEP / 2),
        ("row_ceiling", best / total, 5e-4),
    ):
        if key in facts:
            yield Finding(
                "data", f"z-scored, 3 decimals: {key.replace('_', ' ')}", facts[key], found, source, tolerance
            )


COMPARISONS: tuple[Callable[[Table], Iterator[Finding]], ...] = (
    _labels, _totals, _class_tables, _duplicates, _quartiles, _quartile_bounds, _shares, _raw_medians, _scales,
    _prior_split, _claimed_accuracy, _zscored,
)  # fmt: skip
