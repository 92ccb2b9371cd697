"""Report chapter on baselines: the AutoML that students are compared with, and its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iot_pipeline.reporting import tables
from iot_pipeline.reporting.blocks import Section
from iot_pipeline.reporting.comparison import BASELINES
from iot_pipeline.reporting.sections_data import published
from iot_pipeline.reporting.tables import Column
from iot_pipeline.vocabulary import STAGES

Context = Mapping[str, Any]
IMPORTANCES_SHOWN = 10
TOLD = {"macro_f1": "macro-F1"}
ASSET = "automl_baseline"


def baselines(context: Context) -> Section:
    """Build the baselines chapter: configurations, models, time, calibration, importances, published scores."""
    section = Section("baselines", "Baselines")
    found = context.get("baselines") or {}
    if not found:
        section.missing(ASSET)
        return section
    section.text(
        "Students are held against AutoML's fixed configuration: rounds, trees and seeds are set and nothing looks at"
        " the clock, so the same rows give the same models. AutoGluon's own presets stop when their time is up; what"
        " they reach depends on the machine and is not reproducible, so they stand beside it and no student is measured"
        " by them. All get the student's rows; probabilities are calibrated by one temperature, fitted on the"
        " calibration side."
    )
    rows = [
        _line(stage, name, found[stage][name])
        for stage in sorted(found, key=lambda key: (key not in STAGES, STAGES.index(key) if key in STAGES else 0))
        for name in sorted(found[stage], key=lambda key: (key not in BASELINES, [*BASELINES, key].index(key)))
    ]
    section.table(rows, _columns(), "Baselines by stage. Log-loss of distinct test flows. Times are of the machine"
                  " that made them.", ASSET)  # fmt: skip
    _importances(section, found)
    _published(section, context)
    return section


def _line(stage: str, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of the baseline table; cells missing from the evaluation are None."""
    model, timings = result.get("model") or {}, result.get("timings") or {}
    config = model.get("config") or {}
    distinct = result["views"].get("distinct") or {}
    limited = config.get("preset", "fixed") != "fixed"
    return {
        "baseline": BASELINES.get(name, name),
        "stage": stage,
        "again": "no" if limited else "yes",
        "models": ", ".join(entry["model"] for entry in model.get("models") or []),
        "limit": config["seconds"] if limited else None,
        "taken": timings.get("total_s"),
        "accuracy": distinct.get("accuracy"),
        "of_ceiling": distinct.get("share_of_ceiling"),
        "before": distinct.get("log_loss"),
        "after": (distinct.get("calibrated") or {}).get("log_loss"),
        "temperature": result.get("temperature"),
    }


def _columns() -> list[Column]:
    return [
        Column("baseline"),
        Column("stage"),
        Column("again", "reproducible"),
        Column("models", "models trained"),
        Column("limit", "time limit", tables.seconds, True),
        Column("taken", "time taken", tables.seconds, True),
        Column("accuracy", "accuracy, distinct", tables.accuracy, True),
        Column("of_ceiling", "of its ceiling", tables.percent, True),
        Column("before", "log-loss", tables.accuracy, True),
        Column("after", "log-loss, calibrated", tables.accuracy, True),
        Column("temperature", write=tables.accuracy, numeric=True),
    ]


def _importances(section: Section, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the features that AutoML relies on most, at its largest stage."""
    made = [stage for stage in STAGES if (found.get(stage, {}).get("automl", {}).get("model") or {}).get("importances")]
    if not made:
        return
    importances = found[made[-1]]["automl"]["model"]["importances"]
    ranked = sorted(importances.items(), key=lambda item: (-item[1], item[0]))[:IMPORTANCES_SHOWN]
    section.table(
        [{"feature": name, "rise": rise} for name, rise in ranked],
        [Column("feature"), Column("rise", "rise of the log-loss", tables.accuracy, True)],
        f"What AutoML relies on, {made[-1]}: by how much the log-loss of validation flows rises when the feature is"
        " shuffled among them.",
        ASSET,
    )


def _published(section: Section, context: Context) -> None:
    """Add published scores of classical models next to AutoML's on the whole train pool."""
    whole = ((context.get("baselines") or {}).get("ALL") or {}).get("automl")
    if whole is None:
        return
    rows = []
    if (forest := published(context, "random_forest_distinct")) and (ours := whole["views"].get("distinct")):
        rows += [
            {"what": f"random forest, {TOLD.get(key, key)} over distinct flows", "published": value,
             "here": ours[key]}
            for key, value in forest.items()
        ]  # fmt: skip
    if (scores := published(context, "binary_test_f1")) and (ours := whole["views"].get("row")):
        attack = ours["per_class"].get("Attack") or {}
        rows += [
            {"what": f"{name.replace('_', ' ')}, binary F1 (of attacks, over rows)", "published": value,
             "here": attack.get("f1")}
            for name, value in scores.items()
        ]  # fmt: skip
    section.table(
        rows,
        [
            Column("what", "published for"),
            Column("published", write=tables.accuracy, numeric=True),
            Column("here", "AutoML here", tables.accuracy, True),
        ],
        "Published scores beside AutoML's on the whole train pool. They were measured on other splits, so the two"
        " columns are neighbours, not a test.",
        ASSET,
    )
