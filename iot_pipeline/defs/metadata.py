"""Conversion of values for manifests (JSON) and for Dagster's metadata and tables."""

from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """Convert a value to JSON types: paths become text, numpy numbers Python's, tuples and sets lists."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return to_json(value.item() if getattr(value, "ndim", 0) == 0 else value.tolist())
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def to_metadata(value: Any) -> str | int | float | bool:
    """Convert a value for Dagster's metadata."""
    value = to_json(value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def to_cell(value: Any) -> str | int | float | bool | None:
    """Convert a value for Dagster's tables."""
    value = to_json(value)
    return value if isinstance(value, (str, int, float, bool)) else ("" if value is None else str(value))
