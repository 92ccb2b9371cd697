"""Comparison of tracks and baselines, stage by stage, with verdicts in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import tables
from iot_pipeline.reporting.tables import Column
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


def split_key(key: str | tuple[str, str]) -> tuple[str, str]:
    """Split a key into (stage, track): a tuple, or a partition key such as `10K|original`."""
    return Partition.parse(key) if isinstance(key, str) else key


def track_comparison(
    evals: Mapping[Any, Evaluation],
    baselines: Mapping[str, Mapping[str, Evaluation]],
    paired: Sequence[Mapping[str, Any]] = (),
    trained_rows: Mapping[str, int] | None = None,
    view: str = "distinct",
) -> dict[str, Any]:
    """Compare every student and baseline in the three views.

    Args:
        evals: (stage, track) or `stage|track` -> evaluate_predictions result.
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
    students = {split_key(key): value for key, value in evals.items()}
    rows = [
        _row("student", track, stage, found, baselines, trained_rows or {})
        for (stage, track), found in sorted(students.items(), key=lambda item: (_place(item[0][0]), _turn(item[0][1])))
    ]
    for stage in sorted(baselines, key=_place):
        names = sorted(
            baselines[stage],
            key=lambda name: (name not in BASELINES, list(BASELINES).index(name) if name in BASELINES else 0, name),
        )
        rows += [
            _row("baseline", BASELINES.get(name, name), stage, baselines[stage][name], baselines, trained_rows or {})
            for name in names
        ]
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


def _turn(track: str) -> int:
    return TRACKS.index(track) if track in TRACKS else len(TRACKS)


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


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
            f" {tables.accuracy(headline['accuracy'], headline['low'], headline['high'])}; the best student"
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
    reached = tables.accuracy(scored["accuracy"], scored["low"], scored["high"])
    opening = f"The best student is {best['name']} at {best['stage']}: accuracy {reached} ({VIEWS[view]})"
    automl = _find(rows, "AutoML", best["stage"], view)
    if automl is None:
        return f"{opening}; AutoML has not been trained on the same rows in this lake."
    ratio = scored["ratio_to_automl"]
    verdict = "meets" if ratio >= BAR else "misses"
    other = tables.accuracy(automl["accuracy"], automl["low"], automl["high"])
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
    difference = tables.signed(found["difference"], low, high)
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


def columns(view: str = "distinct") -> list[Column]:
    """Return the columns of `flat_rows`."""
    return [
        Column("name"),
        Column("stage"),
        Column("trained_rows", "training rows", tables.whole, True),
        Column("accuracy", f"accuracy [95 %], {view}", numeric=True),
        Column("macro_f1", "macro-F1 [95 %]", numeric=True),
        Column("ceiling", "ceiling", tables.accuracy, True),
        Column("ratio_to_automl", "of AutoML, same rows", _three, True),
        Column("ece", "ECE", tables.accuracy, True),
    ]


def view_columns() -> list[Column]:
    """Return the columns of `flat_rows` that show the three views side by side."""
    return [
        Column("name"),
        Column("stage"),
        *(Column(f"{view}_{key}", f"{key}, {view}", numeric=True) for view in VIEWS for key in ("accuracy", "ceiling")),
    ]


def _three(value: float | None) -> str:
    return tables.MISSING if value is None else f"{value:.3f}"


def flat_rows(comparison: Mapping[str, Any], view: str = "distinct") -> list[dict[str, Any]]:
    """Flatten a comparison to one row per student or baseline, ready for tables.py with `columns`."""
    flat = []
    for row in comparison["rows"]:
        scored = row["views"].get(view) or {}
        flat.append(
            {
                "name": row["name"],
                "stage": row["stage"],
                "trained_rows": row["trained_rows"],
                "accuracy": _with_interval(scored),
                "macro_f1": tables.accuracy(
                    scored.get("macro_f1"), scored.get("macro_f1_low"), scored.get("macro_f1_high")
                ),
                "ceiling": scored.get("ceiling"),
                "ratio_to_automl": scored.get("ratio_to_automl"),
                **{f"{other}_accuracy": _with_interval(row["views"].get(other) or {}) for other in VIEWS},
                **{
                    f"{other}_ceiling": tables.accuracy((row["views"].get(other) or {}).get("ceiling"))
                    for other in VIEWS
                },
                "ece": scored.get("ece"),
                "row_class": row["kind"],
            }
        )
    return flat


def _with_interval(scored: Mapping[str, Any]) -> str:
    return tables.accuracy(scored.get("accuracy"), scored.get("low"), scored.get("high"))


def results_table(comparison: Mapping[str, Any], view: str | None = None) -> list[dict[str, str]]:
    """Format the results as rows of text by heading, for the terminal and Dagster's tables."""
    view = view or comparison["view"]
    return tables.plain_rows(flat_rows(comparison, view), columns(view))
