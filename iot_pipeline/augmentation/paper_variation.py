"""Size of a flaw of the prior work: values varied by multiplying them as they are published. For audits only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from iot_pipeline.augmentation.moves import SPREAD
from iot_pipeline.flows.serialise import parse_text, printed
from iot_pipeline.flows.spec import DatasetSpec, Format, Scale

COUNTED = ("packets", "bytes")  # units of features that only whole numbers can have


def size_paper_variation(texts: Sequence[str], spec: DatasetSpec, seed: int) -> dict[str, Any]:
    """Size the effect of the prior work's variation on flow texts: zeros that stay, counts that no capture can hold.

    Counts are packets and bytes on a known scale. One is possible if a whole number prints as it does.

    Returns {features, count_values, not_whole_share, not_whole_before, values, zero_share}; `features` are the counts,
    `not_whole_before` is their share before, and shares are None where there is nothing to count.
    """
    raw = spec.scaling == "none"
    counts = [f for f in spec.features if f.unit in COUNTED and not f.name.endswith(".avg")]
    scales = {f.name: None if raw else f.scale for f in counts if raw or f.known_scale}
    random = np.random.default_rng(seed)
    before, after, zeros = [], [], []
    for name, text, place in (item for flow in texts for item in parse_text(flow)):
        if isinstance(place, str):  # a category, which is not multiplied
            continue
        value = float(text)
        zeros.append(value == 0)
        if name in scales:
            moved = value * random.uniform(1 - SPREAD, 1 + SPREAD)
            before.append(not _prints_a_count(value, scales[name], spec.format))
            after.append(not _prints_a_count(moved, scales[name], spec.format))
    return {
        "features": list(scales),
        "count_values": len(after),
        "not_whole_share": _share(after),
        "not_whole_before": _share(before),
        "values": len(zeros),
        "zero_share": _share(zeros),
    }


def _prints_a_count(value: float, scale: Scale | None, form: Format) -> bool:
    """Return True if a whole number prints as this published value does."""
    text = printed(form, value)
    raw = float(text) if scale is None else scale.to_raw(float(text))
    whole = float(round(raw))
    return printed(form, whole if scale is None else scale.from_raw(whole)) == text


def _share(found: list[bool]) -> float | None:
    return sum(found) / len(found) if found else None
