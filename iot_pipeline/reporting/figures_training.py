"""Figures of training: token lengths, and the arms of the audit of the old recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iot_pipeline.reporting import style


def token_lengths(lengths: np.ndarray, limit: int, title: str) -> bytes:
    """Plot a histogram of tokens per row, with the maximum row length `limit` marked."""
    with style.canvas(6.8, 2.8) as made:
        axes = made.axes(f"Tokens a row, {title}", "y")
        axes.hist(lengths, bins=min(60, max(1, len(np.unique(lengths)))), color=style.SERIES[0])
        axes.axvline(limit, color=style.RED, linestyle=(0, (4, 3)), linewidth=1.4, label=f"IOT_MAX_LENGTH {limit}")
        axes.set_xlabel("tokens")
        axes.set_ylabel("rows")
        axes.legend()
    return made.data


def protocol_arms(arms: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot accuracy and interval of each audit arm, from rows of {arm, accuracy, interval}."""
    with style.canvas(6.8, 0.9 + 0.5 * len(arms)) as made:
        axes = made.axes("Accuracy on distinct test flows, one short training each", "x")
        for place, arm in enumerate(arms):
            colour = style.SERIES[place % len(style.SERIES)]
            axes.plot(arm["interval"], [place, place], color=colour, linewidth=4, alpha=0.4, solid_capstyle="butt")
            axes.plot([arm["accuracy"]], [place], marker="o", markersize=7, color=colour, markeredgecolor="white")
        axes.set_yticks(range(len(arms)), [arm["arm"].replace("_", " ") for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xlabel("accuracy; bars are 95 % intervals")
    return made.data
