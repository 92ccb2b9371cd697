"""First chapters of the report: banner on what is not real, results, about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iot_pipeline.reporting import comparison, figures
from iot_pipeline.reporting.blocks import Section
from iot_pipeline.reporting.measured import embedded_teacher, simulated
from iot_pipeline.reporting.tables import Column

Context = Mapping[str, Any]


def banner(context: Context) -> list[dict[str, str]]:
    """Return banner texts on what is not real in this lake, computed from the settings of its artefacts."""
    used = context.get("used") or {}
    marks = []
    if simulated(used):
        marks.append(
            {
                "name": "SIMULATED data",
                "text": (
                    "The flows were simulated after the data set's published figures; no network was"
                    " captured. Figures about data show that the method works, not how Farm-Flow is."
                ),
            }
        )
    if embedded_teacher(context):
        marks.append(
            {
                "name": "EMBEDDED teacher",
                "text": ("The answers were written by a rule-based analyst that runs with the project. None is GPT's."),
            }
        )
    if used.get("base_model") == "tiny":
        marks.append(
            {
                "name": "TINY base",
                "text": (
                    "The student starts from a small Qwen2 that was built and pre-trained here on unlabelled"
                    " flows. It is no pre-trained language model, and its prose is that of its teacher."
                ),
            }
        )
    return marks


def about(context: Context) -> Section:
    """Build the about chapter: purpose of the report, and the data, models and settings used."""
    section = Section("about", "What this is")
    spec, used = context.get("spec") or {}, context.get("used") or {}
    section.text(
        "Network flows of IoT devices are turned into a small language model that names the attack and says"
        " why. This report holds what was measured on the way, and sets it beside what earlier work claims."
        " Every number is computed from artefacts; the last chapter leads from each of them to data version,"
        " prompt, settings, seed and code."
    )
    facts: list[dict[str, Any]] = [
        {"what": "data set", "value": spec.get("title") or used.get("dataset")},
        {"what": "source of the rows", "value": "simulator of this project" if simulated(used) else used.get("source")},
        {"what": "cite as", "value": spec.get("citation")},
        {
            "what": "data DOI and licence",
            "value": "; ".join(str(v) for v in (spec.get("doi"), spec.get("licence")) if v),
        },
        {"what": "teacher", "value": used.get("teacher")},
        {"what": "student's base", "value": used.get("base_model")},
        {"what": "flow text", "value": used.get("serialisation")},
        {"what": "order of an answer", "value": used.get("answer_order")},
        {"what": "seed", "value": used.get("seed")},
    ]
    rows = [fact for fact in facts if fact["value"] not in (None, "")]
    section.table(rows, [Column("what", "", str), Column("value", "used here", str)])
    section.items([str(label) for label in context.get("labels") or []])
    return section


def results(context: Context) -> Section:
    """Build the results chapter: headline figures, verdicts, tables and the accuracy figure."""
    section = Section("results", "Results")
    found = context.get("track_comparison")
    if not found:
        section.missing("track_comparison")
        return section
    view = found["view"]
    section.cards(_cards(context, found, view))
    section.items(found["verdicts"])
    section.table(
        comparison.flat_rows(found, view),
        comparison.columns(view),
        "Every student and baseline on the same held-out flows, which share no prompt with training. Main"
        f' view: {comparison.VIEWS[view]}. Brackets: 95 % cluster-bootstrap intervals. "Of AutoML" is of its fixed,'
        " reproducible configuration on the same rows.",
        "track_comparison",
    )
    section.table(
        comparison.flat_rows(found, view),
        comparison.view_columns(),
        "The three views. row: every row counts, so frequent flows weigh most. distinct: every distinct flow"
        " counts once. clean: distinct flows with one label only.",
        "track_comparison",
    )
    section.figure(
        figures.accuracy(found, view),
        "Dot plot of accuracy with 95 % intervals of each track and baseline, with the ceiling as a dashed line",
        "Circles are students, squares are baselines; the dashed line is what no function of the flow text can pass.",
        "track_comparison",
    )
    return section


def _cards(context: Context, found: Mapping[str, Any], view: str) -> list[dict[str, str]]:
    cards = []
    students = [row for row in found["rows"] if row["kind"] == "student" and row["views"].get(view)]
    if students:
        best = max(students, key=lambda row: row["views"][view]["accuracy"])
        scored = best["views"][view]
        cards.append(
            {
                "value": f"{100 * scored['accuracy']:.1f} %",
                "label": "best student's accuracy",
                "note": f"{best['name']}, {best['stage']}; {comparison.VIEWS[view]}",
            }
        )
        if scored["ratio_to_automl"] is not None:
            cards.append(
                {
                    "value": f"{scored['ratio_to_automl']:.3f}",
                    "label": "of AutoML's accuracy",
                    "note": "same rows, same test flows",
                }
            )
        cards.append(
            {
                "value": f"{100 * scored['ceiling']:.1f} %",
                "label": "ceiling",
                "note": "equal flows bear different labels",
            }
        )
    if report := context.get("dedup_report"):
        cards.append(
            {
                "value": f"{100 * report['raw']['duplicate_share']:.1f} %",
                "label": "of rows repeat a flow",
                "note": f"{report['raw']['distinct']:,} distinct of {report['rows']:,}",
            }
        )
    return cards
