"""Figures of data and split: duplicates, published facts, class profiles, rules, sides, leakage."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from iot_pipeline.reporting import style
from iot_pipeline.vocabulary import SIDES

Row = Mapping[str, Any]
MISMATCHES_SHOWN = 18
LABEL_WIDTH = 56  # characters of each of two lines
LARGEST_DRAWN = 1e300  # axes of greater numbers, such as the largest double as a mark of no value, overflow


@style.drawn
def duplicates(report: Row) -> Any:
    """Plot the share of duplicate rows by class, next to the published share (dedup_report JSON)."""
    rows = sorted(report["by_class"].items(), key=lambda item: item[1]["duplicate_share_raw"])
    if not rows:
        return style.no_data("Duplicate rows by class", "no class has rows")
    exact, text = ([100 * found[f"duplicate_share_{key}"] for _, found in rows] for key in ("raw", "text"))
    published = [None if (share := found["published_share"]) is None else 100 * share for _, found in rows]
    height = 0.9 + style.row_height(len(rows), 0.42) * len(rows)
    axes = style.axes((6.8, height), "Rows that repeat an earlier flow of their class", "x")
    places = range(len(rows))
    axes.barh(places, exact, height=0.62, color=style.BLUE, label="measured here, exact values")
    bar = {
        "marker": "|",
        "s": 150 if not style.crowded(len(rows)) else 40,
        "color": style.ORANGE,
        "linewidths": 2.5,
        "zorder": 3,
    }
    axes.scatter(text, places, label="measured here, same prompt text", **bar)
    if known := [(share, place) for place, share in zip(places, published, strict=True) if share is not None]:
        diamond = {"marker": "D", "s": 34, "facecolor": "white", "edgecolor": style.INK, "linewidths": 1.4, "zorder": 4}
        axes.scatter(*zip(*known, strict=True), label="published", **diamond)
    for place, (share, same, said) in enumerate(zip(exact, text, published, strict=True)):
        left, colour = (1.5, "white") if share > 14 else (2.5 + max(share, same, said or 0.0), style.INK)
        size = 8.5 if not style.crowded(len(rows)) else 5.5
        axes.text(left, place, f"{share:.1f}", color=colour, va="center", fontsize=size)
    axes.set_yticks(places, [name for name, _ in rows])
    style.small_names(axes, len(rows))
    axes.set_xlim(0, 103)
    axes.set_xlabel("% of the class's rows")
    style.legend_below(axes, 3)
    return axes


@style.drawn
def mismatches(report: Row) -> Any:
    """Plot mismatches as relative differences between found and expected figures (dataset_mismatch JSON).

    The scale ends at -100 % and 100 %, and larger differences are clipped; findings without both figures are left out.
    """
    compared = ((finding["what"], relative(finding)) for finding in report["findings"])
    known = [(what, share) for what, share in compared if share is not None]
    rows = sorted(known, key=lambda row: -abs(row[1]))[:MISMATCHES_SHOWN]
    title = f"{report['disagreeing']} of {report['checked']} published facts disagree"
    if not rows and report["disagreeing"]:
        return style.no_data(title, "no difference can be put as a share: see the table")
    if not rows:
        return style.no_data("Published and found", f"all {report['checked']} facts checked agree")
    axes = style.axes((8.6, 1.0 + 0.3 * len(rows)), title, "x")
    colours = [style.ORANGE if share < 0 else style.BLUE for _, share in rows]
    axes.barh(range(len(rows)), [100 * share for _, share in rows], height=0.6, color=colours)
    style.name_rows(axes, [fill(what, LABEL_WIDTH, max_lines=2, placeholder=" …") for what, _ in rows])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.set_xlim(-105, 105)
    axes.set_xlabel("% above or below what was expected (the largest)")
    return axes


def relative(finding: Row) -> float | None:
    """Return the relative difference from the expected figure, clipped to [-1, 1].

    None if a figure is missing or the expected one is 0.
    """
    expected, found = finding["expected"], finding["found"]
    if not isinstance(expected, (int, float)) or not isinstance(found, (int, float)) or expected == 0:
        return None
    return max(-1.0, min(1.0, (found - expected) / abs(expected)))


@style.drawn
def profile(table: Any) -> Any:
    """Plot quartile bars: a panel for each telling feature, in it a bar per class from 25 % to 75 % and the median.

    `table`: the table of quality.profile.flow_profile, as a DataFrame or rows.
    """
    rows = table.to_dict("records") if hasattr(table, "to_dict") else table
    names = list(dict.fromkeys(row["class"] for row in rows if row["class"] != "(all)"))
    features = telling_features(rows)[: 3 if style.crowded(len(names)) else None]
    if not features:
        return style.no_data("Quartiles by class", "no class or no feature to show")
    found = {(row["class"], row["feature"]): row for row in rows}
    columns = min(3, len(features))
    lines = -(-len(features) // columns)
    made = style.figure(6.8, 0.6 + lines * (0.7 + style.row_height(len(names), 0.22) * len(names)))
    panels = list(made.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, feature in zip(panels, features, strict=False):
        axes.grid(True, axis="x")
        axes.tick_params(length=0)
        axes.set_title(feature, fontsize=8.5, pad=5)
        _quartile_panel(axes, [found[name, feature] for name in names])
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="x", labelsize=7.5)
        style.small_names(axes, len(names))
    for axes in panels[len(features) :]:
        axes.axis("off")
    panels[0].invert_yaxis()
    made.supxlabel(
        "bar = 25 % to 75 % of the class's rows, line = median, diamond = published median; values as in the table",
        fontsize=8,
        color=style.GREY,
    )
    return panels[0]


def telling_features(rows: Sequence[Row]) -> list[str]:
    """Return the six features whose class medians are farthest apart, in standard deviations of the feature."""
    medians: dict[str, list[float]] = {}
    for row in rows:
        if row["class"] != "(all)":
            medians.setdefault(row["feature"], []).append(row["median"])
    spread = {row["feature"]: row["std"] for row in rows if row["class"] == "(all)"}
    score = {name: (max(values) - min(values)) / spread[name] for name, values in medians.items() if spread.get(name)}
    return sorted(score, key=lambda name: (-score[name], name))[:6]


def _quartile_panel(axes: Any, rows: Sequence[Row]) -> None:
    edge = []
    for place, row in enumerate(rows):
        colour = style.SERIES[place % len(style.SERIES)]
        thick, long = (6, 11) if not style.crowded(len(rows)) else (4, 6)
        quartiles, median = [_drawable(row["p25"]), _drawable(row["p75"])], _drawable(row["median"])
        axes.plot(quartiles, [place, place], color=colour, linewidth=thick, alpha=0.45, solid_capstyle="butt")
        axes.plot([median], [place], marker="|", markersize=long, markeredgewidth=2.4, color=colour)
        published = row.get("published_median")
        if published is not None and published == published:  # NaN means not published
            axes.scatter(published, place, marker="D", s=16, facecolor="white", edgecolor=style.INK, zorder=4)
            edge.append(published)
        edge += quartiles
    margin = 0.08 * (max(edge) - min(edge)) or 0.5
    axes.set_xlim(min(edge) - margin, max(edge) + margin)


def _drawable(value: float) -> float:
    return max(-LARGEST_DRAWN, min(LARGEST_DRAWN, value))


@style.drawn
def patterns(report: Row) -> Any:
    """Plot coverage and precision of learned and prior-work rules on distinct test flows (attack_patterns JSON)."""
    told = len(style.SERIES) * len(style.MARKERS)  # colours and marks that can be told apart
    shown = min(len(report["classes"]), told)
    axes = style.axes((6.8, 3.4 + 0.25 * (shown // 3 + 1)), "Rules on distinct test flows", "both")
    classes = list(report["classes"].items())
    for place, (name, entry) in enumerate(classes[:told]):
        colour = style.SERIES[place % len(style.SERIES)]
        marker = style.MARKERS[place // len(style.SERIES)]
        axes.scatter(*_places(entry["rules"]), s=30, color=colour, marker=marker, alpha=0.8, label=name)
    if further := [rule for _, entry in classes[told:] for rule in entry["rules"]]:
        axes.scatter(*_places(further), s=14, color=style.GREY, label="further classes, see the table")
    crosses = _places(report["prior_rules"])
    axes.scatter(*crosses, marker="x", s=46, color=style.INK, label="rules from published figures")
    axes.set_xlim(-3, 104)
    axes.set_ylim(-3, 104)
    axes.set_xlabel("coverage: % of the class's flows caught")
    axes.set_ylabel("precision: % of the caught that are of the class")
    style.legend_below(axes, 3)
    return axes


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


@style.drawn
def sides(report: Row) -> Any:
    """Plot the share of each class's distinct flows on each side of the split (split.json)."""
    by_class = report["by_class"]
    names = sorted({name for found in by_class.values() for name in found})
    groups = {
        side: [by_class[side].get(name, {}).get("groups", 0) for name in names] for side in SIDES if side in by_class
    }
    totals = [sum(counts) or 1 for counts in zip(*groups.values(), strict=True)]
    height = 1.1 + style.row_height(len(names), 0.36) * len(names)
    axes = style.axes((6.8, height), "Where each class's distinct flows are", "x")
    left, crowd = [0.0] * len(names), style.crowded(len(names))
    for (side, counts), colour in zip(groups.items(), (style.LIGHT, style.SKY, style.ORANGE, style.BLUE), strict=False):
        widths = [100 * count / total for count, total in zip(counts, totals, strict=True)]
        bars = axes.barh(range(len(names)), widths, left=left, height=0.62, color=colour, label=side)
        labels = [f"{count:,}" if width > 6 else "" for count, width in zip(counts, widths, strict=True)]
        ink = "white" if colour == style.BLUE else style.INK
        axes.bar_label(bars, labels, label_type="center", fontsize=7.5 if not crowd else 5.5, color=ink)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    style.name_rows(axes, names)
    style.small_names(axes, len(names))
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the class's distinct flows (numbers: flows)")
    style.legend_below(axes, 4)
    return axes


@style.drawn
def leakage(report: Row) -> Any:
    """Plot prompt leakage and accuracy of a model and a table look-up under both splits (leakage_report JSON)."""
    rows = leakage_rows(report)
    keys = [key for key in rows[0] if key != "split" and any(row[key] is not None for row in rows)]
    axes = style.axes((6.8, 1.1 + 0.31 * len(rows) * len(keys)), "What a split by row lets through", "x")
    series = [
        # Where a split tests no such row there is no bar: an accuracy of 0 would be another thing.
        (row["split"], [math.nan if row[key] is None else 100 * row[key] for key in keys], colour)
        for row, colour in zip(rows, (style.BLUE, style.ORANGE, style.GREEN), strict=False)
    ]
    style.grouped_bars(axes, series, "{:.1f}".format)
    style.name_rows(axes, keys)
    axes.set_xlim(0, 112)
    axes.set_xlabel("%")
    style.legend_below(axes, len(rows))
    return axes


def leakage_rows(report: Row) -> list[dict[str, Any]]:
    """Return one leakage row per split, with shares from 0 to 1.

    A model's accuracy is over rows, as in the prior work; None if there is no model.
    """
    rows = []
    names = {"leak_free": "by flow group (here)", "row_wise": "by row (prior work)"}
    if "publisher" in report:
        names |= {"leak_free": "publisher's test rows (here)", "publisher": "publisher's train and test rows"}
    for key, name in names.items():
        found = report[key]
        model = found.get("model") or {}
        rows.append(
            {
                "split": name,
                "test rows whose prompt was trained on": found["shared_test_share"],
                "accuracy of a small LightGBM, rows": model.get("row"),
                "the same on flows never trained on": model.get("never_seen_rows"),
                "accuracy of a table look-up, rows": found["lookup"]["row"],
            }
        )
    return rows


def near_duplicate_rows(report: Row) -> list[dict[str, Any]]:
    """Return the shares of near-duplicates as table rows: all test flows, then each class (near_duplicates JSON)."""
    return [
        {
            "class": name,
            "test flows": found["test_flows"],
            "median distance": found["median"],
            **{f"within {most}": share for most, share in found["within"].items()},
        }
        for name, found in {"(all)": report, **report["by_class"]}.items()
    ]
