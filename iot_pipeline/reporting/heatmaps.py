"""Heat maps: label conflicts, confusion matrices, sampled flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import style


@style.drawn
def conflicts(report: Mapping[str, Any]) -> Any:
    """Plot label conflicts: rows in conflicting flow groups by label and group majority (label_conflicts JSON)."""
    import numpy as np

    rows = np.asarray(report["matrix"], dtype=float)
    if not rows.any():
        return style.no_data("Same flow, different label", "no flow carries two labels")
    shade = np.log1p(rows) / np.log1p(rows).max()
    title = "Same flow, different label: rows in conflicting groups"
    axes = square(rows, shade, report["classes"], short, title)
    axes.set_xlabel("majority label of the flow")
    axes.set_ylabel("label of the row")
    return axes


@style.drawn
def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str], title: str = "Confusion matrix") -> Any:
    """Plot a confusion matrix [true, predicted], coloured by share of the true class."""
    import numpy as np

    values = np.asarray(matrix, dtype=float)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(100 * values, totals, out=np.zeros_like(values), where=totals > 0)
    axes = square(shares, shares / 100, classes, share_text, title)
    axes.set_xlabel("predicted class  (cells: % of the true class)")
    axes.set_ylabel("true class")
    return axes


@style.drawn
def samples(table: Any, classes: Sequence[str], features: Sequence[str]) -> Any:
    """Plot sample means as a heat map of marked features by class, shaded from the lowest to the highest class.

    `table`: the table of quality.samples.sample_comparison, as a DataFrame.
    """
    import numpy as np

    if table.empty or not features:
        return style.no_data("Samples", "no feature differs")
    means = table.pivot_table(values="value", index="feature", columns="class", aggfunc="mean")
    values = means.reindex(index=list(features), columns=list(classes)).to_numpy(dtype=float)
    low, high = np.nanmin(values, axis=1, keepdims=True), np.nanmax(values, axis=1, keepdims=True)
    shade = np.divide(values - low, high - low, out=np.zeros_like(values), where=high > low)
    axes = style.axes(
        2.4 + 0.72 * len(classes), 1.5 + 0.34 * len(features), "Sampled flows: mean of the features that differ most"
    )
    cells(axes, values, shade, lambda value: "" if np.isnan(value) else f"{value:.3g}", 7.5)
    name_sides(axes, classes, features)
    return axes


def square(values: Any, shade: Any, classes: Sequence[str], write: Any, title: str) -> Any:
    """Draw a square heat map with a number in every cell that is not 0.

    Args:
        values: Values [n, n].
        shade: Darkness of the cells, 0 to 1 [n, n].
        classes: Names of rows and columns [n].
        write: Formatter of a value.
        title: Title of the figure.

    Returns:
        The matplotlib Axes.
    """
    n = len(classes)
    axes = style.axes(2.1 + 0.5 * n, 1.7 + 0.36 * n, title)
    cells(axes, values, shade, lambda value: write(value) if value > 0 else "", 7.5 if n <= 9 else 7)
    name_sides(axes, classes, classes)
    between = [place - 0.5 for place in range(1, n)]
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return axes


def cells(axes: Any, values: Any, shade: Any, write: Any, size: float) -> None:
    """Draw coloured cells with their values as text, white on dark."""
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.13, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if shade[row, column] > 0.6 else style.INK
            axes.text(column, row, write(value), ha="center", va="center", fontsize=size, color=colour)


def name_sides(axes: Any, across: Sequence[str], down: Sequence[str]) -> None:
    """Name columns and rows of a heat map, and hide its frame."""
    axes.set_xticks(range(len(across)), across, rotation=38, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), down)
    axes.spines[:].set_visible(False)


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
