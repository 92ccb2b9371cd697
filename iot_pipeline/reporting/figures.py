"""Figures of tracks, trainings and evaluations, and heat maps: plain data in, PNG bytes out.

Every function returns the same bytes for the same data, needs no display, and accepts empty parts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from iot_pipeline.evaluation.study import EQUIVALENT
from iot_pipeline.reporting import formats, style
from iot_pipeline.vocabulary import VIEWS

Row = Mapping[str, Any]
FAR_BELOW = 0.25
FAR = 0.1  # between two models of a study
DASHED = (0, (4, 3))
HELD_OUT = "validation, one common set"


@style.drawn
def loss_curves(curves: Mapping[str, Sequence[Row]]) -> Any:
    """Plot training and validation loss by optimiser step, one colour per curve.

    Training loss is a running mean over the raw values; validation loss has markers. `curves`: name -> rows with `step`
    and `loss`, `validation_loss` or both.
    """
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return style.no_data("Loss by step", "no training step was recorded")
    axes = style.axes((6.8, 3.3), "Loss on the answer's tokens by optimiser step", "y")
    label: str | None = HELD_OUT
    for place, (name, rows) in enumerate(curves.items()):
        colour = style.SERIES[place % len(style.SERIES)]
        train, held_out = (
            [(row["step"], row[key]) for row in rows if row.get(key) is not None] for key in ("loss", "validation_loss")
        )
        if len(train) >= 40:
            axes.plot(*zip(*train, strict=True), color=colour, linewidth=0.6, alpha=0.25)
        if train:
            axes.plot(*zip(*running_mean(train), strict=True), color=colour, linewidth=1.7, label=name)
        if held_out:
            marks = {"marker": style.MARKERS[place % len(style.MARKERS)], "markersize": 7, "markeredgecolor": "white"}
            line = "-" if len(held_out) > 1 else "none"
            axes.plot(*zip(*held_out, strict=True), color=colour, linewidth=2, linestyle=line, label=label, **marks)
            label = None  # one entry in the legend is enough
    low, high = axes.get_ylim()
    if low > 0 and high / low > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("cross-entropy per token (nats)")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: labels[at] == HELD_OUT)  # the common entry is the last
    axes.legend([handles[at] for at in order], [labels[at] for at in order])
    return axes


def running_mean(train: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Compute a centred running mean over a fortieth of the points; short curves stay unchanged."""
    steps, values = zip(*train, strict=True)
    means = pd.Series(values).rolling(2 * (len(train) // 80) + 1, center=True, min_periods=1).mean()
    return list(zip(steps, means, strict=True))


@style.drawn
def accuracy(comparison: Row, view: str = "distinct") -> Any:
    """Plot accuracy with 95 % interval of each track and baseline in one view, and the ceiling."""
    rows = [row for row in comparison["rows"] if row["views"].get(view)]
    title = f"Accuracy, {VIEWS[view]}"
    if not rows:
        return style.no_data(title, "nothing was evaluated in this view")
    scores = [row["views"][view] for row in rows]
    ceilings = sorted({round(scored["ceiling"], 9) for scored in scores})
    # A model far below the others (a look-up) would compress the axis: it is drawn as an arrow at the edge.
    least = max(scored["accuracy"] for scored in scores) - FAR_BELOW
    bounds = [
        (scored["low"], scored["high"]) if scored["low"] is not None else (scored["accuracy"],) * 2
        for scored in scores
        if scored["accuracy"] > least
    ]
    low, high = min(low for low, _ in bounds), max([*ceilings, *(high for _, high in bounds)])
    span = max(high - low, 0.02)
    axes = style.axes((6.8, 1.15 + 0.34 * len(rows)), title, "x")
    axes.set_xlim(low - 0.12 * span, high + 0.05 * span)
    for place, (row, scored) in enumerate(zip(rows, scores, strict=True)):
        colour, marker = (style.BLUE, "o") if row["kind"] == "student" else (style.GREY, "s")
        axes.text(1.02, place, f"{scored['accuracy']:.4f}", transform=axes.get_yaxis_transform(), va="center")
        if scored["accuracy"] > least:
            found = None if scored["low"] is None else (scored["low"], scored["high"])
            style.interval(axes, place, scored["accuracy"], found, colour, marker)
        else:
            axes.plot([low - 0.1 * span], [place], marker="<", markersize=7, color=colour)
    for ceiling in ceilings:
        axes.axvline(ceiling, color=style.RED, linestyle=DASHED, linewidth=1.4)
        axes.annotate(
            f"ceiling {ceiling:.4f}",
            (ceiling, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=style.RED,
            ha="right",
            fontsize=8.5,
        )
    style.name_rows(axes, [f"{row['name']} · {row['stage']}" for row in rows])
    arrow = "; arrow = far below" if len(bounds) < len(rows) else ""
    axes.figure.supxlabel(f"accuracy; bars are 95 % intervals; the axis does not start at 0{arrow}", fontsize=9)
    axes.set_title(title, pad=18)  # above the ceiling's label
    return axes


@style.drawn
def study(found: Row) -> Any:
    """Plot the accuracy's difference in each contrast of a study, with its 95 % interval and the margin of equivalence.

    A difference beyond FAR, like that to an untrained student, is an arrow at the edge: on one scale with it the others
    would all lie on zero.
    """
    rows = [row for row in found["contrasts"] if row["metric"] == "accuracy"]
    seeds = f"{found['seeds']} training seed{'s' if found['seeds'] > 1 else ''}"
    title = f"Differences in accuracy, {seeds}"
    if not rows:
        return style.no_data(title, "there are no two models to compare")
    axes = style.axes((6.8, 1.15 + 0.34 * len(rows)), title, "x")
    axes.axvspan(-found["margin"], found["margin"], color=style.LIGHT)
    axes.axvline(0, color=style.RED, linestyle=DASHED, linewidth=1.4)
    near = [row for row in rows if abs(row["difference"]) <= FAR]
    edge = 1.1 * (max((abs(row[end]) for row in near for end in ("low", "high")), default=0.0) or FAR)
    for place, row in enumerate(rows):
        told = " is better" in row["verdict"] or row["verdict"] == EQUIVALENT
        colour = style.BLUE if told else style.GREY
        if row in near:
            style.interval(axes, place, row["difference"], (row["low"], row["high"]), colour, "o")
        else:
            end = math.copysign(edge, row["difference"])
            axes.plot([end], [place], "<" if end < 0 else ">", color=colour, markersize=7, clip_on=False)
        axes.text(1.02, place, f"{row['difference']:+.4f}", transform=axes.get_yaxis_transform(), va="center")
    if len(near) < len(rows):
        axes.set_xlim(-edge, edge)
    axes.locator_params(axis="x", nbins=4)  # more labels of six signs would touch
    style.name_rows(axes, [f"{row['first']} minus {row['second']}" for row in rows])
    arrow = "; arrow: far beyond" if len(near) < len(rows) else ""
    told = f"bars: 95 % intervals; band: ±{found['margin']}; blue: a verdict is given{arrow}"
    axes.figure.supxlabel(told, fontsize=9)
    return axes


@style.drawn
def reliability(bins: Sequence[Row], calibrated: Sequence[Row] | None = None) -> Any:
    """Plot a reliability diagram of equal-mass bins (evaluation.metrics), before and after calibration."""
    if not bins:
        return style.no_data("Reliability", "nothing was scored")
    series = [("as scored", bins, style.ORANGE, "s")]
    if calibrated:
        series.append(("after temperature scaling", calibrated, style.BLUE, "o"))
    axes = style.axes((3.95, 3.5), "Does confidence mean what it says?", "both")
    low = max(0.0, min(min(row["confidence"], row["accuracy"]) for _, rows, _, _ in series for row in rows) - 0.04)
    axes.plot([low, 1], [low, 1], color=style.GREY, linewidth=1, linestyle=DASHED)
    for name, rows, colour, marker in series:
        points = [(row["confidence"], row["accuracy"]) for row in rows]
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, linewidth=1.6, color=colour, label=name)
    axes.set_xlabel("mean confidence of a bin")
    axes.set_ylabel("accuracy of the bin")
    axes.set_xlim(low, 1.01)
    axes.set_ylim(low, 1.01)
    axes.legend(loc="upper left")
    return axes


@style.drawn
def cost(report: Row) -> Any:
    """Plot dollars by track: billed here, and hypothetical for the same tokens elsewhere (cost_report)."""
    rows = report["rows"]
    if not rows:
        return style.no_data("Cost of the answers", "no track was made")
    kinds = [
        ("billed here", "billed_usd", style.GREEN),
        ("hypothetical: gpt-4o-mini", "hypothetical_sync_usd", style.BLUE),
        ("hypothetical: its Batch API", "hypothetical_batch_usd", style.SKY),
    ]
    axes = style.axes((6.8, 1.2 + 0.75 * len(rows)), "Cost of the teacher's answers", "x")
    series = [(name, [row[key] or 0.0 for row in rows], colour) for name, key, colour in kinds]
    style.grouped_bars(axes, series, formats.dollars)
    style.name_rows(axes, [f"{row['track']} · {row['stage']}" for row in rows])
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.set_xlabel("US dollars")
    style.legend_below(axes, 3)
    return axes


@style.drawn
def inference_benchmark(variants: Sequence[Row]) -> Any:
    """Plot milliseconds per flow of each benchmark variant that ran, on a log axis (inference.benchmark)."""
    from matplotlib.ticker import LogFormatter

    rows = [variant for variant in variants if variant["run"]]
    if not rows:
        return style.no_data("Time per flow", "no variant was measured")
    slowest = {place: 1000 * variant["seconds_p95"] for place, variant in enumerate(rows) if variant.get("seconds_p95")}
    axes = style.axes((8.6, 1.3 + 0.3 * len(rows)), "Time per flow, variant by variant", "x")
    for place, variant in enumerate(rows):
        explains = variant["name"].startswith("explanation")
        axes.barh(place, 1000 * seconds_a_flow(variant), height=0.6, color=style.SKY if explains else style.BLUE)
        told = formats.seconds(seconds_a_flow(variant))
        told += f", p95 {formats.seconds(slowest[place] / 1000)}" if place in slowest else ""
        axes.text(1.02, place, told, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.plot(
        slowest.values(), slowest.keys(), marker="|", markersize=12, markeredgewidth=2, color=style.RED, linestyle=""
    )
    axes.set_xscale("log")
    style.name_rows(axes, [variant["name"] for variant in rows])
    axes.tick_params(axis="y", labelsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # the default writes formulas, which are not set here
    mark = "; mark = p95 of single requests" if slowest else ""
    axes.figure.supxlabel(f"milliseconds per flow, log scale{mark}", fontsize=9)
    return axes


def seconds_a_flow(variant: Row) -> float:
    """Return seconds per flow: the median of single calls if timed, else the inverse of the throughput."""
    return float(variant["seconds_p50"] if variant.get("seconds_p50") else 1 / variant["flows_per_second"])


@style.drawn
def token_lengths(lengths: np.ndarray, limit: int, title: str) -> Any:
    """Plot a histogram of tokens per row, with the maximum row length `limit` marked."""
    axes = style.axes((6.8, 2.8), f"Tokens per row, {title}", "y")
    axes.hist(lengths, bins=min(60, max(1, len(np.unique(lengths)))), color=style.BLUE)
    axes.axvline(limit, color=style.RED, linestyle=DASHED, linewidth=1.4, label=f"IOT_MAX_LENGTH {limit}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    axes.legend()
    return axes


@style.drawn
def protocol_arms(arms: Sequence[Row], majority: float) -> Any:
    """Plot accuracy and interval of each audit arm that could be scored, with the accuracy of the majority class."""
    arms = [arm for arm in arms if arm["accuracy"] is not None]
    axes = style.axes((6.8, 0.9 + 0.5 * len(arms)), "Accuracy on distinct test flows, one short training each", "x")
    for place, arm in enumerate(arms):
        colour = style.SERIES[place % len(style.SERIES)]
        style.interval(axes, place, arm["accuracy"], arm["interval"], colour, "o")
    style.name_rows(axes, [formats.protocol_arm(arm["arm"]) for arm in arms])
    axes.axvline(majority, color=style.RED, linestyle=DASHED, linewidth=1.4, label="majority class")
    axes.legend()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy; bars are 95 % intervals")
    return axes


@style.drawn
def conflicts(report: Row) -> Any:
    """Plot label conflicts: rows in conflicting flow groups by label and group majority (label_conflicts JSON)."""
    rows = np.asarray(report["matrix"], dtype=float)
    if not rows.any():
        return style.no_data("Same flow, different label", "no flow carries two labels")
    shade = np.log1p(rows) / np.log1p(rows).max()
    title = "Same flow, different label: rows in conflicting groups"
    axes = _square(rows, shade, report["classes"], short, title)
    axes.set_xlabel("majority label of the flow")
    axes.set_ylabel("label of the row")
    return axes


@style.drawn
def confusion(matrix: Sequence[Sequence[float]], classes: Sequence[str], title: str = "Confusion matrix") -> Any:
    """Plot a confusion matrix [true, predicted], coloured by share of the true class."""
    values = np.asarray(matrix, dtype=float)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(100 * values, totals, out=np.zeros_like(values), where=totals > 0)
    axes = _square(shares, shares / 100, classes, share_text, title)
    axes.set_xlabel("predicted class  (cells: % of the true class)")
    axes.set_ylabel("true class")
    return axes


@style.drawn
def samples(table: Any, classes: Sequence[str], features: Sequence[str]) -> Any:
    """Plot sample means as a heat map of marked features by class, shaded from the lowest to the highest class.

    `table`: the table of quality.samples.sample_comparison, as a DataFrame. Categories have no mean and are left out.
    """
    if table.empty or not features:
        return style.no_data("Samples", "no feature differs")
    features = [name for name in features if table.loc[table["feature"] == name, "value"].notna().any()]
    if not features:
        return style.no_data("Samples", "only categories differ")
    means = table.pivot_table(values="value", index="feature", columns="class", aggfunc="mean")
    values = means.reindex(index=list(features), columns=list(classes)).to_numpy(dtype=float)
    low, high = np.nanmin(values, axis=1, keepdims=True), np.nanmax(values, axis=1, keepdims=True)
    shade = np.divide(values - low, high - low, out=np.zeros_like(values), where=high > low)
    if crowd := 2.4 + 0.72 * len(classes) > style.WIDEST:  # the classes go down the side
        values, shade, features, classes = values.T, shade.T, classes, features
    row = style.row_height(len(features), 0.34)
    axes = style.axes(
        (2.4 + 0.72 * len(classes), 1.5 + row * len(features)), "Sampled flows: mean of the features that differ most"
    )
    sparse = len(features) > 3 * style.ROWS  # figures in so many cells could not be read
    _cells(axes, values, shade, lambda value: "" if sparse or np.isnan(value) else f"{value:.3g}", 5 if crowd else 7.5)
    _name_sides(axes, classes, features)
    style.small_names(axes, len(features))
    return axes


def _square(values: Any, shade: Any, classes: Sequence[str], write: Any, title: str) -> Any:
    """Draw values [n, n] by class, with a number in every cell that is not 0 unless classes are many.

    `shade`: darkness from 0 to 1 [n, n].
    """
    n = len(classes)
    crowd = style.crowded(n)
    size = (2.1 + 0.5 * n, 1.7 + 0.36 * n)
    if crowd:
        title += "; dark cells have most"
        size = (min(style.WIDEST, 3 + 0.2 * n), min(style.WIDEST, 2.6 + 0.2 * n))
    axes = style.axes(size, title)
    _cells(axes, values, shade, lambda value: write(value) if value > 0 and not crowd else "", 7.5 if n <= 9 else 7)
    _name_sides(axes, classes, classes)
    style.small_names(axes, n, "both")
    if crowd:  # lines between so many cells would hide them
        axes.tick_params(axis="x", labelrotation=90)
        return axes
    between = [place - 0.5 for place in range(1, n)]
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return axes


def _cells(axes: Any, values: Any, shade: Any, write: Any, size: float) -> None:
    """Draw coloured cells with their values as text, white on dark."""
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.13, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if shade[row, column] > 0.6 else style.INK
            if written := write(value):
                axes.text(column, row, written, ha="center", va="center", fontsize=size, color=colour)


def _name_sides(axes: Any, across: Sequence[str], down: Sequence[str]) -> None:
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
