"""The study: students of all training seeds compared with each other and with the baselines."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np

from iot_pipeline.defs.evaluation.arms import PSEUDO, arm_name, baseline_arms, contrasts, student_arms
from iot_pipeline.defs.evaluation.grid import grid_of
from iot_pipeline.defs.inputs import records_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.reporting import figures
from iot_pipeline.vocabulary import STAGES, Trained, staged, unstaged

MADE = [staged(name, stage) for name in ("eval_metrics", "explanation_quality", "data_grid") for stage in STAGES]
SHARES = ("faultless", "numbers_grounded", "values_true", "directions_true")


@dg.asset(group_name="evaluation", deps=["evaluation_split", "automl_baseline", "pseudo_label_baseline", *MADE])
def study(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Tracks, controls, stages and baselines compared over training seeds (IOT_SEEDS); one seed gives no verdict."""
    with lake.step(context) as step:
        side = read_side(side_records(records_of(step), "test"), step.spec.classes)
        students, left_out = student_arms(step, side)
        guessed = baseline_arms(step, side, {PSEUDO: "automl_pseudo"}, "pseudo_label_baseline")
        arms = {**students, **baseline_arms(step, side), **guessed}
        result = compare_seeds(side, arms, contrasts(arms), step.settings.data.seed)
        beside = {"left_out": left_out, "explanations": explained(step), "grid": grid_of(step, side, students)}
        step.json("study.json", result | beside)
        step.table("contrasts", result["contrasts"])
        step.png("study.png", figures.study(result), "Differences in accuracy with 95 % intervals")
        step.summarise(seeds=result["seeds"], left_out=", ".join(left_out) or "none")
    return step.result()


def explained(step: Step) -> list[dict[str, Any]]:
    """Return shares of explanations by arm and way of writing: mean and spread over the seeds that were measured."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for artefact, folder in step.inputs("explanation_quality").items():
        seed, track = Trained.parse(artefact.partition)
        if seed not in step.settings.seeds:
            continue
        quality = read_json(folder / "quality.json")
        for way, scored in (("free", quality), ("grounded", quality["grounded"])):
            if scored is not None:
                found[arm_name(track, unstaged(artefact.asset)[1]), way].append(scored["aggregate"])
    return [
        {"arm": arm, "way": way, "seeds": len(runs), **{share: over_seeds(runs, share) for share in SHARES}}
        for (arm, way), runs in found.items()
    ]


def over_seeds(runs: list[Mapping[str, Any]], share: str) -> dict[str, float] | None:
    """Return mean and spread of a share; None if a run had nothing to measure."""
    values = [run[share] for run in runs]
    if None in values:
        return None
    return {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
