"""Made flows for tests of reasons: random values, their rank table, and answers that name given features."""

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np

from iot_pipeline.evaluation.reasons import directions
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable

SPEC = load_spec("farm_flow")
FEATURES, CLASSES = SPEC.feature_names, SPEC.classes


@cache
def values() -> np.ndarray:
    """Printed values of 400 flows [400, 29]."""
    return np.random.default_rng(1).normal(0, 1, (400, len(FEATURES))).round(3) + 0.0


@cache
def ranks() -> RankTable:
    """Rank table of these flows."""
    columns = {name: np.unique(values()[:, place], return_counts=True) for place, name in enumerate(FEATURES)}
    return RankTable(
        len(values()),
        {name: found.tolist() for name, (found, _) in columns.items()},
        {name: np.cumsum(counts).tolist() for name, (_, counts) in columns.items()},
    )


def writer(serialisation: str = "ranked") -> FlowTextWriter:
    """Writer of these flows."""
    return FlowTextWriter(SPEC, serialisation, ranks())


@cache
def flows(count: int = 400, serialisation: str = "ranked") -> list[str]:
    """Texts of these flows."""
    return [writer(serialisation).text(row) for row in values()[:count]]


def answer(flow: str, label: str, named: Collection[str], turned: bool = False, prose: str = "It was told so.") -> str:
    """An answer that names features in its indicators, with true sides of the median, or turned ones."""
    cells = dict(line.split(": ") for line in flow.split("\n"))
    other = {"above": "below", "below": "above", "at": "at"}
    items = []
    for name in named:
        value, rank = cells[name].split()
        side = directions(flow, ranks())[name]
        items.append(f"{name} {value} ({other[side] if turned else side} the median, {rank})")
    return f"CLASSIFICATION: {label}\nANALYSIS: {prose}\nKEY_INDICATORS: {'; '.join(items)}"


def present(flow: str, label: str) -> list[str]:
    """Features of a flow that are evidence of a class."""
    sides = directions(flow, ranks())
    return [item.feature for item in SPEC.expected_evidence[label] if sides[item.feature] == item.direction]


def at_random(count: int, seed: int, of: Sequence[str] = FEATURES) -> list[str]:
    """Features drawn without replacement."""
    return [str(name) for name in np.random.default_rng(seed).choice(of, count, replace=False)]
