"""Comparison of tracks and baselines, stage by stage; verdicts on tracks come from the study alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.evaluation.population import estimate_population
from iot_pipeline.reporting import formats
from iot_pipeline.vocabulary import DISTILLED, STAGES, TRACKS, VIEWS, Partition

# `automl` is the fixed configuration: the one that gives the same models again is what students are held against.
BASELINES = {
    "automl": "AutoML",
    "automl_medium_quality": "AutoML medium_quality (not reproducible)",
    "automl_best_quality": "AutoML best_quality (not reproducible)",
    "lightgbm": "LightGBM",
    "nearest": "1-NN",
    "hash_lookup": "hash lookup",
    "majority": "majority class",
}
LOOKUP = BASELINES["hash_lookup"]
MAIN_VIEW = "distinct"
"""The view that sentences are about."""
RATIOS = ("accuracy", "macro_f1", "lowest_recall")

Evaluation = Mapping[str, Any]


def track_comparison(
    evals: Mapping[Partition, Evaluation],
    baselines: Mapping[str, Mapping[str, Evaluation]],
    study: Mapping[str, Any] | None = None,
    trained_rows: Mapping[str, int] | None = None,
    populations: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compare every student and baseline in the three views.

    Args:
        evals: Stage and track -> evaluate_predictions result, with that of the validation side under `validation`.
        baselines: Stage -> model (`automl`, `lightgbm`, `hash_lookup`, ...) -> evaluate_predictions result.
        study: study.json, the one source of verdicts on tracks.
        trained_rows: Stage -> training rows.
        populations: Stage -> its rows among those of the whole table (describe_population).

    Returns:
        {rows, best, verdicts, on_tracks, view, populations}. A row is {kind, name, stage, trained_rows, log_loss,
        validation_accuracy, population, views: {view: {accuracy, low, high, macro_f1, macro_f1_low, macro_f1_high,
        lowest_recall, lowest_class, ceiling, share_of_ceiling, ece, of_automl: {accuracy, macro_f1, lowest_recall}} or
        None}}, where `of_automl` is on the same rows, None without AutoML, and `population` is {seen_share, ceiling,
        low, estimate, high} over the rows of the whole table, or None.
        `best` is the name and stage of the track's student with the highest accuracy on the validation side; the
        distilled student is a row of its own. `verdicts` and `on_tracks` (the study's) are sentences.
    """
    order = sorted(evals, key=lambda student: (STAGES.index(student.stage), [*TRACKS, DISTILLED].index(student.track)))
    found = [("student", student.track, student.stage, evals[student]) for student in order] + [
        ("baseline", BASELINES[name], stage, baselines[stage][name])
        for stage in sorted(baselines, key=STAGES.index)
        for name in sorted(baselines[stage], key=list(BASELINES).index)
    ]
    populations = populations or {}
    rows = [_row(*item, baselines, trained_rows or {}, populations) for item in found]
    best = _best(rows)
    return {
        "rows": rows,
        "best": best and {"name": best["name"], "stage": best["stage"]},
        "verdicts": _sentences(rows, best) if best else [NOTHING],
        "on_tracks": _study_sentences(study, sum(student.track in TRACKS for student in evals)),
        "view": MAIN_VIEW,
        "populations": dict(populations),
    }


NOTHING = "No student has been evaluated in this lake, so there is nothing to compare."


def _row(
    kind: str,
    name: str,
    stage: str,
    found: Evaluation,
    baselines: Mapping[str, Mapping[str, Evaluation]],
    trained_rows: Mapping[str, int],
    populations: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    views: dict[str, Any] = {}
    automl = baselines.get(stage, {}).get("automl") or {"views": {}}
    for view in VIEWS:
        scored = found["views"].get(view)
        if scored is None:
            views[view] = None
            continue
        low, high = scored["intervals"]["accuracy"] or (None, None)
        f1_low, f1_high = scored["intervals"]["macro_f1"] or (None, None)
        lowest, label = lowest_recall(scored)
        views[view] = {
            "accuracy": scored["accuracy"],
            "low": low,
            "high": high,
            "macro_f1": scored["macro_f1"],
            "macro_f1_low": f1_low,
            "macro_f1_high": f1_high,
            "lowest_recall": lowest,
            "lowest_class": label,
            "ceiling": scored["ceiling"],
            "share_of_ceiling": scored["accuracy"] / scored["ceiling"],
            "ece": (scored.get("calibrated") or scored).get("ece"),
            "of_automl": _of_automl(scored, automl["views"].get(view)),
        }
    distinct, by_row = (found["views"].get(view) or {} for view in ("distinct", "row"))
    validation = (found.get("validation") or {"views": {}})["views"].get(MAIN_VIEW)
    return {
        "kind": kind,
        "name": name,
        "stage": stage,
        "trained_rows": trained_rows.get(stage),
        "log_loss": (distinct.get("calibrated") or distinct).get("log_loss"),
        "validation_accuracy": validation and validation["accuracy"],
        "population": _population(populations.get(stage), by_row, name),
        "views": views,
    }


def _population(population: Mapping[str, Any] | None, by_row: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """Estimate a model's accuracy over the whole table, beside the table's share of seen rows and its ceiling."""
    if not population or not by_row:
        return None
    told = {key: population[key] for key in ("seen_share", "ceiling")}
    return told | estimate_population(population, by_row, looks_up=name == LOOKUP)


def lowest_recall(scored: Mapping[str, Any]) -> tuple[float, str]:
    """Return the lowest recall among the classes of a view, and its class."""
    return min((found["recall"], name) for name, found in scored["per_class"].items() if found["support"] > 0)


def _of_automl(scored: Mapping[str, Any], automl: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    """Divide each metric by AutoML's; None for a metric that is 0 there."""
    if automl is None:
        return None
    own, others = ({**view, "lowest_recall": lowest_recall(view)[0]} for view in (scored, automl))
    return {name: own[name] / others[name] if others[name] else None for name in RATIOS}


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the student of a track with the highest accuracy on the validation side; the first of equal ones."""
    tracks = [row for row in rows if row["name"] != DISTILLED]
    chosen = [row for row in tracks if row["validation_accuracy"] is not None and row["views"][MAIN_VIEW]]
    return max(chosen, key=lambda row: row["validation_accuracy"], default=None)


def _sentences(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> list[str]:
    """Describe the student that validation chose: beside AutoML, below its ceiling, beside a lookup table."""
    scored, stage = best["views"][MAIN_VIEW], best["stage"]
    baselines = {(row["name"], row["stage"]): row["views"][MAIN_VIEW] for row in rows if row["kind"] == "baseline"}
    said = [f"Chosen on validation flows: {best['name']} at {stage}; on test flows it reaches {_three(scored)}."]
    if automl := baselines.get(("AutoML", stage)):
        ratios = ", ".join(formats.fixed(scored["of_automl"][name], 3) for name in RATIOS)
        said.append(f"AutoML on the same rows reaches {_three(automl)}; the student reaches {ratios} times these.")
    else:
        said.append("AutoML has not been trained on the same rows in this lake.")
    if headline := baselines.get(("AutoML", "ALL")):
        said.append(f"AutoML on the whole train pool reaches {_three(headline)}.")
    gap = 100 * (scored["ceiling"] - scored["accuracy"])
    ceiling = (
        f"No function of the flow text can pass {scored['ceiling']:.4f} here, because the same text carries"
        " different labels"
        if scored["ceiling"] < 1
        else "Equal test flows bear equal labels, so that a function of the flow text can reach 1.0000 here"
    )
    said.append(f"{ceiling}; this student is {gap:.2f} percentage points below.")
    if population := best["population"]:
        low, high = (f"{population[bound]:.4f}" for bound in ("low", "high"))
        said.append(
            f"Over the rows of the whole table, of which {formats.percent(population['seen_share'])} have a flow that"
            f" was trained on, its accuracy is estimated, not measured: {population['estimate']:.4f}, between {low} and"
            f" {high}; the ceiling there is {population['ceiling']:.4f}."
        )
    if lookup := baselines.get((LOOKUP, stage)):
        said.append(f"Looking flows up by their text reaches {lookup['accuracy']:.4f}: test flows were never seen.")
    return said


def _study_sentences(study: Mapping[str, Any] | None, students: int) -> list[str]:
    """Return the study's verdicts on tracks as sentences; without several seeds, one that there is no verdict."""
    if students < 2:
        return []
    if study is None:
        return ["No verdict on tracks: the study has not been made in this lake."]
    if study["seeds"] < 2:
        return [
            "One seed: no verdict on tracks. Another training seed can turn their order round; IOT_SEEDS=1,2,3,4,5"
            " trains five, and the study compares them."
        ]
    return [_contrast(row, study) for row in study["contrasts"] if _is_track(row["first"]) and _is_track(row["second"])]


def _is_track(arm: str) -> bool:
    return arm.split()[0] in TRACKS


def _contrast(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    metric = row["metric"].replace("_f1", "-F1")
    return (
        f"{row['first']} minus {row['second']}, {metric} over {study['seeds']} seeds: {row['difference']:+.4f}"
        f" [{row['low']:+.4f}, {row['high']:+.4f}], spread of training {row['spread']:.4f}: {row['verdict']}."
    )


def _three(scored: Mapping[str, Any]) -> str:
    macro_f1 = formats.accuracy(scored["macro_f1"], scored["macro_f1_low"], scored["macro_f1_high"])
    lowest = f"{scored['lowest_recall']:.3f} ({scored['lowest_class']})"
    return f"accuracy {_accuracy(scored)}, macro-F1 {macro_f1} and a lowest recall of {lowest}"


def _accuracy(scored: Mapping[str, Any]) -> str:
    return formats.accuracy(scored["accuracy"], scored["low"], scored["high"])


def results_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparison as flat rows for terminal and UI: metrics of distinct flows, ratios to AutoML, ceilings."""
    rows = []
    for row in result["rows"]:
        distinct, by_row = row["views"]["distinct"], row["views"]["row"]
        ratios = distinct["of_automl"] or dict.fromkeys(RATIOS)
        rows.append(
            {
                "model": row["name"],
                "stage": row["stage"],
                "accuracy, distinct flows": _accuracy(distinct),
                "of AutoML": ratios["accuracy"],
                "macro-F1": formats.accuracy(distinct["macro_f1"], distinct["macro_f1_low"], distinct["macro_f1_high"]),
                "F1 of AutoML": ratios["macro_f1"],
                "lowest recall": f"{distinct['lowest_recall']:.3f} {distinct['lowest_class']}",
                "recall of AutoML": ratios["lowest_recall"],
                "accuracy, rows": _accuracy(by_row),
                "ceiling": distinct["ceiling"],
                "row ceiling": by_row["ceiling"],
            }
        )
    return rows
