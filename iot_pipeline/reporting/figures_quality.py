"""Figures of published facts and class differences: mismatches, rules, samples, sides of the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import style
from iot_pipeline.vocabulary import SIDES

Row = Mapping[str, Any]
MISMATCHES_SHOWN = 18
LONGEST_LABEL = 78


def mismatches(report: Row) -> bytes:
    """Plot mismatches as relative differences between found and expected figures (dataset_mismatch JSON).

    The scale ends at -100 % and 100 %, and larger differences are clipped; findings without both figures are left out.
    """
    compared = ((finding["what"], relative(finding)) for finding in report["findings"])
    known = [(what, share) for what, share in compared if share is not None]
    rows = sorted(known, key=lambda row: -abs(row[1]))[:MISMATCHES_SHOWN]
    if not rows:
        return style.no_data("Published and found", f"all {report['checked']} facts checked agree")
    with style.canvas(7.6, 1.0 + 0.25 * len(rows)) as made:
        axes = made.axes(f"{report['disagreeing']} of {report['checked']} published facts disagree", "x")
        colours = [style.ORANGE if share < 0 else style.BLUE for _, share in rows]
        axes.barh(range(len(rows)), [100 * share for _, share in rows], height=0.6, color=colours)
        axes.set_yticks(range(len(rows)), [shortened(what) for what, _ in rows], fontsize=7)
        axes.invert_yaxis()
        axes.axvline(0, color=style.GREY, linewidth=0.8)
        axes.set_xlim(-105, 105)
        axes.set_xlabel("% above or below what was expected (the largest)")
    return made.data


def relative(finding: Row) -> float | None:
    """Return the relative difference from the expected figure, clipped to [-1, 1].

    None if a figure is missing or the expected one is 0.
    """
    expected, found = finding["expected"], finding["found"]
    if not isinstance(expected, (int, float)) or not isinstance(found, (int, float)) or expected == 0:
        return None
    return max(-1.0, min(1.0, (found - expected) / abs(expected)))


def shortened(text: str) -> str:
    """Shorten a label so that its bar has room."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def patterns(report: Row) -> bytes:
    """Plot coverage and precision of learned and prior-work rules on distinct test flows (attack_patterns JSON)."""
    with style.canvas(6.8, 3.4 + 0.25 * (len(report["classes"]) // 3 + 1)) as made:
        axes = made.axes("Rules on distinct test flows", "both")
        for place, (name, entry) in enumerate(report["classes"].items()):
            across, up = _places(entry["rules"])
            axes.scatter(
                across,
                up,
                s=30,
                color=style.SERIES[place % len(style.SERIES)],
                marker=style.MARKERS[place // len(style.SERIES)],
                alpha=0.8,
                label=name,
            )
        axes.scatter(
            *_places(report["prior_rules"]), marker="x", s=46, color=style.INK, label="rules from published figures"
        )
        axes.set_xlim(-3, 104)
        axes.set_ylim(-3, 104)
        axes.set_xlabel("coverage: % of the class's flows caught")
        axes.set_ylabel("precision: % of the caught that are of the class")
        style.legend_below(made.figure, axes, 3)
    return made.data


def _places(rules: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Return coverage and precision in %: precision 0 for a rule that catches nothing, none without test flows."""
    found = [rule["distinct"] for rule in rules if rule["distinct"]["coverage"] is not None]
    return [100 * rule["coverage"] for rule in found], [100 * (rule["precision"] or 0.0) for rule in found]


def rule_rows(report: Row, most: int | None = None) -> list[dict[str, Any]]:
    """Return the learned rules as flat rows: class, rule, coverage and precision over distinct flows and over rows.

    At most `most` rules per class. A class without a rule gets a row with coverage 0.
    """
    nothing = {"coverage": 0.0, "precision": None}
    absent = {"text": "none: no part of the flows is mostly of this class", "distinct": nothing, "row": nothing}
    return [
        {"class": name, "rule": rule["text"], **_scores(rule)}
        for name, entry in report["classes"].items()
        for rule in entry["rules"][:most] or [absent]
    ]


def prior_rule_rows(report: Row) -> list[dict[str, Any]]:
    """Return the rules from published figures as flat rows, scored on the same flows."""
    return [
        {"classes": ", ".join(rule["classes"]), "rule": rule["text"], **_scores(rule), "source": rule["source"]}
        for rule in report["prior_rules"]
    ]


def _scores(rule: Row) -> dict[str, Any]:
    return {
        "coverage": rule["distinct"]["coverage"],
        "precision": rule["distinct"]["precision"],
        "coverage, rows": rule["row"]["coverage"],
        "precision, rows": rule["row"]["precision"],
    }


def samples(table: Any, classes: Sequence[str], features: Sequence[str]) -> bytes:
    """Plot sample means as a heat map of marked features by class, shaded from the lowest to the highest class.

    `table`: the table of quality.samples.sample_comparison, as a DataFrame or rows.
    """
    import numpy as np

    rows = table.to_dict("records") if hasattr(table, "to_dict") else list(table)
    if not rows or not features:
        return style.no_data("Samples", "no feature differs")
    values = np.array(
        [
            [
                np.mean(
                    [row["value"] for row in rows if row["class"] == name and row["feature"] == feature] or [np.nan]
                )
                for name in classes
            ]
            for feature in features
        ]
    )
    low, high = np.nanmin(values, axis=1, keepdims=True), np.nanmax(values, axis=1, keepdims=True)
    shade = np.divide(values - low, high - low, out=np.zeros_like(values), where=high > low)
    with style.canvas(2.4 + 0.72 * len(classes), 1.5 + 0.34 * len(features)) as made:
        axes = made.axes("Sampled flows: mean of the features that differ most")
        axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        for row in range(len(features)):
            for column in range(len(classes)):
                if not np.isnan(values[row, column]):
                    colour = "white" if shade[row, column] > 0.6 else style.INK
                    axes.text(
                        column, row, f"{values[row, column]:.3g}", ha="center", va="center", fontsize=7.5, color=colour
                    )
        axes.set_xticks(range(len(classes)), classes, rotation=38, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(features)), features)
        for side in axes.spines.values():
            side.set_visible(False)
    return made.data


def sides(report: Row) -> bytes:
    """Plot the share of each class's distinct flows on each side of the split (split.json)."""
    names = sorted({name for found in report["by_class"].values() for name in found})
    shown = [side for side in SIDES if side in report["by_class"]]
    with style.canvas(6.8, 1.1 + 0.36 * len(names)) as made:
        axes = made.axes("Where each class's distinct flows are", "x")
        left = [0.0] * len(names)
        totals = [sum(report["by_class"][side].get(name, {}).get("groups", 0) for side in shown) or 1 for name in names]
        for side, colour in zip(shown, (style.LIGHT, style.SKY, style.ORANGE, style.BLUE), strict=False):
            groups = [report["by_class"][side].get(name, {}).get("groups", 0) for name in names]
            widths = [100 * count / total for count, total in zip(groups, totals, strict=True)]
            axes.barh(range(len(names)), widths, left=left, height=0.62, color=colour, label=side)
            for place, (width, count, start) in enumerate(zip(widths, groups, left, strict=True)):
                if width > 6:
                    axes.text(
                        start + width / 2,
                        place,
                        f"{count:,}",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if colour == style.BLUE else style.INK,
                    )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the class's distinct flows (numbers: flows)")
        style.legend_below(made.figure, axes, 4)
    return made.data
