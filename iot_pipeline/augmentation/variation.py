"""Moving the values of a flow a little: `physical` stretches its time, `paper` is the prior work's x uniform(0.95, 1.05).

Belongs here: the arithmetic on values. Does not belong here: text, answers and which rows are varied (tracks.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec

KINDS = ("physical", "paper")
LOW, HIGH = 0.95, 1.05
Floats = npt.NDArray[np.float64]


def zero_points(spec: DatasetSpec) -> dict[str, float]:
    """For each feature the value that stands for 0 in raw units: about it, time can be stretched."""
    return {f.name: float(f.scale.from_raw(0.0)) if f.scale is not None else 0.0 for f in spec.features}


def uniform(seed: int, row_ids: npt.NDArray[np.int64], draw: int, columns: int) -> Floats:
    """Factors in [LOW, HIGH), shape (rows, columns): a function of (seed, row_id, draw, column) alone."""
    with np.errstate(over="ignore"):
        base = _mix(row_ids.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))
        base = _mix(base + np.uint64(draw + 1) * np.uint64(0xD1B54A32D192ED03))
        cells = _mix(base[:, None] + np.arange(1, columns + 1, dtype=np.uint64)[None, :] * np.uint64(0x8CB92BA72F3D8DD7))
    share = (cells >> np.uint64(11)).astype(np.float64) / 2.0**53
    return LOW + (HIGH - LOW) * share


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64: neighbouring inputs give unrelated outputs."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def vary(
    kind: str, features: Sequence[str], values: Floats, row_ids: npt.NDArray[np.int64], seed: int, draw: int,
    zeros: Mapping[str, float],
) -> Floats:
    """Varied values, shape (rows, features); `draw` 0, 1, 2 ... gives another variation of the same rows.

    physical: every gap between packets is stretched by one factor f a flow, every rate divided by it, both about
    the zero of the raw unit, so that totals, means and rates still fit together; counts, sizes and headers stay.
    """
    if kind == "paper":
        return values * uniform(seed, row_ids, draw, len(features))
    if kind != "physical":
        raise UserError(f"IOT_VARIATION={kind!r} is unknown; use one of {', '.join(KINDS)}.")
    factor = uniform(seed, row_ids, draw, 1)[:, 0]
    varied = values.copy()
    for column, name in enumerate(features):
        zero = zeros[name]
        if "_iat." in name:
            varied[:, column] = zero + factor * (values[:, column] - zero)
        elif name.endswith("_pkts_per_sec"):
            varied[:, column] = zero + (values[:, column] - zero) / factor
    return varied
