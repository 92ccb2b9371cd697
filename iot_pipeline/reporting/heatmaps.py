"""Square heat maps: label conflicts and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import style


def conflicts(report: Mapping[str, Any]) -> bytes:
    """Plot label conflicts: rows in conflicting flow groups by label and group majority (label_conflicts JSON)."""
    if not any(any(row) for row in report["matrix"]):
        return style.no_data("Same flow, different label", "no flow carries two labels")
    return heat_map(
        report["matrix"],
        report["classes"],
        "Same flow, different label: rows in conflicting groups",
        "majority label of the flow",
        "label of the row",
        whole=True,
    )


def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str], title: str = "Confusion matrix") -> bytes:
    """Plot a confusion matrix [true, predicted], coloured by share of the true class."""
    return heat_map(matrix, classes, title, "predicted class", "true class", whole=False)


def heat_map(
    matrix: Sequence[Sequence[float]], classes: Sequence[str], title: str, across: str, down: str, whole: bool
) -> bytes:
    """Plot a square heat map with a number in every cell that is not 0.

    Args:
        matrix: Values [n, n].
        classes: Names of rows and columns [n].
        title: Title of the figure.
        across: Label of the x-axis.
        down: Label of the y-axis.
        whole: True for counts, on a log colour scale; False for % of the row.
    """
    import numpy as np

    values = np.asarray(matrix, dtype=float)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(100 * values, totals, out=np.zeros_like(values), where=totals > 0)
    shown = np.log1p(values) / max(float(np.log1p(values).max()), 1e-9) if whole else shares / 100
    n = len(classes)
    with style.canvas(2.1 + 0.5 * n, 1.7 + 0.36 * n) as made:
        axes = made.axes(title)
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=1.12, aspect="auto")
        for row in range(n):
            for column in range(n):
                if values[row, column] > 0:
                    text = short(values[row, column]) if whole else share_text(shares[row, column])
                    dark = shown[row, column] > 0.6
                    axes.text(
                        column,
                        row,
                        text,
                        ha="center",
                        va="center",
                        fontsize=7.5 if n <= 9 else 7,
                        color="white" if dark else style.INK,
                    )
        axes.set_xticks(range(n), classes, rotation=38, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), classes)
        axes.set_xticks([place - 0.5 for place in range(1, n)], minor=True)
        axes.set_yticks([place - 0.5 for place in range(1, n)], minor=True)
        axes.grid(True, which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xlabel(across + ("" if whole else "  (cells: % of the true class)"))
        axes.set_ylabel(down)
    return made.data


def short(value: float) -> str:
    """Format a count in at most four characters: 950, 9.5k, 95k, 1.2M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def share_text(percent: float) -> str:
    """Format a percentage in at most five characters; only exactly 100 and 0 read 100 and 0."""
    if percent in (0.0, 100.0):
        return f"{percent:.0f}"
    if percent > 99.9:
        return ">99.9"
    return "<0.1" if percent < 0.1 else f"{percent:.1f}"
