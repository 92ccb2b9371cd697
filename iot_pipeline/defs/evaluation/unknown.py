"""Leave one class out: does a student say `unknown` to flows of a class that it never saw?"""

import os
from typing import Any, cast

import dagster as dg
import numpy as np
import pandas as pd

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.defs.evaluation.unknown_students import Without, students_without
from iot_pipeline.defs.inputs import flows_of, labelled_rows, records_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TrainerResource
from iot_pipeline.evaluation.predictions import read_predictions, write_predictions
from iot_pipeline.evaluation.unknown.left_out_class import Flows, Sides, judge_baseline, judge_student, measured
from iot_pipeline.evaluation.unknown.measure import COVERAGES, RISK, summary
from iot_pipeline.evaluation.unknown.scores import SCORES, Reference
from iot_pipeline.flows.dataset import distinct_flows, side_records
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.reporting import figures_unknown
from iot_pipeline.vocabulary import STAGES, staged

STUDENT = "student"
BASELINES = {"automl": "iot_pipeline.baseline.automl", "lightgbm": "iot_pipeline.baseline.lightgbm"}
SHOWN = ("accuracy", "auroc", "coverage", "found_0.01", "found_0.05", "false_alarms_0.01", "false_alarms_0.05")


def unknown_detection(stage: str) -> dg.AssetsDefinition:
    """Define the leave-one-class-out measurement of one stage."""

    @dg.asset(
        group_name="evaluation",
        name=staged("unknown_detection", stage),
        deps=["flows", "evaluation_split", "training_order", "base_model"],
        pool="gpu",
        description=f"Flows of a class that the student of stage {stage} never saw (IOT_UNKNOWN): are they told from "
        "known ones? Each class is kept from a student of class rows alone and from a baseline.",
    )
    def unknown(
        context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        with lake.step(context) as step:
            rows, sides = labelled_rows(step, stage), flows_by_side(step)
            by_class = dict[str, Any]()
            for without in students_without(step, trainer, stage):
                if (found := judge(step, without, rows, sides)) is not None:
                    by_class[without.label] = found
            result = described(step, by_class)
            step.json("unknown.json", result)
            show(step, result)
        return step.result()

    return cast(dg.AssetsDefinition, unknown)


def flows_by_side(step: Step) -> dict[str, Flows]:
    """Return the distinct flows of each evaluation side with features and labels."""
    flows, classes = flows_of(step), step.spec.classes
    return {
        side: Flows.of(distinct_flows(flows, records_of(step), side), side_records(records_of(step), side), classes)
        for side in ("validation", "calibration", "test")
    }


def judge(step: Step, without: Without, rows: pd.DataFrame, flows: dict[str, Flows]) -> dict[str, Any] | None:
    """Measure student and baseline on the test flows of a class and the known ones; None if it has no test flow.

    Args:
        step: The step.
        without: The class, and the student that it was kept from.
        rows: Training rows of the stage.
        flows: Distinct flows of each side.
    """
    sides = Sides.of(without.label, flows)
    if not sides.strange.any():
        step.log(f"{without.label}: no test flow has this label alone, so nothing is measured")
        return None
    train, classes = without.left.tables["train"], without.left.classes
    names, form = step.spec.feature_names, step.spec.format
    reference = Reference.of(train, names, form, train["label"].tolist(), without.outputs["train"])
    student, choice, aurocs = judge_student(reference, without.outputs, sides, classes)
    kind = step.settings.evaluation.unknown_baseline
    baseline = judge_baseline(baseline_of(step, without, rows, flows, kind), sides, classes)
    facts = measured({STUDENT: student, kind: baseline}, sides, step.settings.data.seed)
    told = {"score": choice.score, "evidence": choice.evidence, "auroc_by_score": aurocs, "training": without.training}
    beside = facts["models"][kind]["auroc"]["value"]
    step.log(f"{without.label}: AUROC {aurocs[choice.score]:.3f} by {choice.score}, {kind} {beside:.3f}")
    return facts | told


def baseline_of(
    step: Step, without: Without, rows: pd.DataFrame, flows: dict[str, Flows], kind: str
) -> dict[str, np.ndarray]:
    """Return a baseline's log-probabilities of calibration and test flows, trained without the class, or kept.

    They are kept for the code and the seed that they were made by.

    Args:
        step: The step.
        without: The class.
        rows: Training rows of the stage.
        flows: Distinct flows of each side.
        kind: automl or lightgbm.
    """
    classes, names, seed = without.left.classes, step.spec.feature_names, step.settings.data.seed
    kept = without.folder / f"{kind}-{code_version(BASELINES[kind])}-{seed}.parquet"
    both = [flows[side].table for side in ("calibration", "test")]
    if not kept.is_file():
        train, table = rows[rows["label"] != without.label], pd.concat(both, ignore_index=True)
        if kind == "automl":
            cores = step.settings.run.threads or os.cpu_count() or 1
            found = run_automl(train, table, names, classes, AutoMLConfig(seed=seed, cores=cores), step.log)
        else:
            found = run_lightgbm(train, table, names, classes, seed)
        write_predictions(kept, found.group_ids, found.log_probs, classes)
    scores = read_predictions(kept, classes)[1]
    return {"calibration": scores[: len(both[0])], "test": scores[len(both[0]) :]}


def described(step: Step, by_class: dict[str, Any]) -> dict[str, Any]:
    """Return the result as JSON values, with the means over the classes and what it was made by."""
    chosen = step.settings.evaluation
    return {
        "classes": by_class,
        "left_out": [name for name in step.spec.classes if name not in by_class],
        "mean": summary({name: found["models"] for name, found in by_class.items()}),
        "baseline": chosen.unknown_baseline,
        "risk": RISK,
        "coverages": COVERAGES.tolist(),
        "scores": SCORES,
        "training": f"class rows only, {chosen.unknown_steps} steps; the base has read unlabelled flows of every class",
    }


def show(step: Step, result: dict[str, Any]) -> None:
    """Show the table and figures of the measurement on the asset's page."""
    step.table("classes", table_rows(result))
    for model, of in result["mean"].items():
        step.summarise(**{f"{name}_{model}": of[name]["value"] for name in SHOWN if name in of})
    step.png("unknown.png", figures_unknown.aurocs(result), "AUROC of each class that was left out")
    step.png("risk_coverage.png", figures_unknown.risk_coverage(result), "Risk by coverage, mean over the classes")


def table_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """List each class with the measures of student and baseline, then their means."""
    parts = ("value", "low", "high")
    rows = []
    for label, facts in [*result["classes"].items(), ("mean", {"models": result["mean"]})]:
        for model, of in facts["models"].items():
            row = {"class": label, "flows": facts.get("flows"), "model": model}
            row |= {"score": facts.get("score", "") if model == STUDENT else "greatest probability"}
            rows.append(row | {f"{name}_{part}": of[name][part] for name in SHOWN for part in parts})
    return rows


unknown_detections = [unknown_detection(stage) for stage in STAGES]
