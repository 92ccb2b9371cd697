"""Asset group evaluation: checkpoints on the one fixed test set, their explanations, and the inference benchmark."""

import time
from typing import Any

import dagster as dg
import numpy as np

from iot_pipeline.defs.evaluation.on_ray import scored_on_ray
from iot_pipeline.defs.evaluation.students import (
    DATA,
    adapter_of,
    asked_of,
    class_scores,
    explained_flows,
    names_of,
    prompts_of,
    student,
)
from iot_pipeline.defs.evaluation.unknown_fit import Scored, fit_unknown, reference_flows
from iot_pipeline.defs.inputs import base_location, records_of, texts_of, writer_of
from iot_pipeline.defs.partitions import checkpoint_dep, student_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import clear_work, leased_device
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.conformal import fit_thresholds, measure_sets
from iot_pipeline.evaluation.evaluate import align, evaluate_predictions
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.evaluation.metrics import apply_temperature, fit_temperature
from iot_pipeline.evaluation.predictions import EXPLANATIONS, write_explanations, write_predictions
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.inference.benchmark import benchmark_variants
from iot_pipeline.inference.grammar import held_to
from iot_pipeline.inference.grounding import NotGroundable
from iot_pipeline.inference.states import label_rows
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import figures
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import CONTROLS, STAGES, TRACKS, Trained, staged, unstaged

BENCHMARK_FLOWS = 2048
BENCHMARK_EXPLAINS = 3  # flows one by one; fewer where the settings explain fewer


def sides_scored(step: Step, stage: str) -> tuple[Scored, float]:
    """Score each evaluation side, and the train flows that new ones are held against; return also the seconds taken.

    A control answers no user, so it has no such train flows.
    """
    begin = time.monotonic()
    train = reference_flows(step, stage) if Trained.parse(step.artefact.partition).track not in CONTROLS else None
    given = {side: prompts_of(step, side) for side in ("validation", "calibration", "test")}
    if train is not None:
        given["train"] = train["flow_group"].tolist(), writer_of(step).texts(train)
    questions = {part: (groups, asked_of(step, texts)) for part, (groups, texts) in given.items()}
    if step.settings.run.batch == "ray":
        parts, rows = scored_on_ray(step, adapter_of(step, stage), questions)
        return Scored(parts, rows, train), time.monotonic() - begin
    with student(step, stage) as model:
        parts = {
            part: (groups, *model.score_with_states(asked, step.spec.classes, log=step.log))
            for part, (groups, asked) in questions.items()
        }
        rows = label_rows(model, step.spec.classes)
    return Scored(parts, rows, train), time.monotonic() - begin


def eval_metrics(stage: str) -> dg.AssetsDefinition:
    """Define the metrics asset of one stage."""

    @dg.asset(
        group_name="evaluation",
        name=staged("eval_metrics", stage),
        partitions_def=student_partitions(),
        deps=["flows", "training_order", *DATA, checkpoint_dep(staged("lora_checkpoint", stage))],
        pool="gpu",
        description=f"Accuracy in three views, calibration and confusion of stage {stage} on the one test set, "
        "by scoring every class; prediction sets, and the detector of flows of no known class.",
    )
    def metrics(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            classes, seed = step.spec.classes, step.settings.data.seed
            records = records_of(step)
            scored, seconds = sides_scored(step, stage)
            scores = scored.scores
            calibration = read_side(side_records(records, "calibration"), classes)
            fitted = fit_temperature(calibration, align(calibration, *scores["calibration"]))
            result = evaluate_predictions(
                side_records(records, "test"), *scores["test"], classes, seed, fitted["temperature"]
            )
            # Choices (recipe, weights) are made on this side, never on the test side.
            result["validation"] = evaluate_predictions(
                side_records(records, "validation"), *scores["validation"], classes, seed, fitted["temperature"]
            )
            result["calibration"] = fitted
            sharp = {side: apply_temperature(raw, fitted["temperature"]) for side, (_, raw) in scores.items()}
            write_predictions(step.folder / "predictions.parquet", scores["test"][0], sharp["test"], classes)
            result["sets"] = sets_of(step, {side: (groups, sharp[side]) for side, (groups, _) in scores.items()})
            result["unknown"] = fit_unknown(step, scored)
            step.json("eval.json", result)
            flows = sum(len(values) for _, values, _ in scored.parts.values())
            step.json("timing.json", {"flows": flows, "seconds": seconds}, volatile=True)
            show(step, result, f"{Trained.parse(context.partition_key).track} {stage}")
            clear_work(step)  # blocks of replicas
        return step.result()

    return metrics


def sets_of(step: Step, scores: dict[str, tuple[list[str], np.ndarray]]) -> dict[str, Any]:
    """Fit prediction sets on the calibration side, and measure them on the test side."""
    records, classes = records_of(step), step.spec.classes
    sides = {name: read_side(side_records(records, name), classes) for name in ("calibration", "test")}
    thresholds = fit_thresholds(sides["calibration"], align(sides["calibration"], *scores["calibration"]))
    return measure_sets(sides["test"], align(sides["test"], *scores["test"]), thresholds)


def show(step: Step, result: dict, title: str) -> None:
    """Show metrics and figures of an evaluation on the asset's page."""
    for view, facts in result["views"].items():
        if facts is not None:
            step.summarise(**{f"{name}_{view}": facts[name] for name in ("accuracy", "macro_f1", "ceiling")})
    by_level = [{"level": level, **facts} for level, facts in result["sets"].items()]
    step.table("prediction_sets", [{k: v for k, v in row.items() if k != "by_class"} for row in by_level])
    distinct = result["views"]["distinct"]
    step.table("per_class", [{"class": name, **facts} for name, facts in distinct["per_class"].items()])
    step.png("confusion.png", figures.confusion(distinct["confusion"], result["classes"], title), f"Confusion, {title}")
    calibrated = (distinct.get("calibrated") or {}).get("reliability")
    step.png("reliability.png", figures.reliability(distinct["reliability"], calibrated), f"Reliability, {title}")


def explanation_quality(stage: str) -> dg.AssetsDefinition:
    """Define the explanation asset of one stage."""

    @dg.asset(
        group_name="evaluation",
        name=staged("explanation_quality", stage),
        partitions_def=student_partitions(),
        deps=[*DATA, checkpoint_dep(staged("lora_checkpoint", stage))],
        pool="gpu",
        description=f"Explanations that students of stage {stage} write for test flows, scored by rule: numbers "
        "grounded, features real, directions true, label as scored. Free writing is what the student is "
        "measured by; beside it the same flows with every number held to its flow by the decoder.",
    )
    def quality(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            classes = step.spec.classes
            groups, chosen = explained_flows(step)
            with student(step, stage) as model:
                labels = [classes[i] for i in class_scores(step, model, chosen).argmax(axis=1)]
                ways = written_by(step, model, chosen)
            write_explanations(step.folder / EXPLANATIONS, groups, labels, ways)
            found = {way: judged(step, chosen, labels, written) for way, written in ways.items()}
            names = {"free": "answer", "grounded": "grounded_answer"}
            examples = [
                {"flow": chosen[i], "scored": labels[i], **{names[way]: ways[way][i][0] for way in ways}}
                for i in range(min(3, len(chosen)))
            ]
            step.json("quality.json", {**found["free"], "grounded": found.get("grounded"), "examples": examples})
            step.summarise(**shares(found["free"]["aggregate"]))
            step.table("shares", found["free"]["shares"])
            if "grounded" in found:
                step.summarise(**shares(found["grounded"]["aggregate"], "grounded_decoding_"))
            step.table("examples", [{k: v for k, v in e.items() if k != "flow"} for e in examples])
        return step.result()

    return quality


def written_by(step: Step, model: Student, flows: list[str]) -> dict[str, list[tuple[str, bool]]]:
    """Generate explanations, each with True if it ended: free, and grounded if the tokeniser allows it.

    A student that reads other feature names is read back with the true ones.
    """
    names = names_of(step)
    flows = [names.flow(text) for text in flows] if names else flows
    prompts = [asked(text, "explain", step.settings.student.tasks) for text in flows]
    teacher = step.settings.teacher
    longest, held = room_for(teacher.explanation_words), dict[str, Any](grounded_in=flows)
    if teacher.facts == "marked":
        held = held_to(flows, True, writer_of(step).spec, teacher.answer_order)
    ways = {"free": model.explain(prompts, longest)}
    try:
        ways["grounded"] = model.explain(prompts, longest, **held)
    except NotGroundable as reason:
        step.context.log.warning(f"{reason}; only free writing is measured")
        step.summarise(grounded_decoding=f"not measured: {reason}")
    if names:
        return {way: [(names.restored(text), ended) for text, ended in written] for way, written in ways.items()}
    return ways


def judged(step: Step, flows: list[str], labels: list[str], written: list[tuple[str, bool]]) -> dict[str, Any]:
    """Check explanations by rule.

    Args:
        step: The step.
        flows: Flow texts.
        labels: Classes that the student scored highest.
        written: Explanations, each with True if it ended.
    """
    writer = writer_of(step)
    marked = step.settings.teacher.facts == "marked"
    return score_explanations(
        flows,
        written,
        labels,
        step.spec.classes,
        writer.ranks,
        writer.spec.standardised,
        marked,
        writer.spec.known_values,
    )


def shares(aggregate: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Drop metrics that are None, and prefix the names of the others."""
    return {f"{prefix}{key}": value for key, value in aggregate.items() if value is not None}


metrics_assets = [eval_metrics(stage) for stage in STAGES]
quality_assets = [explanation_quality(stage) for stage in STAGES]
checkpoints = [staged("lora_checkpoint", stage) for stage in STAGES]


def largest_of(checkpoints: list[ArtefactId]) -> tuple[ArtefactId, str, str]:
    """Pick the track's checkpoint of the largest stage, of `original` if there is one; return it, stage and track.

    Raises UserError if no track has a checkpoint.
    """
    told = [(unstaged(found.asset)[1], Trained.parse(found.partition).track, found) for found in checkpoints]
    told = [one for one in told if one[1] in TRACKS]  # a control answers no user
    if not told:
        raise UserError("no lora_checkpoint of a track has been made yet")
    stage, track, found = max(told, key=lambda one: (STAGES.index(one[0]), one[1] == TRACKS[0], one[1]))
    return found, stage, track


def benchmark_texts(step: Step) -> tuple[list[str], list[str]]:
    """Return questions about distinct test flows, in a seeded order, and about test rows as they come, equal ones too.

    Each has BENCHMARK_FLOWS at most: 99.9 % of equal labels needs a thousand.
    """
    records = side_records(records_of(step), "test")
    texts = side_texts(texts_of(step), records_of(step), "test").set_index("flow_group")["text"]
    random, tasks = np.random.default_rng(step.settings.data.seed), step.settings.student.tasks
    distinct = texts.iloc[np.sort(random.permutation(len(texts))[:BENCHMARK_FLOWS])]
    rows = np.repeat(records["flow_group"].to_numpy(), records["rows"].to_numpy())
    drawn = texts.loc[random.permutation(rows)[:BENCHMARK_FLOWS]]
    return [asked(text, "explain", tasks) for text in distinct], [asked(text, "explain", tasks) for text in drawn]


@dg.asset(group_name="evaluation", deps=[*DATA, *checkpoints], pool="gpu")
def inference_benchmark(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Inference benchmark: time, memory and labels of each optimisation, engines and profiles, on the largest stage."""
    with lake.step(context) as step:
        largest, stage, track = largest_of(step.upstream_artefacts("lora_checkpoint"))
        texts, repeated = benchmark_texts(step)
        adapter = step.input(largest.asset, largest.partition)
        with leased_device(step) as device:
            run: dict[str, Any] = {"threads": step.settings.run.threads, "card": None if device == "cpu" else device}
            run["explained"] = min(BENCHMARK_EXPLAINS, step.settings.evaluation.explained_flows)
            run["seconds"] = step.settings.evaluation.benchmark_seconds
            base, classes = base_location(step), step.spec.classes
            found = benchmark_variants(base, adapter, texts, classes, repeated, log=step.log, **run)
        of = {"stage": stage, "track": track, "model": step.data_versions[largest.input_key]}
        step.json("inference.json", of | found, volatile=True)
        step.summarise(**{name: one.get("engine", "the reference") for name, one in found["profiles"].items()})
        step.table("variants", found["variants"])
        step.png("variants.png", figures.inference_benchmark(found["variants"]), "Time per flow, by variant")
    return step.result()
