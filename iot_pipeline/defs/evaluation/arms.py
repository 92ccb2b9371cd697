"""Arms of the study: predictions of students and baselines by name, and the pairs of them that are compared."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping

from iot_pipeline.defs.recording import Step
from iot_pipeline.evaluation.evaluate import align
from iot_pipeline.evaluation.metrics import predict
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.evaluation.study import stage_pairs
from iot_pipeline.evaluation.views import Ints, Side
from iot_pipeline.vocabulary import ARMS, CONTROLS, DISTILLED, STAGES, TRACKS, Trained, unstaged

BASELINES = {"AutoML": "automl", "LightGBM": "lightgbm"}  # those that come out alike with every seed of training
PSEUDO = "AutoML-pseudo"  # AutoML that also learnt its own guesses for the train pool, as the distilled student did


def student_arms(step: Step, side: Side) -> tuple[dict[str, list[Ints]], list[str]]:
    """Read the predictions of students that were trained with every seed, by track or control and stage.

    The others are named. The untrained one is the same with every seed, so one is enough.
    """
    found: dict[tuple[str, str], dict[int, Ints]] = defaultdict(dict)
    for artefact, folder in step.inputs("eval_metrics").items():
        seed, track = Trained.parse(artefact.partition)
        predictions = read_predictions(folder / "predictions.parquet", step.spec.classes)
        found[track, unstaged(artefact.asset)[1]][seed] = predict(align(side, *predictions))
    order = sorted(found, key=lambda arm: (STAGES.index(arm[1]), ARMS.index(arm[0])))
    seeds = {arm: step.settings.seeds[:1] if arm[0] == "untrained" else step.settings.seeds for arm in order}
    whole = [arm for arm in order if all(seed in found[arm] for seed in seeds[arm])]
    for arm in (left_out := [arm for arm in order if arm not in whole]):
        made = len({*found[arm]}.intersection(seeds[arm]))
        step.log(f"left out: {arm_name(*arm)} was trained with {made} of {len(seeds[arm])} seeds")
    arms = {arm_name(*arm): [found[arm][seed] for seed in seeds[arm]] for arm in whole}
    return arms, [arm_name(*arm) for arm in left_out]


def baseline_arms(
    step: Step, side: Side, names: Mapping[str, str] = BASELINES, asset: str = "automl_baseline"
) -> dict[str, list[Ints]]:
    """Read the predictions of baselines at each stage.

    Args:
        step: Step of the study.
        side: Test side.
        names: File of each baseline.
        asset: Asset that has them.
    """
    return {
        arm_name(name, artefact.partition): [
            predict(align(side, *read_predictions(folder / f"predictions_{file}.parquet", step.spec.classes)))
        ]
        for artefact, folder in step.inputs(asset).items()
        for name, file in names.items()
    }


def contrasts(arms: Collection[str]) -> list[tuple[str, str]]:
    """Pair the arms: each two tracks of a stage, each control with `original`, each track with each baseline.

    And each stage of a track with the one before.
    """
    pairs = []
    for stage in STAGES:
        tracks = [arm_name(track, stage) for track in TRACKS if arm_name(track, stage) in arms]
        pairs += [(later, earlier) for earlier, later in itertools.combinations(tracks, 2)]
        baselines = [arm_name(name, stage) for name in BASELINES if arm_name(name, stage) in arms]
        pairs += itertools.product(tracks, baselines)
        if (student := arm_name(DISTILLED, stage)) in arms:
            pairs += [(student, other) for other in (*tracks[:1], *baselines, arm_name(PSEUDO, stage)) if other in arms]
        controls = [arm_name(control, stage) for control in CONTROLS if arm_name(control, stage) in arms]
        pairs += itertools.product(controls, [name for name in tracks if name == arm_name(TRACKS[0], stage)])
    return pairs + [pair for track in TRACKS for pair in stage_pairs(STAGES, arms, track)]


def arm_name(model: str, stage: str) -> str:
    """Name an arm of the study: `original 10K`."""
    return f"{model} {stage}"
