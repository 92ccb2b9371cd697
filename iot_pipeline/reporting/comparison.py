"""Comparison of tracks and baselines, stage by stage, with verdicts in plain words."""

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
MAIN_VIEW = "distinct"
"""The view that verdicts are based on."""
BAR = 0.90
"""Share of AutoML's accuracy on the same rows that the best student has to reach."""

Evaluation = Mapping[str, Any]


def track_comparison(
    evals: Mapping[Partition, Evaluation],
    baselines: Mapping[str, Mapping[str, Evaluation]],
    paired: Sequence[Mapping[str, Any]] = (),
    trained_rows: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Compare every student and baseline in the three views.

    Args:
        evals: Stage and track -> evaluate_predictions result.
        baselines: Stage -> model (`automl`, `lightgbm`, `hash_lookup`, ...) -> evaluate_predictions result.
        paired: compare_predictions results with `stage`, `first` and `second` added.
        trained_rows: Stage -> training rows.

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
    best = _best(rows)
    ratio = best["views"][MAIN_VIEW]["ratio_to_automl"] if best else None
    return {
        "rows": rows,
        "paired": [dict(item) for item in paired],
        "verdicts": _verdicts(rows, paired),
        "view": MAIN_VIEW,
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


def _students(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of students that were evaluated in the main view."""
    return [row for row in rows if row["kind"] == "student" and row["views"][MAIN_VIEW]]


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the student closest to AutoML on the same rows; by accuracy where there is no AutoML."""

    def rank(row: Mapping[str, Any]) -> tuple[float, float]:
        scored = row["views"][MAIN_VIEW]
        return scored["ratio_to_automl"] or 0, scored["accuracy"]

    return max(_students(rows), key=rank, default=None)


def _verdicts(rows: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]) -> list[str]:
    """Derive verdict sentences from the numbers: bar, paired tests of tracks, ceiling, memorisation."""
    best = _best(rows)
    if best is None:
        return ["No student has been evaluated in this lake, so there is nothing to compare."]
    scored, stage = best["views"][MAIN_VIEW], best["stage"]
    baselines = {(row["name"], row["stage"]): row["views"][MAIN_VIEW] for row in rows if row["kind"] == "baseline"}
    opening = f"The best student is {best['name']} at {stage}: accuracy {_accuracy(scored)} ({VIEWS[MAIN_VIEW]})"
    if automl := baselines.get(("AutoML", stage)):
        ratio = scored["ratio_to_automl"]
        said = [
            f"{opening}. AutoML on the same rows reaches {_accuracy(automl)}, so the student stands at {ratio:.3f} of"
            f" AutoML and {'meets' if ratio >= BAR else 'misses'} the bar of {BAR:.2f}."
        ]
    else:
        said = [f"{opening}; AutoML has not been trained on the same rows in this lake."]
    if headline := baselines.get(("AutoML", "ALL")):
        share = 100 * (scored["accuracy"] / headline["accuracy"])
        said.append(
            f"AutoML trained on the whole train pool reaches {_accuracy(headline)}; the best student reaches"
            f" {share:.1f} % of that."
        )
    gap = 100 * (scored["ceiling"] - scored["accuracy"])
    said.append(
        f"No function of the flow text can pass {scored['ceiling']:.4f} here, because the same text carries"
        f" different labels; the best student is {gap:.2f} percentage points below."
    )
    said += [_paired_sentence(item) for item in paired if item["views"].get(MAIN_VIEW)]
    if not paired and sum(row["kind"] == "student" for row in rows) > 1:
        values = [row["views"][MAIN_VIEW]["accuracy"] for row in _students(rows) if row["stage"] == stage]
        said.append(
            f"The {len(values)} tracks at {stage} lie within {100 * (max(values) - min(values)):.2f} percentage"
            " points of each other; no paired test was made, so their order proves nothing."
        )
    if lookup := baselines.get(("hash lookup", stage)):
        more = 100 * (scored["accuracy"] - lookup["accuracy"])
        said.append(
            f"Looking flows up by their text reaches {lookup['accuracy']:.4f} at the same stage; the best student"
            f" gets {abs(more):.2f} percentage points {'more' if more > 0 else 'less'} than that on flows it has"
            " never seen."
        )
    return said


def _paired_sentence(item: Mapping[str, Any]) -> str:
    found, p = item["views"][MAIN_VIEW], item["mcnemar"]["p_exact"]
    (low, high), gap = found["interval"], found["difference"]
    test = f"McNemar p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'}"
    pair = f"{item['first']} minus {item['second']} at {item['stage']}: {gap:+.4f} [{low:+.4f}, {high:+.4f}]"
    if not found["excludes_zero"]:
        return f"{pair}; the interval holds zero, so no difference is shown ({test})."
    better = item["first"] if gap > 0 else item["second"]
    return f"{pair}; {better} is better and the interval excludes zero ({test})."


def _accuracy(scored: Mapping[str, Any]) -> str:
    return formats.accuracy(scored["accuracy"], scored["low"], scored["high"])


def results_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparison as flat rows for terminal and UI: model, stage, accuracy in the views, ceilings."""
    rows = []
    for row in result["rows"]:
        distinct, by_row = row["views"]["distinct"], row["views"]["row"]
        macro_f1 = formats.accuracy(distinct["macro_f1"], distinct["macro_f1_low"], distinct["macro_f1_high"])
        rows.append(
            {
                "model": row["name"],
                "stage": row["stage"],
                "accuracy, distinct flows": _accuracy(distinct),
                "ceiling": distinct["ceiling"],
                "of AutoML": distinct["ratio_to_automl"],
                "macro-F1": macro_f1,
                "accuracy, rows": _accuracy(by_row),
                "row ceiling": by_row["ceiling"],
            }
        )
    return rows
