"""Simulated Farm-Flow: packets of every class, their features, published scaling and columns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.sql import ROW_GROUP, write_batches
from iot_pipeline.simulator.classes import FARM_FLOW
from iot_pipeline.simulator.packets import Values, class_features, shares

LABEL = "SIMULATED Farm-Flow: made by this project from packet-level models of the attacks, not captured"
# Decimal places of the published file.
DECIMALS = 6


@dataclass(frozen=True)
class SimulationReport:
    """Seed, rows and columns of a simulated table. `label` must accompany every figure based on it."""

    label: str
    seed: int
    rows: int
    rows_by_class: dict[str, int]
    columns: list[str]


def simulate_farm_flow(
    out: Path,
    rows: int | None = None,
    seed: int = 42,
    log: Callable[[str], None] | None = None,
    edition: str = "farm_flow",
) -> SimulationReport:
    """Write simulated flows as Parquet, shuffled: 29 scaled features, is_attack, traffic (class code).

    The same rows and seed give the same bytes.

    Args:
        out: File to write.
        rows: Number of rows, each class in its published share; None for the published number.
        seed: Seed of all draws and of the shuffle.
        log: Receives progress messages.
        edition: Spec with the classes and their published counts.

    Raises:
        UserError: There are fewer rows than classes.
    """
    spec = load_spec(edition)
    rows = int(spec.facts["rows"]) if rows is None else rows
    numbers = class_rows(spec, rows)
    codes = {name: code for code, name in spec.labels.items()}
    parts: list[Values] = []
    labels: list[Values] = []
    said = time.monotonic()
    for name, number in numbers.items():
        raw = class_features(FARM_FLOW[name], number, generator(seed, int(codes[name])), spec.feature_names)
        parts.append(publish(spec, raw))
        labels.append(np.full(number, float(codes[name])))
        if log is not None and time.monotonic() - said > 3:
            log(f"simulated {sum(len(part) for part in parts):,} of {rows:,} flows")
            said = time.monotonic()
    values, traffic = np.concatenate(parts), np.concatenate(labels)
    del parts
    shuffled = generator(seed, len(spec.labels)).permutation(rows)
    columns = [*spec.feature_names, "is_attack", "traffic"]
    schema = pa.schema([(column, pa.float64()) for column in columns])

    def batch(start: int) -> pa.RecordBatch:
        chosen = shuffled[start : start + ROW_GROUP]
        code = traffic[chosen]
        arrays = [values[chosen, index] for index in range(values.shape[1])]
        return pa.record_batch([pa.array(array) for array in [*arrays, (code != 0).astype(float), code]], schema)

    write_batches(out, schema, (batch(start) for start in range(0, rows, ROW_GROUP)))
    return SimulationReport(label=LABEL, seed=seed, rows=rows, rows_by_class=numbers, columns=columns)


def class_rows(spec: DatasetSpec, rows: int) -> dict[str, int]:
    """Distribute `rows` over the classes in proportion to the published counts, at least one each."""
    if rows < len(spec.classes):
        raise UserError(f"{rows} simulated rows are too few: give at least {len(spec.classes)}, one for each class.")
    weights = [float(spec.facts["class_rows"][name]) for name in spec.classes]
    numbers = shares(weights, rows)
    for index, number in enumerate(numbers):
        if number == 0:
            numbers[numbers.index(max(numbers))] -= 1
            numbers[index] = 1
    return dict(zip(spec.classes, numbers, strict=True))


def generator(seed: int, stream: int) -> np.random.Generator:
    """Create an independent random stream of a seed, so a class's draws do not depend on the other classes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def publish(spec: DatasetSpec, raw: Values) -> Values:
    """Scale and round raw features as published; the shape stays (rows, features)."""
    scaled = np.empty_like(raw)
    for index, feature in enumerate(spec.features):
        assert feature.scale is not None  # every Farm-Flow feature has a scale
        scaled[:, index] = feature.scale.from_raw(raw[:, index])
    # Adding 0.0 turns -0.0 into 0.0.
    return np.round(scaled, DECIMALS) + 0.0
