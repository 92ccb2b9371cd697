"""Report chapters on training, evaluation, explanations, inference, cost, claims, limitations and lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iot_pipeline.evaluation.explanations import importance_agreement
from iot_pipeline.reporting import claims, cost, figures, tables
from iot_pipeline.reporting.blocks import Section
from iot_pipeline.reporting.comparison import split_key
from iot_pipeline.reporting.measured import embedded_teacher, simulated
from iot_pipeline.reporting.tables import Column
from iot_pipeline.vocabulary import STAGES, staged

Context = Mapping[str, Any]
# Explanation metrics that come first, since the table is wider than a page.
FIRST = ("explained", "faultless", "numbers_grounded", "values_true", "features_real", "directions_true")


def name_of(key: str) -> str:
    """Format the checkpoint key `10K|original` as `original 10K`."""
    stage, track = split_key(key)
    return f"{track} {stage}"


def training(context: Context) -> Section:
    """Build the training chapter: tensors, loss curves, tokens, seconds."""
    section = Section("training", "Training")
    base, runs, tensors = (context.get("base_model"), context.get("training") or {}, context.get("tensors") or {})
    if not base:
        section.missing("base_model")
    if tensors:
        section.text(
            "No row is truncated, the loss runs over answers only, and every row trains its label and exactly"
            " one end of turn; the checks that say so block training."
        )
        section.table(
            [{"track": split_key(key)[1], "stage": split_key(key)[0], **stats} for key, stats in tensors.items()],
            caption="Training tensors.",
            asset="training_split",
        )
    else:
        section.missing("training_split")
    if not runs:
        section.missing("lora_checkpoint")
        return section
    curves = {}
    for key, run in runs.items():
        points = list(run["curve"])
        if run["facts"].get("validation_loss") is not None:
            points.append({"step": run["facts"]["steps"], "validation_loss": run["facts"]["validation_loss"]})
        curves[name_of(key)] = points
    section.figure(
        figures.loss_curves(curves),
        "Lines of training loss by optimiser step, one a track, with the validation loss",
        "Tracks differ in their answers, so their training losses are not comparable; the validation loss is"
        " measured on one common set.",
        "lora_checkpoint",
    )
    rows = [
        {
            "checkpoint": name_of(key),
            **{
                name: run["facts"].get(name)
                for name in ("rows", "steps", "tokens_read", "trainable_parameters", "total_parameters")
            },
            "final_loss": run["facts"].get("final_loss"),
            "validation_loss": run["facts"].get("validation_loss"),
            "seconds": run["timings"]["train_seconds"],
            "tokens_per_second": run["timings"]["tokens_per_second"],
        }
        for key, run in runs.items()
    ]
    counts = ("rows", "steps", "tokens_read", "trainable_parameters", "total_parameters", "tokens_per_second")
    section.table(
        rows,
        [
            Column("checkpoint"),
            *(Column(key, write=tables.whole, numeric=True) for key in counts[:-1]),
            Column("final_loss", write=tables.accuracy, numeric=True),
            Column("validation_loss", write=tables.accuracy, numeric=True),
            Column("seconds", "time", tables.seconds, True),
            Column(counts[-1], write=tables.whole, numeric=True),
        ],
        "Training runs. Times are of the machine that made them.",
        "lora_checkpoint",
    )
    return section


def evaluation(context: Context) -> Section:
    """Build the evaluation chapter: confusion, reliability and per-class scores of each track and stage."""
    section = Section("evaluation", "Evaluation of each track")
    found = context.get("evaluation") or {}
    if not found:
        section.missing("eval_metrics")
    for key, result in found.items():
        scored = result["views"].get("distinct")
        asset = staged("eval_metrics", split_key(key)[0])
        section.heading(name_of(key))
        if scored is None:
            section.text("No distinct flow was tested.")
            continue
        bounds = scored["intervals"]
        section.text(
            f"{result['groups']:,} distinct test flows. Accuracy"
            f" {tables.accuracy(scored['accuracy'], *(bounds['accuracy'] or ()))}, macro-F1"
            f" {tables.accuracy(scored['macro_f1'], *(bounds['macro_f1'] or ()))}, ceiling"
            f" {tables.accuracy(scored['ceiling'])}, log-loss {tables.accuracy(scored['log_loss'])}, Brier"
            f" {tables.accuracy(scored['brier'])}, ECE"
            f" {tables.accuracy(scored['ece'])}{_calibrated(result, scored)}."
        )
        section.figure(
            figures.confusion(scored["confusion"], result["classes"], f"Confusion, {name_of(key)}"),
            f"Confusion matrix of {name_of(key)}, in per cent of the true class",
            "Distinct flows; rows are true classes.",
            asset,
        )
        after = (scored.get("calibrated") or {}).get("reliability")
        section.figure(
            figures.reliability(scored["reliability"], after),
            f"Reliability diagram of {name_of(key)}",
            "On the dashed line, confidence equals accuracy. Bins hold equal shares of the flows.",
            asset,
        )
        section.table(
            [{"class": name, **facts} for name, facts in scored["per_class"].items()],
            [
                Column("class"),
                *(Column(k, write=tables.accuracy, numeric=True) for k in ("precision", "recall", "f1")),
                Column("support", "distinct flows", tables.whole, True),
                Column("predicted", write=tables.whole, numeric=True),
            ],
            f"By class, {name_of(key)}.",
            asset,
        )
    return section


def _calibrated(result: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    after = scored.get("calibrated")
    if not after:
        return ""
    return f" ({tables.accuracy(after['ece'])} after scaling by the temperature {result['temperature']:.3f})"


def explanations(context: Context) -> Section:
    """Build the explanations chapter: rule-based quality by track and stage, with examples."""
    section = Section("explanations", "Quality of explanations")
    found = context.get("explanations") or {}
    if not found:
        section.missing("explanation_quality")
        return section
    section.text(
        "Checked by rule, without a judge: does every number stand in the flow, does every feature exist, is"
        " it really above or below as said, does the text name the class that was scored. True numbers do not"
        " make an explanation useful; that takes people."
    )
    rows = [
        {"track": split_key(key)[1], "stage": split_key(key)[0], "decoding": decoding, **means}
        for key, result in found.items()
        for decoding, means in decodings(result).items()
    ]
    section.table(
        rows,
        caption="Means over the explained test flows. Free: as the student writes, which is what it is measured by."
        " Grounded: the decoder lets a number be only one of the flow, of the feature named before it where there is"
        " one; its numbers are true by construction, and no merit of the student.",
        asset="explanation_quality",
    )
    if unmeasured := [name_of(key) for key, result in found.items() if not result.get("grounded")]:
        section.text(f"Grounded decoding was not measured of {', '.join(unmeasured)}; the assets' pages say why.")
    _agreement(section, context)
    for key, result in found.items():
        for number, example in enumerate(result.get("examples") or [], start=1):
            section.quote(
                f"student {name_of(key)}, test flow {number}",
                [
                    ("flow", example["flow"]),
                    (f"written, scored as {example['scored']}", example["answer"]),
                    *([("with grounded decoding", example["grounded_answer"])] if "grounded_answer" in example else []),
                ],
            )
    return section


def decodings(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return mean explanation metrics of one student by decoding: free, and grounded if it was measured."""
    ways = {"free": result, "grounded": result.get("grounded")}
    found = {way: of["aggregate"] for way, of in ways.items() if of}
    return {way: {name: means[name] for name in (*FIRST, *means) if name in means} for way, means in found.items()}


def _agreement(section: Section, context: Context) -> None:
    """Add the share of features named in explanations that AutoML, trained on the same rows, relies on."""
    rows = []
    for key, result in (context.get("explanations") or {}).items():
        stage, track = split_key(key)
        model = ((context.get("baselines") or {}).get(stage, {}).get("automl") or {}).get("model") or {}
        found = importance_agreement(result.get("items") or [], model.get("importances") or {})
        if found:
            rows.append({"track": track, "stage": stage, **found})
    section.table(
        rows,
        [
            Column("track"),
            Column("stage"),
            Column("explanations", "explanations that name features", tables.whole, True),
            Column("share", "named among AutoML's five", tables.percent, True),
            Column("chance", "features named at random", tables.percent, True),
            Column("features", "AutoML's five"),
        ],
        "Do explanations name what matters to a model? The mean share of an explanation's key indicators that are among"
        " the five features whose shuffling costs AutoML most on the same rows.",
        "explanation_quality, automl_baseline",
    )


def inference(context: Context) -> Section:
    """Build the inference chapter: the optimisation benchmark."""
    section = Section("inference", "Inference ladder")
    report = context.get("inference_benchmark")
    if not report:
        section.missing("inference_benchmark")
        return section
    rungs = report["rungs"]
    section.text(
        f"Measured with the student {report['track']} {report['stage']} on one machine; other machines differ."
    )
    section.figure(
        figures.inference_ladder(rungs),
        "Bars of milliseconds a flow by rung on a log axis",
        "Each rung names what changed.",
        "inference_benchmark",
    )
    rows = [
        {
            "rung": rung["rung"],
            "seconds": tables.seconds(figures.seconds_a_flow(rung)) if rung["run"] else None,
            "seconds_p95": tables.seconds(rung.get("seconds_p95")),
            "flows_per_second": rung.get("flows_per_second"),
            "label_agreement": tables.percent(rung.get("label_agreement")),
            "ended_share": tables.percent(rung.get("ended_share")),
            "note": rung.get("device") if rung["run"] else f"not run: {rung['reason']}",
        }
        for rung in rungs
    ]
    columns = [
        Column("rung"),
        Column("seconds", "time a flow", numeric=True),
        Column("seconds_p95", "p95, single", numeric=True),
        Column("flows_per_second", "flows a second", numeric=True),
        Column("label_agreement", "same label as reference", numeric=True),
        Column("ended_share", "answers that ended", numeric=True),
        Column("note", "device or reason"),
    ]
    section.table(rows, columns, "Every rung. The reference is fp32 with the adapter apart.", "inference_benchmark")
    return section


def costs(context: Context) -> Section:
    """Build the cost chapter: dollars and tokens of the teacher's answers."""
    section = Section("cost", "Cost")
    report = context.get("cost_report")
    if not report:
        section.missing("cost_report")
        return section
    section.items(report["notes"])
    section.figure(
        figures.cost(report),
        "Bars of dollars by track: billed, and hypothetical at gpt-4o-mini's price",
        "Blue bars are hypothetical: the price of the same number of tokens elsewhere.",
        "cost_report",
    )
    section.table(report["rows"], cost.columns(), "Teacher's answers by track and stage.", "cost_report")
    return section


def audit(context: Context) -> Section:
    """Build the claims chapter: each claim of the prior work next to its measurement."""
    section = Section("claims", "Claims audit")
    rows = context.get("claims_audit")
    if rows is None:
        section.missing("claims_audit")
        return section
    section.text(
        f"{len(rows)} claims and findings: {claims.counted(rows)}. What is not about the same thing is shown,"
        " never judged."
    )
    for kind, title in (("claim", "Claims"), ("finding", "Why some cannot be taken as they stand")):
        chosen = [row for row in rows if row["kind"] == kind]
        if chosen:
            section.heading(title)
            section.table(claims.shown_rows(chosen), claims.columns(), "", "claims_audit")
    return section


def limitations(context: Context) -> Section:
    """Build the limitations chapter, computed from the artefacts of the lake."""
    section = Section("limitations", "Limitations")
    section.items(limits(context))
    return section


def limits(context: Context) -> list[str]:
    """Return one sentence per limitation of this lake."""
    used, said = context.get("used") or {}, []
    if simulated(used):
        said.append("Flows are simulated: accuracies here say nothing about a real network.")
    spec = context.get("spec") or {}
    if spec.get("scaling") == "given" and spec.get("scaling_note"):
        said.append(f"Known leak: {spec['scaling_note']}")
    if embedded_teacher(context):
        said.append(
            "Explanations come from rules and sound alike; an LLM teacher would be more varied and less reliable."
        )
    if used.get("base_model") == "tiny":
        said.append("The student is tiny; its accuracy and speed do not carry over to Qwen2.5-1.5B.")
    made = sorted({split_key(key)[0] for key in context.get("evaluation") or {}}, key=STAGES.index)
    if made and made != STAGES:
        absent = [stage for stage in STAGES if stage not in made]
        said.append(f"Only stage {', '.join(made)} was evaluated; nothing is known here of {', '.join(absent)}.")
    if not made:
        said.append("No student was evaluated.")
    seeds = {row["seed"] for row in context.get("lineage") or [] if row["seed"] is not None}
    if len(seeds) == 1:
        said.append("One seed: intervals cover the choice of test flows, not the luck of split and training.")
    found = context.get("track_comparison")
    if found and not found["paired"]:
        said.append("No paired test between tracks was made, so small differences between them prove nothing.")
    conflicts = context.get("label_conflicts")
    if conflicts and conflicts["ceilings"]["row"] < 1:
        said.append("Part of the error cannot be avoided: equal flows carry different labels.")
    preset = used.get("automl_preset")
    if preset == "fixed":
        said.append("AutoML ran with a fixed, reproducible set of models, not with its best-quality preset.")
    elif preset:
        said.append(
            f"AutoML's {preset} is limited by time, so its figures cannot be made again exactly; students are held"
            " against the fixed configuration, which can."
        )
    open_claims = [row for row in context.get("claims_audit") or [] if row["verdict"] == claims.UNMEASURED]
    if open_claims:
        said.append(f"{len(open_claims)} claims of the prior work were not measured here; the audit says why for each.")
    return said or ["No limit follows from the artefacts that are here."]


def lineage(context: Context) -> Section:
    """Build the lineage chapter: one row per artefact."""
    section = Section("lineage", "Lineage")
    rows = context.get("lineage") or []
    if not rows:
        section.missing("lineage of artefacts")
        return section
    section.text(
        "Captions name the asset that a figure comes from. Here is what each was made of; its manifest in the"
        " lake holds the inputs, settings and hashes in full."
    )
    shown = [
        {
            "asset": row["asset"],
            "partition": row["partition"],
            "data_version": row["data_version"][:12],
            "prompts": {name: version[:12] for name, version in row["prompts"].items()},
            "settings": {name: str(value) for name, value in row["settings"].items()},
            "seed": row["seed"],
            "code": f"{row['code_commit']} v{row['code_version']}",
            "run_id": (row["run_id"] or "")[:8],
        }
        for row in rows
    ]
    columns = [
        Column("asset"),
        Column("partition"),
        Column("data_version"),
        Column("prompts"),
        Column("settings"),
        Column("seed", write=lambda seed: tables.MISSING if seed is None else str(seed)),
        Column("code", "code commit, version"),
        Column("run_id", "run"),
    ]
    section.table(shown, columns, "Artefacts, first 12 digits of each version.")
    return section
