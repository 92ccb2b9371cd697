"""Published facts of a data set spec; `facts` is free-form YAML, so any key may be absent."""

from __future__ import annotations

from typing import Any

from iot_pipeline.flows.spec import DatasetSpec


def published_duplicates(spec: DatasetSpec) -> dict[str, Any]:
    """Return published duplicates: any of rows, distinct, share (0 to 1), by_class {class: share}."""
    return dict(spec.facts.get("duplicates", {}))


def published_quartiles(spec: DatasetSpec) -> dict[str, dict[str, list[float | None]]]:
    """Return published quartiles {class: {feature: [25 %, 50 %, 75 %]}}, None where unknown; {} if there are none."""
    return dict(spec.facts.get("quartiles", {}))


def row_totals(spec: DatasetSpec) -> dict[str, int]:
    """Return every published row total by key (`rows`, `rows_published`, ...)."""
    return {key: int(value) for key, value in spec.facts.items() if key == "rows" or key.startswith("rows_")}


def class_tables(spec: DatasetSpec) -> dict[str, dict[str, int]]:
    """Return every published table of rows by class, by key (`class_rows`, `class_rows_published`, ...)."""
    return {
        key: {name: int(n) for name, n in value.items()}
        for key, value in spec.facts.items()
        if key == "class_rows" or key.startswith("class_rows_")
    }
