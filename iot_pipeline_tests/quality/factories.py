"""Small made tables in the lake's shape, for the tests of quality, baseline and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.texts import FlowTextWriter

CLASSES = ["Normal", "Flood", "Scan"]
Flow = tuple[float, float, str]


def made_spec(facts: dict[str, Any] | None = None, **changes: Any) -> DatasetSpec:
    """Two features (the first with a scale), three classes, printed with 3 decimals."""
    content: dict[str, Any] = {
        "name": "made",
        "title": "Made",
        "citation": "none",
        "licence": "none",
        "label_column": "kind",
        "labels": dict(enumerate(CLASSES)),
        "classes": CLASSES,
        "features": [
            {
                "name": "pkts",
                "unit": "packets",
                "meaning": "packets",
                "scale": {"kind": "zscore", "mean": 2.0, "std": 4.0},
            },
            {"name": "iat.avg", "unit": "s", "meaning": "mean gap"},
        ],
        "scaling": "given",
        "scaling_note": "made",
        "format": {"decimals": 3},
        "facts": facts or {},
    }
    return DatasetSpec.model_validate(content | changes)


def flow_table(spec: DatasetSpec, flows: Sequence[Flow]) -> pd.DataFrame:
    """flows.parquet as pandas."""
    names = spec.feature_names
    frame = pd.DataFrame(flows, columns=[*names, "label"])
    frame.insert(0, "row_id", np.arange(len(frame)))
    frame["flow_group"] = [group_id(text) for text in FlowTextWriter(spec, "values").texts(frame)]
    frame["occurrence"] = frame.groupby("flow_group").cumcount().astype("int32")
    return frame


def record_table(frame: pd.DataFrame, sides: Sequence[str] = ("train", "train", "train", "test")) -> pd.DataFrame:
    """records.parquet as pandas; a group's side is drawn from `sides` by its id."""
    groups = frame.groupby("flow_group")["row_id"].agg(group_rows="size", row_id="min").reset_index()
    records = frame.groupby(["flow_group", "label"]).size().rename("rows").reset_index().merge(groups)
    digits = [int(hashlib.md5(group.encode()).hexdigest(), 16) for group in records["flow_group"]]
    records["side"] = [sides[digit % len(sides)] for digit in digits]
    return records


def save(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as Parquet."""
    frame.to_parquet(path, index=False)
    return path


def random_flows(count: int, seed: int = 0, conflict: float = 0.1) -> list[Flow]:
    """Flows on a coarse grid, so that many repeat; the class follows from the values but for `conflict`."""
    rng = np.random.default_rng(seed)
    pkts, gap = rng.integers(0, 12, count) / 4, rng.integers(0, 12, count) / 4
    kind = np.where(pkts > 1.6, 1, np.where(gap > 1.4, 2, 0))
    kind = np.where(rng.random(count) < conflict, rng.integers(0, 3, count), kind)
    return [(float(a), float(b), CLASSES[k]) for a, b, k in zip(pkts, gap, kind, strict=True)]
