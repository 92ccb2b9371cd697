"""Off-diagonal students of the data-by-steps grid: one stage's rows for as many tokens as another stage's student."""

import shutil
from pathlib import Path
from typing import Any, cast

import dagster as dg
import numpy as np

from iot_pipeline.defs.checks import check_specs
from iot_pipeline.defs.inputs import base_location, records_of, texts_of
from iot_pipeline.defs.partitions import budget_dep, grid_partitions, tensors_of_dep
from iot_pipeline.defs.recipe import config_in_work_folder, recipe_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TrainerResource, clear_work, opened_student
from iot_pipeline.defs.training.rows import tensor_files
from iot_pipeline.evaluation.evaluate import evaluate_predictions
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.reporting.comparison import lowest_recall
from iot_pipeline.sft.tasks import asked
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.vocabulary import STAGES, TRACKS, Trained, partition_parts, staged

TRACK = TRACKS[0]
TOLD = ("training.json", "loss.jsonl")


def data_grid(stage: str) -> dg.AssetsDefinition:
    """Define the students of one stage's rows and other stages' tokens; with its own tokens it is lora_checkpoint's."""
    name, check, partitions = staged("data_grid", stage), "tokens_are_equal", grid_partitions(stage)

    @dg.asset(
        group_name="training",
        name=name,
        partitions_def=partitions,
        pool="gpu",
        deps=[
            *("base_model", "flow_texts", "evaluation_split"),
            tensors_of_dep(staged("training_split", stage), TRACK),
            *(budget_dep(staged("lora_checkpoint", other), TRACK, other) for other in STAGES if other != stage),
        ],
        check_specs=check_specs(name, check, partitions=partitions),
        description=f"Students of stage {stage}'s rows that read as many tokens as another stage's student (IOT_GRID), "
        "scored on validation and test side: more data told apart from more steps.",
    )
    def grid(context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            config, cell = grid_config(step, stage)
            (trained,) = trainer.train(step, [config], trainer.count(step))
            for told in TOLD:
                shutil.copy(config.out / told, step.folder / told)
            step.volatile(*TOLD)
            cell |= {"tokens_read": (read := trained["facts"]["tokens_read"]), "steps": trained["facts"]["steps"]}
            # The step after the last one would have passed the budget, so no more than that step is missing.
            most = config.step_rows * cell["longest_row"] + config.class_rows * cell["longest_class_row"]
            step.check(check, 0 <= cell["budget"] - read < most, **cell)
            step.json("cell.json", cell)
            show(step, cell, score(step, config.out))
        clear_work(step)
        return step.result()

    return cast(dg.AssetsDefinition, grid)


def grid_config(step: Step, stage: str) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the training config of a cell, and its tokens: of one pass over its rows, and its budget.

    The recipe is the ordinary student's. The budget takes the place of what ends that one, and is the length of the
    learning-rate schedule.
    """
    seed, tokens = partition_parts(step.artefact.partition)
    student = step.input(staged("lora_checkpoint", tokens), Trained(int(seed), TRACK).key)
    tensors = step.input(staged("training_split", stage), TRACK)
    stats = read_json(tensors / "stats.json")
    budget = read_json(student / "training.json")["facts"]["tokens_read"]
    ends: dict[str, Any] = {
        "max_tokens": budget,
        "max_steps": None,
        "patience": None,
        "epochs": budget / stats["tokens"] + 1,  # class rows cost tokens too, so this is enough
    }
    files = tensor_files(step, tensors) | {"base": base_location(step)}
    config = config_in_work_folder(step, recipe_of(step, int(seed)) | ends | files)
    classed = read_json(tensors / "class_rows.json")["class_row_longest"] if config.class_rows else 0
    cell = {
        "longest_class_row": classed,
        "rows": stage,
        "tokens": tokens,
        "pass": stats["tokens"],
        "longest_row": stats["longest"],
        "budget": budget,
    }
    return config, cell


def score(step: Step, adapter: Path) -> dict[str, Any]:
    """Score a cell's student on validation and test side, and write its predictions of the latter."""
    found: dict[str, tuple[list[str], np.ndarray]] = {}
    records, classes, tasks = records_of(step), step.spec.classes, step.settings.student.tasks
    with opened_student(step, base_location(step), adapter) as model:
        for side in ("validation", "test"):
            flows = side_texts(texts_of(step), records, side)
            prompts = [asked(text, "classify", tasks) for text in flows["text"]]
            found[side] = flows["flow_group"].tolist(), model.score_labels(prompts, classes, log=step.log)
    write_predictions(step.folder / "predictions.parquet", *found["test"], classes)
    result = {
        side: evaluate_predictions(side_records(records, side), *scores, classes, step.settings.data.seed)
        for side, scores in found.items()
    }
    step.json("eval.json", result["test"] | {"validation": result["validation"]})
    return result


def show(step: Step, cell: dict[str, Any], result: dict[str, Any]) -> None:
    """Show a cell's tokens, and its accuracy, macro-F1 and lowest recall of both sides, on the asset's page."""
    step.summarise(**cell)
    for side, of in result.items():
        view = of["views"]["distinct"]
        facts = {"accuracy": view["accuracy"], "macro_f1": view["macro_f1"], "lowest_recall": lowest_recall(view)[0]}
        step.summarise(**{f"{name}_{side}": value for name, value in facts.items()})


data_grids = [data_grid(stage) for stage in STAGES]
