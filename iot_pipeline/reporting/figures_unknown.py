"""Figures of classes that a model never saw: AUROC by class, and risk by coverage."""

from typing import Any

import numpy as np

from iot_pipeline.reporting import style
from iot_pipeline.reporting.figures import DASHED, Row

LOOKS = ((style.BLUE, "o"), (style.ORANGE, "s"))


@style.drawn
def aurocs(result: Row) -> Any:
    """Plot the AUROC of student and baseline for each class that was left out, with 95 % intervals."""
    title = "A class that the model never saw: told from known ones?"
    classes = result["classes"]
    if not classes:
        return style.no_data(title, "no class was left out")
    axes = style.axes((6.8, 1.4 + style.row_height(len(classes), 0.4) * len(classes)), title, "x")
    for number, ((colour, marker), model) in enumerate(zip(LOOKS, models(result), strict=False)):
        for place, facts in enumerate(classes.values()):
            found = facts["models"][model]["auroc"]
            bounds = (found["low"], found["high"])
            style.interval(axes, place + 0.24 * number - 0.12, found["value"], bounds, colour, marker)
        mean = result["mean"][model]["auroc"]["value"]
        axes.plot([], [], color=colour, marker=marker, linestyle="", label=f"{model}, mean {mean:.3f}")
    axes.axvline(0.5, color=style.RED, linestyle=DASHED, linewidth=1.2)
    style.name_rows(axes, [f"{name} ({facts['flows']})" for name, facts in classes.items()])
    style.small_names(axes, len(classes))
    axes.set_xlabel("AUROC; bars are 95 % intervals; in brackets: test flows; dashed: chance")
    style.legend_below(axes, 2)
    return axes


@style.drawn
def risk_coverage(result: Row) -> Any:
    """Plot the share of wrong answers by the share of flows answered, mean over the classes that were left out."""
    title = "Wrong answers by share of flows answered"
    if not result["classes"]:
        return style.no_data(title, "no class was left out")
    axes = style.axes((6.8, 3.2), title, "both")
    for (colour, marker), model in zip(LOOKS, models(result), strict=False):
        curves = [facts["models"][model]["curve"] for facts in result["classes"].values()]
        axes.plot(result["coverages"], np.mean(curves, axis=0), color=colour, marker=marker, markersize=4, label=model)
    axes.axhline(result["risk"], color=style.RED, linestyle=DASHED, linewidth=1.2, label=f"{result['risk']:.0%} wrong")
    axes.set_xlabel("share of flows answered, the least doubtful first; an answer to a new class is wrong")
    axes.set_ylabel("share of wrong answers")
    axes.set_ylim(bottom=0)
    axes.legend()
    return axes


def models(result: Row) -> list[str]:
    """Return the models, the student first: JSON files have them by name."""
    return sorted(result["mean"], key=lambda model: model != "student")
