"""Comparison of tracks and baselines, stage by stage, with verdicts in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import formats
from iot_pipeline.vocabulary import STAGES, TRACKS, VIEWS, Partition

# `automl` is the fixed configuration: the one that gives the same models again is what students are held against.
BASELINES = {
    "automl": "AutoML",
    "automl_medium_quality": "AutoML medium_quality (not reproducible)",
    "automl_best_quality": "AutoML best_quality (not reproducible)",
    "lightgbm": "LightGBM",
    "hash_lookup": "hash lookup",
}
BAR = 0.90
"""Share of AutoML's accuracy on the same rows that the best student has to reach."""

Evaluation = Mapping[str, Any]


def track_comparison(
    evals: Mapping[Partition, Evaluation],
    baselines: Mapping[str, Mapping[str, Evaluation]],
    paired: Sequence[Mapping[str, Any]] = (),
    trained_rows: Mapping[str, int] | None = None,
    view: str = "distinct",
) -> dict[str, Any]:
    """Compare every student and baseline in the three views.

    Args:
        evals: Stage and track -> evaluate_predictions result.
        baselines: Stage -> model (`automl`, `lightgbm`, `hash_lookup`, ...) -> evaluate_predictions result.
        paired: compare_predictions results with `stage`, `first` and `second` added.
        trained_rows: Stage -> training rows.
        view: The view that verdicts are based on.

    Returns:
        {rows, paired, verdicts, view, bar, passes_bar}. A row is {kind, name, stage, trained_rows, log_loss, views:
        {view: {accuracy, low, high, macro_f1, macro_f1_low, macro_f1_high, ceiling, share_of_ceiling, ece,
        ratio_to_automl (same rows), ratio_to_automl_all} or None}}. passes_bar is None if no student shares a stage
        with AutoML.
    """
    order = sorted(evals, key=lambda student: (STAGES.index(student.stage), TRACKS.index(student.track)))
    found = [("student", student.track, student.stage, evals[student]) for student in order] + [
        ("baseline", BASELINES[name], stage, baselines[stage][name])
        for stage in sorted(baselines, key=STAGES.index)
        for name in sorted(baselines[stage], key=list(BASELINES).index)
    ]
    rows = [_row(*item, baselines, trained_rows or {}) for item in found]
    best = _best(rows, view)
    ratio = best["views"][view]["ratio_to_automl"] if best else None
    return {
        "rows": rows,
        "paired": [dict(item) for item in paired],
        "verdicts": verdicts(rows, paired, view),
        "view": view,
        "bar": BAR,
        "passes_bar": None if ratio is None else ratio >= BAR,
    }


def _row(
    kind: str,
    name: str,
    stage: str,
    found: Evaluation,
    baselines: Mapping[str, Mapping[str, Evaluation]],
    trained_rows: Mapping[str, int],
) -> dict[str, Any]:
    views: dict[str, Any] = {}
    for view in VIEWS:
        scored = found["views"].get(view)
        if scored is None:
            views[view] = None
            continue
        low, high = scored["intervals"]["accuracy"] or (None, None)
        f1_low, f1_high = scored["intervals"]["macro_f1"] or (None, None)
        views[view] = {
            "accuracy": scored["accuracy"],
            "low": low,
            "high": high,
            "macro_f1": scored["macro_f1"],
            "macro_f1_low": f1_low,
            "macro_f1_high": f1_high,
            "ceiling": scored["ceiling"],
            "share_of_ceiling": scored["accuracy"] / scored["ceiling"],
            "ece": (scored.get("calibrated") or scored).get("ece"),
            "ratio_to_automl": _ratio(scored["accuracy"], baselines, stage, view),
            "ratio_to_automl_all": _ratio(scored["accuracy"], baselines, "ALL", view),
        }
    distinct = found["views"].get("distinct") or {}
    return {
        "kind": kind,
        "name": name,
        "stage": stage,
        "trained_rows": trained_rows.get(stage),
        "log_loss": (distinct.get("calibrated") or distinct).get("log_loss"),
        "views": views,
    }


def _ratio(accuracy: float, baselines: Mapping[str, Mapping[str, Evaluation]], stage: str, view: str) -> float | None:
    scored = (baselines.get(stage, {}).get("automl") or {"views": {}})["views"].get(view)
    return accuracy / scored["accuracy"] if scored and scored["accuracy"] else None


def _best(rows: Sequence[Mapping[str, Any]], view: str) -> Mapping[str, Any] | None:
    """Return the student closest to AutoML on the same rows; by accuracy where there is no AutoML."""
    students = [row for row in rows if row["kind"] == "student" and row["views"].get(view)]
    return max(
        students,
        key=lambda row: (row["views"][view]["ratio_to_automl"] or 0, row["views"][view]["accuracy"]),
        default=None,
    )


def verdicts(
    rows: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]], view: str = "distinct"
) -> list[str]:
    """Derive verdict sentences from the numbers: bar, paired tests of tracks, ceiling, memorisation."""
    best = _best(rows, view)
    if best is None:
        return ["No student has been evaluated in this lake, so there is nothing to compare."]
    said = [_against_automl(best, rows, view)]
    headline = _find(rows, "AutoML", "ALL", view)
    if headline:
        share = best["views"][view]["accuracy"] / headline["accuracy"]
        said.append(
            "AutoML trained on the whole train pool reaches"
            f" {formats.accuracy(headline['accuracy'], headline['low'], headline['high'])}; the best student"
            f" reaches {100 * share:.1f} % of that."
        )
    scored = best["views"][view]
    gap = 100 * (scored["ceiling"] - scored["accuracy"])
    said.append(
        f"No function of the flow text can pass {scored['ceiling']:.4f} here, because the same text carries"
        f" different labels; the best student is {gap:.2f} percentage points below."
    )
    said += [_paired_sentence(item, view) for item in paired if item["views"].get(view)]
    if not paired and sum(row["kind"] == "student" for row in rows) > 1:
        said.append(_spread(rows, best["stage"], view))
    lookup = _find(rows, "hash lookup", best["stage"], view)
    if lookup:
        more = 100 * (scored["accuracy"] - lookup["accuracy"])
        compared = "more than" if more > 0 else "less than"
        said.append(
            f"Looking flows up by their text reaches {lookup['accuracy']:.4f} at the same stage; the best"
            f" student gets {abs(more):.2f} percentage points {compared} that on flows it has never seen."
        )
    return said


def _against_automl(best: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], view: str) -> str:
    scored = best["views"][view]
    reached = formats.accuracy(scored["accuracy"], scored["low"], scored["high"])
    opening = f"The best student is {best['name']} at {best['stage']}: accuracy {reached} ({VIEWS[view]})"
    automl = _find(rows, "AutoML", best["stage"], view)
    if automl is None:
        return f"{opening}; AutoML has not been trained on the same rows in this lake."
    ratio = scored["ratio_to_automl"]
    verdict = "meets" if ratio >= BAR else "misses"
    other = formats.accuracy(automl["accuracy"], automl["low"], automl["high"])
    return (
        f"{opening}. AutoML on the same rows reaches {other}, so the student stands at {ratio:.3f} of AutoML"
        f" and {verdict} the bar of {BAR:.2f}."
    )


def _find(rows: Sequence[Mapping[str, Any]], name: str, stage: str, view: str) -> Mapping[str, Any] | None:
    for row in rows:
        if row["kind"] == "baseline" and row["name"] == name and row["stage"] == stage:
            return row["views"].get(view)
    return None


def _paired_sentence(item: Mapping[str, Any], view: str) -> str:
    found = item["views"][view]
    low, high = found["interval"]
    difference = formats.signed(found["difference"], low, high)
    pair = f"{item['first']} minus {item['second']} at {item['stage']}: {difference}"
    p = item["mcnemar"]["p_exact"]
    test = f"McNemar p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'}"
    if not found["excludes_zero"]:
        return f"{pair}; the interval holds zero, so no difference is shown ({test})."
    better = item["first"] if found["difference"] > 0 else item["second"]
    return f"{pair}; {better} is better and the interval excludes zero ({test})."


def _spread(rows: Sequence[Mapping[str, Any]], stage: str, view: str) -> str:
    found = [
        (row["views"][view], row["name"])
        for row in rows
        if row["kind"] == "student" and row["stage"] == stage and row["views"].get(view)
    ]
    values = [scored["accuracy"] for scored, _ in found]
    return (
        f"The {len(found)} tracks at {stage} lie within {100 * (max(values) - min(values)):.2f} percentage"
        " points of each other; no paired test was made, so their order proves nothing."
    )


def results_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparison as flat rows for terminal and UI: model, stage, accuracy in the views, ceilings."""
    rows = []
    for row in result["rows"]:
        distinct, by_row = row["views"]["distinct"], row["views"]["row"]
        rows.append(
            {
                "model": row["name"],
                "stage": row["stage"],
                "accuracy, distinct flows": formats.accuracy(distinct["accuracy"], distinct["low"], distinct["high"]),
                "ceiling": distinct["ceiling"],
                "of AutoML": distinct["ratio_to_automl"],
                "macro-F1": formats.accuracy(distinct["macro_f1"], distinct["macro_f1_low"], distinct["macro_f1_high"]),
                "accuracy, rows": formats.accuracy(by_row["accuracy"], by_row["low"], by_row["high"]),
                "row ceiling": by_row["ceiling"],
            }
        )
    return rows
