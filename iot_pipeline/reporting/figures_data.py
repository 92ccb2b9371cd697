"""Figures of the data: duplicates, class profiles, leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import style

Row = Mapping[str, Any]


def duplicates(report: Row) -> bytes:
    """Plot the share of duplicate rows by class, next to the published share (dedup_report JSON)."""
    classes = report["by_class"]
    names = sorted(classes, key=lambda name: classes[name]["duplicate_share_raw"])
    if not names:
        return style.no_data("Duplicate rows by class", "no class has rows")
    with style.canvas(6.8, 0.9 + 0.42 * len(names)) as made:
        axes = made.axes("Rows that repeat an earlier flow of their class", "x")
        places = range(len(names))
        shares = [100 * classes[name]["duplicate_share_raw"] for name in names]
        axes.barh(places, shares, height=0.62, color=style.BLUE, label="measured here, exact values")
        axes.scatter(
            [100 * classes[name]["duplicate_share_text"] for name in names],
            places,
            marker="|",
            s=150,
            color=style.ORANGE,
            linewidths=2.5,
            zorder=3,
            label="measured here, same prompt text",
        )
        published = [(place, classes[name]["published_share"]) for place, name in enumerate(names)]
        known = [(place, 100 * share) for place, share in published if share is not None]
        if known:
            axes.scatter(
                [share for _, share in known],
                [place for place, _ in known],
                marker="D",
                s=34,
                facecolor="white",
                edgecolor=style.INK,
                linewidths=1.4,
                zorder=4,
                label="published",
            )
        for place, (name, share) in enumerate(zip(names, shares, strict=True)):
            inside = share > 14
            marks = [classes[name]["duplicate_share_text"], classes[name]["published_share"] or 0.0]
            axes.text(
                1.5 if inside else 2.5 + max(share, *(100 * mark for mark in marks)),
                place,
                f"{share:.1f}",
                color="white" if inside else style.INK,
                va="center",
                fontsize=8.5,
            )
        axes.set_yticks(places, names)
        axes.set_xlim(0, 103)
        axes.set_xlabel("% of the class's rows")
        style.legend_below(made.figure, axes, 3)
    return made.data


def profile(table: Any, features: Sequence[str] | None = None, classes: Sequence[str] | None = None) -> bytes:
    """Plot quartile bars: one panel per feature, one bar per class from 25 % to 75 % with the median marked.

    `table`: the table of quality.profile.flow_profile, as a DataFrame or rows; `features`: default `telling_features`.
    """
    rows = table.to_dict("records") if hasattr(table, "to_dict") else list(table)
    found = {(row["class"], row["feature"]): row for row in rows}
    names = list(classes or dict.fromkeys(row["class"] for row in rows if row["class"] != "(all)"))
    features = list(features or telling_features(rows))
    if not names or not features:
        return style.no_data("Quartiles by class", "no class or no feature to show")
    columns = min(3, len(features))
    lines = -(-len(features) // columns)
    with style.canvas(6.8, 0.6 + lines * (0.7 + 0.22 * len(names))) as made:
        grid = made.figure.subplots(lines, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(features):
                axes.axis("off")
                continue
            style.dress(axes, "", "x")
            axes.set_title(features[place], fontsize=8.5, pad=5)
            _quartile_panel(axes, [found[name, features[place]] for name in names])
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="x", labelsize=7.5)
        grid[0][0].invert_yaxis()
        made.figure.supxlabel(
            "bar = 25 % to 75 % of the class's rows, line = median, diamond = published median; values as in the table",
            fontsize=8,
            color=style.GREY,
        )
    return made.data


def telling_features(rows: Sequence[Row], count: int = 6) -> list[str]:
    """Return the features whose class medians are farthest apart, in standard deviations of the feature."""
    medians: dict[str, list[float]] = {}
    spread: dict[str, float] = {}
    for row in rows:
        if row["class"] == "(all)":
            spread[row["feature"]] = row["std"]
        else:
            medians.setdefault(row["feature"], []).append(row["median"])
    score = {name: (max(values) - min(values)) / spread[name] for name, values in medians.items() if spread.get(name)}
    return sorted(score, key=lambda name: (-score[name], name))[:count]


def _quartile_panel(axes: Any, rows: Sequence[Row]) -> None:
    edge = []
    for place, row in enumerate(rows):
        colour = style.SERIES[place % len(style.SERIES)]
        low, high = row["p25"], row["p75"]
        axes.plot([low, high], [place, place], color=colour, linewidth=6, alpha=0.45, solid_capstyle="butt")
        axes.plot([row["median"]], [place], marker="|", markersize=11, markeredgewidth=2.4, color=colour)
        published = row.get("published_median")
        if published is not None and published == published:  # NaN means not published
            axes.scatter(published, place, marker="D", s=16, facecolor="white", edgecolor=style.INK, zorder=4)
            edge.append(published)
        edge += [low, high]
    low, high = min(edge), max(edge)
    margin = 0.08 * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)


def leakage(report: Row) -> bytes:
    """Plot prompt leakage and accuracy of a model and a table look-up under both splits (leakage_report JSON)."""
    table = leakage_rows(report)
    keys = [key for key in table[0] if key != "split" and any(row[key] is not None for row in table)]
    with style.canvas(6.8, 1.1 + 0.62 * len(keys)) as made:
        axes = made.axes("What a split by row lets through", "x")
        for offset, (row, colour) in enumerate(zip(table, (style.BLUE, style.ORANGE), strict=True)):
            places = [place + (offset - 0.5) * 0.38 for place in range(len(keys))]
            values = [100 * (row[key] or 0.0) for key in keys]
            axes.barh(places, values, height=0.35, color=colour, label=row["split"])
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    f"{value:.1f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
                )
        axes.set_yticks(range(len(keys)), keys)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xlabel("%")
        style.legend_below(made.figure, axes, 2)
    return made.data


def leakage_rows(report: Row) -> list[dict[str, Any]]:
    """Return one leakage row per split, with shares from 0 to 1.

    A model's accuracy is over rows, as in the prior work; None if there is no model.
    """
    rows = []
    for key, name in (("leak_free", "by flow group (here)"), ("row_wise", "by row (prior work)")):
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
