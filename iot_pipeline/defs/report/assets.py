"""Asset group report: tracks and baselines in one table, cost, claims, the paper report, model cards."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from iot_pipeline.defs.asset_page import folder_url
from iot_pipeline.defs.inputs import dropped_of, records_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.escaping import markdown_line
from iot_pipeline.evaluation.population import describe_population
from iot_pipeline.lake.atomic import read_json, write_text
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import claims, comparison, cost, figures, measurements, report
from iot_pipeline.reporting.gather import gather, partition_of
from iot_pipeline.teacher.archive import told_by_file
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import store_of
from iot_pipeline.vocabulary import CONTROLS, DISTILLED, STAGES, TRACKS, Trained, partition_parts, staged

Taken = tuple[int, int, int, float]  # requests, prompt tokens, answer tokens, dollars
# Inputs of the reports, in the order of the method; those in STAGED have one asset per stage.
ARTEFACTS = [
    "raw_flows",
    "flows",
    "dedup_report",
    "label_conflicts",
    "dataset_mismatch",
    "flow_profile",
    "attack_patterns",
    "sample_comparison",
    "evaluation_split",
    "flow_texts",
    "training_order",
    "leakage_report",
    "automl_baseline",
    "prompt",
    "validation_answers",
    *TRACKS,
    "base_model",
    "training_split",
    "lora_checkpoint",
    "eval_metrics",
    "explanation_quality",
    "unknown_detection",
    "reason_baselines",
    "reasons",
    "paper_protocol",
    "inference_benchmark",
    "study",
    "zero_shot_teacher",
]
OF_STUDENTS = {"lora_checkpoint", "eval_metrics", "explanation_quality", "reasons"}  # partitioned by training seed
STAGED = {"training_split", "unknown_detection", *OF_STUDENTS}
REPORTS = ["track_comparison", "cost_report", "claims_audit"]


def keys(names: list[str]) -> list[dg.AssetKey]:
    """Return asset keys of names, one per stage for those in STAGED."""
    return [
        dg.AssetKey(key) for name in names for key in ([staged(name, s) for s in STAGES] if name in STAGED else [name])
    ]


COMPARED = ["evaluation_split", "training_order", "automl_baseline", "study"]


@dg.asset(group_name="report", deps=[*COMPARED, *keys(["eval_metrics"])])
def track_comparison(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Every track and baseline at every stage: three views with intervals and ceilings, and the study's verdicts."""
    with lake.step(context) as step:
        facts = gather(inputs(step, "eval_metrics") | step.inputs("automl_baseline") | step.inputs("study"))
        trained, populations = stages_of(step)
        result = comparison.track_comparison(facts.evaluation, facts.baselines, facts.study, trained, populations)
        result["table"] = comparison.results_rows(result)
        step.json("track_comparison.json", result)
        step.table("results", result["table"])
        step.metadata["verdicts"] = dg.MetadataValue.md(
            "\n".join(f"- {markdown_line(line)}" for line in result["verdicts"] + result["on_tracks"])
        )
        step.png("accuracy.png", figures.accuracy(result), "Accuracy with intervals by track and baseline")
    return step.result()


def stages_of(step: Step) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """Return for each stage the rows that it trains on, and their place among the rows of the whole table."""
    order, records, dropped = step.input("training_order"), records_of(step), dropped_of(step)
    stages = read_json(order / "order.json")["stages"]
    trained = {stage: stop for stage, (_, stop, _) in stages.items()}
    return trained, {
        stage: describe_population(records, order / "order.parquet", stop, dropped) for stage, stop in trained.items()
    }


@dg.asset(group_name="report", deps=TRACKS)
def cost_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Requests, tokens and dollars of each track's increments, next to what the prior work paid."""
    with lake.step(context) as step:
        made = {partition_of(a): folder for track in TRACKS for a, folder in step.inputs(track).items()}
        usage = {name: read_json(folder / "usage.json") for name, folder in made.items()}
        asked = {name: asked_requests(folder) for name, folder in made.items()}
        usage, beyond = cost.by_ledger(usage, asked, *ledger_of(step))
        result = cost.cost_report(usage, claims.claimed_costs(), beyond=beyond)
        step.json("cost_report.json", result)
        step.table("cost", result["rows"])
        step.png("cost.png", figures.cost(result), "Dollars by track")
    return step.result()


def asked_requests(folder: Path) -> set[tuple[str, str]]:
    """Return key and source of the requests behind a track's answers."""
    table = pq.read_table(folder / "provenance.parquet", columns=["key", "source"])
    pairs = zip(table["key"].to_pylist(), table["source"].to_pylist(), strict=True)
    return {(key, source) for key, source in pairs if key is not None and source is not None}


def ledger_of(step: Step) -> tuple[dict[tuple[str, str], Taken], dict[tuple[str, str], Taken]]:
    """Read the ledger values of every teacher request, and those of imported answers, by key and source.

    Both are empty if there is no store (it was moved).
    """
    location = store_of(step.settings)
    if not exists(location):
        step.log("no store of answers: requests, tokens and dollars are those that the answers tell themselves")
        return {}, {}
    with Store(location, read_only=True) as store:
        taken = store.taken()
        return taken, told_by_file(store, taken)


def whole_lake(step: Step, reports: list[str]) -> dict[ArtefactId, Path]:
    """Return the folders of all fresh inputs of reports and of the named reports, each recorded as an input."""
    return {made: folder for name in [*ARTEFACTS, *reports] for made, folder in inputs(step, name).items()}


def inputs(step: Step, name: str) -> dict[ArtefactId, Path]:
    """Return the folders of an asset's fresh artefacts; of students only those of the first training seed.

    Controls are the study's alone: in tables of tracks they would be taken for students to choose from. Of the
    distilled student the metrics are read, for a row of its own.
    """
    seed = step.settings.seeds[0]
    hidden = {*CONTROLS, *([] if name == "eval_metrics" else [DISTILLED])}
    return {
        artefact: step.input(artefact.asset, artefact.partition)
        for artefact in step.upstream_artefacts(name)
        if name not in OF_STUDENTS or Trained.parse(artefact.partition).seed == seed
        if hidden.isdisjoint(partition_parts(artefact.partition))
    }


@dg.asset(group_name="report", deps=keys([*ARTEFACTS, *REPORTS[:2]]))
def claims_audit(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Every claim of the prior work next to the measurement of this lake, with a computed verdict."""
    with lake.step(context) as step:
        facts = gather(whole_lake(step, REPORTS[:2]), step.spec)
        audit = claims.claims_audit(claims.load_claims(), *measurements.collect(facts))
        step.json("claims_audit.json", audit)
        step.table("claims", [{k: row[k] for k in ("id", "text", "claimed", "measured", "verdict")} for row in audit])
    return step.result()


@dg.asset(group_name="report", deps=keys([*ARTEFACTS, *REPORTS]))
def paper_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Paper report (HTML, Markdown): results, data, leakage, tracks, training, explanations, cost, claims, lineage."""
    with lake.step(context) as step:
        made = report.paper_report(gather(whole_lake(step, REPORTS), step.spec), step.folder)
        step.volatile(*made["drawn"])  # figures depend on the machine's fonts
        missing = "; ".join(made["missing"]) or "nothing"
        step.summarise(sections=made["sections"], figures=made["figures"], tables=made["tables"], missing=missing)
        step.metadata["results"] = dg.MetadataValue.md(made["results"])
        step.metadata["report"] = dg.MetadataValue.md(f"[report.html]({folder_url(step.artefact)}report.html)")
    return step.result()


@dg.asset(group_name="report", deps=keys([*ARTEFACTS, "track_comparison"]))
def model_card(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Model card for every checkpoint: purpose, data, training, evaluation, limits, licence."""
    with lake.step(context) as step:
        facts = gather(whole_lake(step, ["track_comparison"]), step.spec)
        written = {partition: report.model_card(facts, partition) for partition in sorted(facts.training)}
        for (stage, track), card in written.items():
            write_text(step.folder / f"{stage}-{track}.md", card)
        step.summarise(cards=len(written))
        if written:
            step.metadata["card"] = dg.MetadataValue.md(next(iter(written.values())))
    return step.result()
