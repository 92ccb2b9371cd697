"""Numbers and other values as a reader sees them."""

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"
# Arms of the audit of the old protocol (defs/training/paper.py).
PROTOCOL_ARMS = {
    "paper": "prior work's rows and recipe",
    "paper_rows_our_recipe": "prior work's rows, this project's recipe",
    "paper_rows_uncut": "the same, rows not cut",
    "our_rows_label_weight_1": "this project's rows, label weight 1",
    "leak_free": "this project's rows and recipe",
}


def accuracy(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Format an accuracy as `0.9312 [0.92, 0.94]`; the bounds of narrow intervals get up to 4 decimals."""
    if value is None:
        return MISSING
    if low is None or high is None:
        return f"{value:.4f}"
    digits = 2 if high - low >= 0.0145 else 3 if high - low >= 0.00145 else 4
    return f"{value:.4f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(value: float | None) -> str:
    """Format a share from 0 to 1 as `85.31 %`."""
    return MISSING if value is None else f"{100 * value:.2f} %"


def whole(value: float | None) -> str:
    """Format a count with thousands separators: `347,685`."""
    return MISSING if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """Format a number with four significant digits, without exponent at everyday sizes: `0.1234`, `3,409`.

    What is no finite number, such as a quartile of values up to 1e308, is missing.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Format a duration: `6.1 ms`, `1.21 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if value is None:
        return MISSING
    if value < 0.9995:  # above, three digits of milliseconds are 1e+03
        return f"{1000 * value:.3g} ms"
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(value: float | None) -> str:
    """Format US dollars with the cents that matter: `$0`, `$0.0042`, `$0.42`, `$1,440`."""
    if value is None:
        return MISSING
    if value == 0:
        return "$0"
    return f"${value:.4f}" if abs(value) < 0.1 else f"${value:.2f}" if abs(value) < 100 else f"${value:,.0f}"


def text(value: Any) -> str:
    """Format any value for a reader: numbers rounded, lists joined, None as a dash."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value)
    return str(value)


def protocol_arm(name: str) -> str:
    """Format the name of an arm of the protocol audit: `prior work's rows, this project's recipe`."""
    return PROTOCOL_ARMS.get(name, name.replace("_", " "))


def fixed(value: float | None, digits: int) -> str:
    """Format a number with a fixed count of decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int) -> str:
    """Format a number with its sign and a fixed count of decimals: `+1.20`, `-0.34`."""
    return MISSING if value is None else f"{value:+.{digits}f}"


def plain(value: Any) -> str | None:
    """Format a value without separators, None as None: a seed is a name, not a count."""
    return None if value is None else str(value)
