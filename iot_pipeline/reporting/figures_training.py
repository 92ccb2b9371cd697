"""Figures of training rows and of the audit of the prior work's protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iot_pipeline.reporting import style


@style.drawn
def token_lengths(lengths: np.ndarray, limit: int, title: str) -> Any:
    """Plot a histogram of tokens per row, with the maximum row length `limit` marked."""
    axes = style.axes(6.8, 2.8, f"Tokens a row, {title}", "y")
    axes.hist(lengths, bins=min(60, max(1, len(np.unique(lengths)))), color=style.BLUE)
    axes.axvline(limit, color=style.RED, linestyle=(0, (4, 3)), linewidth=1.4, label=f"IOT_MAX_LENGTH {limit}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    axes.legend()
    return axes


@style.drawn
def protocol_arms(arms: Sequence[Mapping[str, Any]]) -> Any:
    """Plot accuracy and interval of each audit arm, from rows of {arm, accuracy, interval}."""
    axes = style.axes(6.8, 0.9 + 0.5 * len(arms), "Accuracy on distinct test flows, one short training each", "x")
    for place, arm in enumerate(arms):
        colour = style.SERIES[place % len(style.SERIES)]
        style.interval(axes, place, arm["accuracy"], arm["interval"], colour, "o")
    style.name_rows(axes, [arm["arm"].replace("_", " ") for arm in arms])
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy; bars are 95 % intervals")
    return axes
