"""Figures of assets and reports: plain data in, PNG bytes out.

Every function returns the same bytes for the same data, needs no display, and accepts empty parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import style, tables
from iot_pipeline.reporting.figures_data import duplicates, leakage, leakage_rows, profile
from iot_pipeline.reporting.figures_quality import mismatches, patterns, prior_rule_rows, rule_rows, samples, sides
from iot_pipeline.reporting.heatmaps import conflicts, confusion
from iot_pipeline.reporting.style import embed, img
from iot_pipeline.vocabulary import VIEWS

__all__ = [
    "accuracy",
    "conflicts",
    "confusion",
    "cost",
    "duplicates",
    "embed",
    "img",
    "inference_ladder",
    "leakage",
    "leakage_rows",
    "loss_curves",
    "mismatches",
    "patterns",
    "prior_rule_rows",
    "profile",
    "reliability",
    "rule_rows",
    "samples",
    "sides",
]

Row = Mapping[str, Any]


def loss_curves(curves: Mapping[str, Sequence[Row]]) -> bytes:
    """Plot training and validation loss by optimiser step, one colour per curve.

    Training loss is a running mean over the raw values; validation loss has markers. `curves`: name -> rows with `step`
    and `loss`, `validation_loss` or both.
    """
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return style.no_data("Loss by step", "no training step was recorded")
    with style.canvas(6.8, 3.3) as made:
        axes = made.axes("Loss on the answer's tokens by optimiser step", "y")
        marked = False
        for place, (name, rows) in enumerate(curves.items()):
            colour = style.SERIES[place % len(style.SERIES)]
            train, held_out = points(rows, "loss"), points(rows, "validation_loss")
            if train:
                if len(train) >= 40:
                    axes.plot(*zip(*train, strict=True), color=colour, linewidth=0.6, alpha=0.25)
                axes.plot(*zip(*running_mean(train), strict=True), color=colour, linewidth=1.7, label=name)
            if held_out:
                axes.plot(
                    *zip(*held_out, strict=True),
                    color=colour,
                    linewidth=2,
                    markersize=7,
                    markeredgecolor="white",
                    marker=style.MARKERS[place % len(style.MARKERS)],
                    linestyle="-" if len(held_out) > 1 else "none",
                    label=None if marked else "validation, one common set",
                )
                marked = True
        low, high = axes.get_ylim()
        if low > 0 and high / low > 8:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("cross-entropy a token (nats)")
        axes.legend()
    return made.data


def points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Return (step, value) points of the rows that have `key`."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def running_mean(train: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Compute a centred running mean over a fortieth of the points; short curves stay unchanged."""
    half = len(train) // 80
    values = [value for _, value in train]
    return [
        (step, sum(values[max(0, at - half) : at + half + 1]) / len(values[max(0, at - half) : at + half + 1]))
        for at, (step, _) in enumerate(train)
    ]


def accuracy(comparison: Row, view: str = "distinct") -> bytes:
    """Plot accuracy with 95 % interval of each track and baseline in one view, and the ceiling."""
    rows = [row for row in comparison["rows"] if row["views"].get(view)]
    title = f"Accuracy, {VIEWS.get(view, view)}"
    if not rows:
        return style.no_data(title, "nothing was evaluated in this view")
    values = [row["views"][view]["accuracy"] for row in rows]
    ceilings = sorted({round(row["views"][view]["ceiling"], 9) for row in rows})
    # A model far below the others (a look-up) would compress the axis: it is drawn as an arrow at the edge.
    least = min((value for value in values if value > max(values) - FAR_BELOW), default=0.0)
    shown = [row["views"][view] for row in rows if row["views"][view]["accuracy"] >= least]
    low = min(found["accuracy"] if found["low"] is None else found["low"] for found in shown)
    high = max([*ceilings, *(found["accuracy"] if found["high"] is None else found["high"] for found in shown)])
    span = max(high - low, 0.02)
    with style.canvas(6.8, 1.15 + 0.34 * len(rows)) as made:
        axes = made.axes(title, "x")
        axes.set_xlim(low - 0.12 * span, high + 0.05 * span)
        for place, row in enumerate(rows):
            found, student = row["views"][view], row["kind"] == "student"
            colour = style.BLUE if student else style.GREY
            axes.text(1.02, place, f"{found['accuracy']:.4f}", transform=axes.get_yaxis_transform(), va="center")
            if found["accuracy"] < least:
                axes.plot([low - 0.1 * span], [place], marker="<", markersize=7, color=colour)
                continue
            if found["low"] is not None:
                axes.plot(
                    [found["low"], found["high"]],
                    [place, place],
                    color=colour,
                    linewidth=4,
                    alpha=0.4,
                    solid_capstyle="butt",
                )
            axes.plot(
                [found["accuracy"]],
                [place],
                marker="o" if student else "s",
                markersize=7,
                color=colour,
                markeredgecolor="white",
            )
        for ceiling in ceilings:
            axes.axvline(ceiling, color=style.RED, linestyle=(0, (4, 3)), linewidth=1.4)
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
        axes.set_yticks(range(len(rows)), [f"{row['name']} · {row['stage']}" for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        arrow = "; arrow = far below" if len(shown) < len(rows) else ""
        axes.set_xlabel(f"accuracy; bars are 95 % intervals; the axis does not start at 0{arrow}")
    return made.data


FAR_BELOW = 0.25


def reliability(bins: Sequence[Row], calibrated: Sequence[Row] | None = None) -> bytes:
    """Plot a reliability diagram of equal-mass bins (evaluation.metrics), before and after calibration."""
    series = [("as scored", bins, style.ORANGE, "s")]
    if calibrated:
        series.append(("after temperature scaling", calibrated, style.BLUE, "o"))
    if not bins:
        return style.no_data("Reliability", "nothing was scored")
    with style.canvas(3.95, 3.5) as made:
        axes = made.axes("Does confidence mean what it says?", "both")
        low = min(min(row["confidence"], row["accuracy"]) for _, rows, _, _ in series for row in rows)
        low = max(0.0, low - 0.04)
        axes.plot([low, 1], [low, 1], color=style.GREY, linewidth=1, linestyle=(0, (4, 3)))
        for name, rows, colour, marker in series:
            axes.plot(
                [row["confidence"] for row in rows],
                [row["accuracy"] for row in rows],
                marker=marker,
                markersize=5,
                linewidth=1.6,
                color=colour,
                label=name,
            )
        axes.set_xlabel("mean confidence of a bin")
        axes.set_ylabel("accuracy of the bin")
        axes.set_xlim(low, 1.01)
        axes.set_ylim(low, 1.01)
        axes.legend(loc="upper left")
    return made.data


def cost(report: Row) -> bytes:
    """Plot dollars by track: billed here, and hypothetical for the same tokens elsewhere (cost_report)."""
    rows = [row for row in report["rows"] if row["track"] != "all"]
    if not rows:
        return style.no_data("Cost of the answers", "no track was made")
    kinds = [
        ("billed here", "billed_usd", style.GREEN),
        ("hypothetical: gpt-4o-mini", "hypothetical_sync_usd", style.BLUE),
        ("hypothetical: its Batch API", "hypothetical_batch_usd", style.SKY),
    ]
    with style.canvas(6.8, 1.2 + 0.75 * len(rows)) as made:
        axes = made.axes("Cost of the teacher's answers", "x")
        for offset, (name, key, colour) in enumerate(kinds):
            places = [place + (offset - 1) * 0.26 for place in range(len(rows))]
            values = [row[key] or 0.0 for row in rows]
            axes.barh(places, values, height=0.24, color=colour, label=name)
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    tables.dollars(value),
                    (value, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axes.set_yticks(range(len(rows)), [f"{row['track']} · {row['stage']}" for row in rows])
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel("US dollars")
        style.legend_below(made.figure, axes, 3)
    return made.data


def inference_ladder(rungs: Sequence[Row]) -> bytes:
    """Plot milliseconds per flow of each benchmark variant that ran, on a log axis (inference.benchmark)."""
    rows = [rung for rung in rungs if rung["run"]]
    if not rows:
        return style.no_data("Time a flow", "no rung was measured")
    marked = any(rung.get("seconds_p95") for rung in rows)
    with style.canvas(6.8, 1.05 + 0.36 * len(rows)) as made:
        axes = made.axes("Time a flow, rung by rung", "x")
        for place, rung in enumerate(rows):
            milliseconds = 1000 * seconds_a_flow(rung)
            explains = rung["rung"].startswith("explanation")
            axes.barh(place, milliseconds, height=0.6, color=style.SKY if explains else style.BLUE)
            end = milliseconds
            if rung.get("seconds_p95"):
                end = max(end, 1000 * rung["seconds_p95"])
                axes.plot(
                    [1000 * rung["seconds_p95"]], [place], marker="|", markersize=12, markeredgewidth=2, color=style.RED
                )
            axes.annotate(
                f"{milliseconds:,.3g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,.3g} s",
                (end, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set_xscale("log")
        axes.margins(x=0.2)
        axes.set_yticks(range(len(rows)), [rung["rung"] for rung in rows])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("milliseconds a flow, log scale" + ("; mark = p95 of single requests" if marked else ""))
    return made.data


def seconds_a_flow(rung: Row) -> float:
    """Return seconds per flow: the median of single calls if timed, else the inverse of the throughput."""
    return float(rung["seconds_p50"] if rung.get("seconds_p50") else 1 / rung["flows_per_second"])
