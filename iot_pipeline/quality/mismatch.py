"""Mismatches between a table and its published facts, and among the published facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import identifier, literal
from iot_pipeline.quality.duplicates import dedup_report
from iot_pipeline.quality.facts import class_tables, published_duplicates, published_quartiles, row_totals
from iot_pipeline.quality.sql import one, opened

SHARE_STEP = 1e-4  # published shares have 4 decimals
QUARTILES = ("25 %", "50 %", "75 %")
IP_HEADER = 20  # bytes
Number = int | float | None


class Findings:
    """List of comparisons; one agrees if it differs by no more than its tolerance."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def compare(
        self, kind: str, what: str, expected: Number, found: Number, source: str, tolerance: float = 0.0
    ) -> None:
        """Record a comparison of `found` with `expected`; None means that this side does not have the value at all.

        Args:
            kind: `data`, `facts` or `spec`, see `dataset_mismatch`.
            what: The compared quantity, in words.
            expected: Published value.
            found: Value in the table or in another fact.
            source: Keys of the facts used.
            tolerance: Largest difference that still agrees.
        """
        difference = None if expected is None or found is None else found - expected
        agrees = expected is found if difference is None else abs(difference) <= tolerance + 1e-12
        self.all.append(
            {
                "kind": kind,
                "what": what,
                "expected": expected,
                "found": found,
                "difference": difference,
                "agrees": agrees,
                "source": source,
            }
        )


def dataset_mismatch(flows: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Compare flows.parquet with every published fact of the spec, and those facts with each other.

    Returns {findings, agreements, checked, disagreeing, note}; a finding is {kind, what, expected, found, difference,
    agrees, source} with difference = found - expected (None if one side is absent). kind is `data` (table against
    fact), `facts` (fact against fact) or `spec` (table against the labels that the spec declares).
    """
    findings = Findings()
    with opened(flows=flows) as connection:
        counted = connection.execute("SELECT label, count(*) FROM flows GROUP BY label").fetchall()
    counts = {str(label): int(n) for label, n in counted}
    _labels(findings, spec, counts)
    _totals(findings, spec, counts)
    _class_tables(findings, spec, counts)
    _duplicates(findings, flows, spec)
    _quartiles(findings, flows, spec)
    _quartile_bounds(findings, spec)
    _shares(findings, flows, spec)
    _raw_medians(findings, flows, spec)
    _scales(findings, spec)
    _prior_split(findings, spec, sum(counts.values()))
    _zscored(findings, flows, spec)
    disagreeing = [item for item in findings.all if not item["agrees"]]
    return {
        "checked": len(findings.all),
        "disagreeing": len(disagreeing),
        "findings": disagreeing,
        "agreements": [item for item in findings.all if item["agrees"]],
        "note": None
        if spec.facts
        else f"The spec of {spec.name} holds no published facts, so only its labels could be compared.",
    }


def reconcile(raw: Path, flows: Path, rejected: Mapping[str, int], left_out: Mapping[str, int]) -> dict[str, int]:
    """Reconcile the rows of raw.parquet with those of flows.parquet, both counted in the files.

    `rejected` and `left_out` are row counts by reason. Returns {rows_in, kept, rejected, left_out, unaccounted};
    unaccounted = rows_in - kept - rejected - left_out is 0 unless rows were lost, invented or counted twice.
    """
    with opened(raw=raw, flows=flows) as connection:
        rows_in, kept = one(connection, "SELECT (SELECT count(*) FROM raw), (SELECT count(*) FROM flows)")
    behind = {"rejected": sum(rejected.values()), "left_out": sum(left_out.values())}
    return {"rows_in": rows_in, "kept": kept, **behind, "unaccounted": rows_in - kept - sum(behind.values())}


def _labels(findings: Findings, spec: DatasetSpec, counts: dict[str, int]) -> None:
    declared = [*spec.classes, *spec.absent_classes]
    findings.compare("spec", "number of classes", len(declared), len(counts), "labels of the spec")
    for name in declared:
        if name not in counts:
            findings.compare("spec", f"rows of {name}, a declared class", None, 0, "labels of the spec")


def _totals(findings: Findings, spec: DatasetSpec, counts: dict[str, int]) -> None:
    totals = row_totals(spec)
    for key, value in totals.items():
        findings.compare("data", "rows", value, sum(counts.values()), key)
    for (first, a), (second, b) in combinations(totals.items(), 2):
        findings.compare("facts", f"rows: {second} against {first}", a, b, f"{first}, {second}")


def _class_tables(findings: Findings, spec: DatasetSpec, counts: dict[str, int]) -> None:
    tables, totals = class_tables(spec), row_totals(spec)
    for key, table in tables.items():
        total = totals.get("rows" + key.removeprefix("class_rows"), totals.get("rows"))
        findings.compare("facts", f"sum of {key} against the stated rows", total, sum(table.values()), key)
        findings.compare("data", f"number of classes in {key}", len(table), len(counts), key)
        for name in sorted(table.keys() | counts.keys()):
            findings.compare("data", f"rows of {name}", table.get(name), counts.get(name, 0), key)
        declared = {*spec.classes, *spec.absent_classes}
        for name in sorted(declared - table.keys()):
            if any(name in other for other in tables.values()):
                continue  # reported below, table against table
            findings.compare("facts", f"{key} has no row for {name}, a declared class", None, 0, key)
    for (first, a), (second, b) in combinations(tables.items(), 2):
        source = f"{first}, {second}"
        findings.compare("facts", f"number of classes: {second} against {first}", len(a), len(b), source)
        for name in sorted(a.keys() | b.keys()):
            what = f"rows of {name}: {second} against {first}"
            findings.compare("facts", what, a.get(name), b.get(name), source)


def _duplicates(findings: Findings, flows: Path, spec: DatasetSpec) -> None:
    facts = published_duplicates(spec)
    if not facts:
        return
    report, source = dedup_report(flows, spec), "duplicates"
    raw, rows = report["raw"], spec.facts.get("rows")
    for key, found, tolerance in (
        ("rows", raw["duplicate_rows"], 0.0),
        ("distinct", raw["distinct"], 0.0),
        ("share", raw["duplicate_share"], SHARE_STEP / 2),
    ):
        if key in facts:
            findings.compare("data", f"duplicates on raw values: {key}", facts[key], found, source, tolerance)
    for name, share in facts.get("by_class", {}).items():
        found = report["by_class"].get(name, {}).get("duplicate_share_raw")
        what = f"duplicate share of {name} on raw values"
        findings.compare("data", what, share, found, source, SHARE_STEP / 2)
    if rows and {"rows", "distinct"} <= facts.keys():
        what = "duplicates + distinct flows against rows"
        findings.compare("facts", what, rows, facts["rows"] + facts["distinct"], source)
    if rows and {"rows", "share"} <= facts.keys():
        what = "duplicate share against duplicate rows / rows"
        findings.compare("facts", what, facts["share"], facts["rows"] / rows, source, SHARE_STEP / 2)
    table = spec.facts.get("class_rows", {})
    by_class = facts.get("by_class", {})
    if "rows" in facts and by_class and by_class.keys() <= table.keys():
        # Rates within classes exclude repeats across classes, so equality means that no flow has two labels.
        within = sum(share * table[name] for name, share in by_class.items())
        rounding = SHARE_STEP / 2 * sum(table[name] for name in by_class)
        what = "duplicate rows within classes (from published rates) against all duplicate rows"
        findings.compare("facts", what, facts["rows"], round(within), source, rounding)
        here = sum(item["rows"] - item["distinct_raw"] for item in report["by_class"].values())
        what = "duplicate rows across classes (flows under two labels), by published rates"
        found = raw["duplicate_rows"] - here
        findings.compare("data", what, facts["rows"] - round(within), found, source, rounding)


def _quartiles(findings: Findings, flows: Path, spec: DatasetSpec) -> None:
    """Compare published quartiles, which have 4 decimals: half a unit of the last one is allowed."""
    known = {feature.name for feature in spec.features}
    with opened(flows=flows) as connection:
        for name, features in published_quartiles(spec).items():
            used = [feature for feature in features if feature in known]
            if not used:
                continue
            columns = ", ".join(f"quantile_cont({identifier(item)}, [0.25, 0.5, 0.75])" for item in used)
            query = f"SELECT count(*), {columns} FROM flows WHERE label = {literal(name)}"
            present, *found = one(connection, query)
            if not present:
                what = f"quartiles are published for {name}, which has no row"
                findings.compare("data", what, None, 0, "quartiles")
                continue
            for feature, values in zip(used, found, strict=True):
                for title, expected, value in zip(QUARTILES, features[feature], values, strict=True):
                    if expected is not None:
                        what = f"{title} quantile of {feature} in {name}"
                        findings.compare("data", what, expected, float(value), "quartiles", 0.6e-4)


def _quartile_bounds(findings: Findings, spec: DatasetSpec) -> None:
    """Check published quartiles against each other: bytes are at least the largest header plus an IP header."""
    scales = {feature.name: feature.scale for feature in spec.features}
    for name, features in published_quartiles(spec).items():
        for way, side in (("fwd", "orig"), ("bwd", "resp")):
            header, size = f"{way}_header_size_max", f"{side}_ip_bytes"
            if not (header in features and size in features and scales.get(header) and scales.get(size)):
                continue
            for title, *pair in zip(QUARTILES, features[header], features[size], strict=True):
                least, found = (
                    None if value is None else round(scales[key].to_raw(value), 1)  # type: ignore[union-attr]
                    for key, value in zip((header, size), pair, strict=True)
                )
                if least and found is not None:
                    what = f"{title} quantile of {size} in {name}, bytes: at least {header} + {IP_HEADER}"
                    expected = max(found, least + IP_HEADER)
                    findings.compare("facts", what, expected, found, "quartiles", 0.1)


def _shares(findings: Findings, flows: Path, spec: DatasetSpec) -> None:
    """Compare published shares of a class's rows above a value (as published, scaled)."""
    known = {feature.name for feature in spec.features}
    for fact in spec.facts.get("shares_above", []):
        name, feature, above = fact["class"], fact["feature"], fact["above"]
        if feature not in known:
            continue
        if not isinstance(above, int | float) or not math.isfinite(above):
            raise UserError(f"data set {spec.name}: facts: shares_above: above must be a number, not {above!r}.")
        with opened(flows=flows) as connection:
            larger = f"avg(CAST({identifier(feature)} > {above!r} AS INT))"
            (found,) = one(connection, f"SELECT {larger} FROM flows WHERE label = {literal(name)}")
        what = f"share of {name} with {feature} above {above}"
        findings.compare("data", what, fact["share"], found, "shares_above", half_step(fact["share"]))


def _raw_medians(findings: Findings, flows: Path, spec: DatasetSpec) -> None:
    """Compare medians of the raw capture, in raw units, with the published medians and the rows."""
    features = {feature.name: feature for feature in spec.features}
    quartiles = published_quartiles(spec)
    with opened(flows=flows) as connection:
        for name, classes in spec.facts.get("raw_medians", {}).items():
            if name not in features:
                continue
            scale = features[name].scale
            for label, expected in classes.items():
                (median,) = one(
                    connection, f"SELECT median({identifier(name)}) FROM flows WHERE label = {literal(label)}"
                )
                published = quartiles.get(label, {}).get(name, [None, None, None])[1]
                told = f"median of {name} in {label}, raw {features[name].unit}"
                for kind, value, what in (
                    ("data", median, f"{told}: raw capture against the rows"),
                    ("facts", published, f"{told}: raw capture against the published median"),
                ):
                    if value is not None:
                        # Scaled values have 4 or more decimals; medians are published with 2 or 3 digits.
                        found, step = (value, 0.0) if scale is None else (scale.to_raw(value), 0.6e-4 * scale.width)
                        tolerance = max(half_step(expected), 0.005 * abs(expected)) + step
                        findings.compare(kind, what, expected, round(found, 3), "raw_medians", tolerance)


def half_step(value: float) -> float:
    """Return half a unit of the last digit that a published number shows."""
    return 0.5 * 10.0 ** -len(repr(value).partition(".")[2].rstrip("0"))


def _scales(findings: Findings, spec: DatasetSpec) -> None:
    scales = {feature.name: feature.scale for feature in spec.features}
    for name, known in spec.facts.get("recovered_scales", {}).items():
        off = {
            raw: abs((raw - known["mean"]) / known["std"] - z) - half_step(z)
            for raw, z in known.get("checks", {}).items()
        }
        if off:
            raw = max(off, key=lambda key: off[key])
            what = f"z-score of {name} = {raw}: from mean and std as they go round against the published value"
            z, found = known["checks"][raw], round((raw - known["mean"]) / known["std"], 6)
            findings.compare("facts", what, z, found, "recovered_scales", half_step(z))
        for key, value in spec.facts.get("raw_scales", {}).get(name, {}).items():
            what = f"{key} of {name}: the published scaling against a scaler of the raw capture"
            findings.compare("facts", what, value, known[key], "recovered_scales, raw_scales", 1e-4 * abs(value))
        scale = scales.get(name)
        for key in ("mean", "std"):
            used, what = getattr(scale, key, None), f"{key} of {name}: spec against recovered"
            # 4 published decimals of z-scores fix a scale to about 1 part in 10,000.
            findings.compare("facts", what, known[key], used, "recovered_scales", 1e-4 * (1 + abs(known[key])))


def _prior_split(findings: Findings, spec: DatasetSpec, rows: int) -> None:
    prior = spec.facts.get("prior_work", {})
    if {"train_rows", "validation_rows"} <= prior.keys():
        train, validation, source = prior["train_rows"], prior["validation_rows"], "prior_work"
        for key, total in row_totals(spec).items():
            what = f"80:20 split: training + validation rows against {key}"
            findings.compare("facts", what, total, train + validation, source)
            what = f"80:20 split: training rows against 80 % of {key}"
            findings.compare("facts", what, round(0.8 * total), train, source)
        for key, table in class_tables(spec).items():
            what = f"80:20 split: training + validation rows against the sum of {key}"
            findings.compare("facts", what, sum(table.values()), train + validation, source)
        what = "80:20 split: training + validation rows against the rows found"
        findings.compare("data", what, train + validation, rows, source)


def _zscored(findings: Findings, flows: Path, spec: DatasetSpec) -> None:
    """Compare published counts after z-scoring with the whole table and rounding to 3 decimals, if there are any."""
    facts, source = spec.facts.get("zscored_3_decimals"), "zscored_3_decimals"
    if not facts:
        return
    names = [identifier(feature.name) for feature in spec.features]
    keys = ", ".join(f"f{i}" for i in range(len(names)))
    with opened(flows=flows) as connection:
        # Scaled to -1..1 by a power of two, which is exact: DuckDB fails on the deviation of values near 1e300.
        largest = one(connection, f"SELECT {', '.join(f'max(abs({name}))' for name in names)} FROM flows")
        shrinks = [math.ldexp(1.0, -max(math.frexp(most)[1], -1000)) for most in largest]
        names = [f"({name} * {shrink!r})" for name, shrink in zip(names, shrinks, strict=True)]
        wanted = ", ".join(f"avg({name}), stddev_samp({name})" for name in names)
        total, *moments = one(connection, f"SELECT count(*), {wanted} FROM flows")
        pairs = zip(names, moments[::2], moments[1::2], strict=True)
        scaled = ", ".join(
            f"round(({name} - {mean!r}) / {std or 1.0!r}, 3) AS f{i}" for i, (name, mean, std) in enumerate(pairs)
        )
        distinct, conflicting, best = one(
            connection,
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
            what = f"z-scored, 3 decimals: {key.replace('_', ' ')}"
            findings.compare("data", what, facts[key], found, source, tolerance)
