"""Students that one class is kept from: trained on class rows alone, and what they say of all distinct flows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from iot_pipeline.defs.inputs import base_location, flows_of, labelled_rows, records_of
from iot_pipeline.defs.recipe import recipe_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.resources import TrainerResource, opened_student, work_folder
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.unknown.leave_out import LeftOut, leave_out, questions_of, texts_without
from iot_pipeline.evaluation.unknown.outputs import Outputs, load_outputs, save_outputs
from iot_pipeline.flows.dataset import distinct_flows
from iot_pipeline.inference.states import label_rows
from iot_pipeline.lake.atomic import read_json, write_json
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.setting_sections import RunSettings
from iot_pipeline.sft.class_rows import Questions, build_class_tensors
from iot_pipeline.sft.tasks import asked
from iot_pipeline.training.config import TrainConfig

# Code that decides what a student without a class says; what is made of it afterwards is computed each time.
MADE_BY = ("iot_pipeline.training.train", "iot_pipeline.evaluation.unknown.leave_out", "iot_pipeline.inference.states")
SIDES = ("validation", "calibration", "test")
OUTPUTS, FACTS, TENSORS = "outputs.npz", "facts.json", "classes.safetensors"


@dataclass(frozen=True)
class Without:
    """A class, the data that it was taken out of, its student's outputs by part, facts of its training, work folder."""

    label: str
    left: LeftOut
    outputs: dict[str, Outputs]
    training: dict[str, Any]
    folder: Path


def students_without(step: Step, trainer: TrainerResource, stage: str) -> Iterator[Without]:
    """Yield each class with a student that never saw it; a finished one is kept in the work folder and taken again.

    Half of a step's class rows are drawn as they fall, half by IOT_CLASS_POWER. The base has read the unlabelled flows
    of the train pool, those of the class among them.
    """
    rows, sides = labelled_rows(step, stage), sides_of(step)
    base_location(step)  # read before the study is named: its data version counts
    study = study_folder(step, stage)
    for label in classes_of(step):
        folder = study / hashlib.sha256(label.encode()).hexdigest()[:16]
        folder.mkdir(exist_ok=True)
        left = leave_out(label, step.spec.classes, rows, sides)
        if not (folder / OUTPUTS).is_file():
            step.log(f"{label}: training a student without it")
            make(step, trainer, left, rows, folder)
        outputs = {part: found for part, (_, found) in load_outputs(folder / OUTPUTS).items()}
        yield Without(label, left, outputs, read_json(folder / FACTS), folder)


def classes_of(step: Step) -> list[str]:
    """Return the classes to keep from a student in turn; UserError for one that the data set does not have."""
    chosen, classes = step.settings.evaluation.unknown_classes, step.spec.classes
    if unknown := sorted({*(chosen or [])} - {*classes}):
        raise UserError(f"IOT_UNKNOWN_CLASSES names {', '.join(unknown)}; there are: {', '.join(classes)}")
    return [name for name in classes if not chosen or name in chosen]


def sides_of(step: Step) -> dict[str, pd.DataFrame]:
    """Return the distinct flows of each evaluation side."""
    return {side: distinct_flows(flows_of(step), records_of(step), side) for side in SIDES}


def study_folder(step: Step, stage: str) -> Path:
    """Return the work folder of the students, named by all that decides them, so that a change makes them anew."""
    student, settings = step.settings.student, step.settings
    return work_folder(
        step,
        stage,
        {name: step.data_versions[name] for name in sorted(step.data_versions)},
        recipe_of(step, settings.seeds[0]) | dict.fromkeys(RunSettings.model_fields),
        [student.class_power, student.max_length, student.tasks, settings.data.serialisation, settings.data.seed],
        settings.evaluation.unknown_steps,
        [code_version(module) for module in MADE_BY],
    )


def make(step: Step, trainer: TrainerResource, left: LeftOut, rows: pd.DataFrame, folder: Path) -> None:
    """Train and score the student of a class; write its outputs and the facts of its training.

    Args:
        step: The step.
        trainer: What trains.
        left: The data without the class.
        rows: Training rows of the stage.
        folder: Work folder of the class.
    """
    files = flows_of(step), records_of(step)
    texts = texts_without(left, step.spec, step.settings.data.serialisation, files, folder)
    questions = questions_of(left, texts["train"], rows, step.settings.student.tasks, step.settings.data.seed)
    write_json(folder / FACTS, trained(step, trainer, left, questions, folder))
    save_outputs(folder / OUTPUTS, scored(step, left, texts, folder))
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.pt")):
        path.unlink()  # the outputs are all that is read from here on


def trained(step: Step, trainer: TrainerResource, left: LeftOut, questions: Questions, folder: Path) -> dict[str, Any]:
    """Train the student of a class; return the facts of its training.

    Args:
        step: The step.
        trainer: What trains.
        left: The data without the class.
        questions: Its class rows.
        folder: Work folder of the class.
    """
    student, base = step.settings.student, base_location(step)
    build_class_tensors(
        [(questions, 1.0)], left.classes, student.class_power, load_tokenizer(base), student.max_length,
        folder / TENSORS,
    )  # fmt: skip
    half = max(1, student.step_rows // 2)
    ends: dict[str, Any] = {
        "max_steps": step.settings.evaluation.unknown_steps,
        "max_tokens": None, "patience": None, "evaluate_every": None, "keep": "last", "epochs": 1.0,
        "step_rows": half, "class_rows": half, "class_weight": 1.0, "label_weight": 1.0,
    }  # fmt: skip
    files = {"base": base, "out": folder, "tensors": folder / TENSORS, "classes": folder / TENSORS}
    config = TrainConfig(**(recipe_of(step, step.settings.seeds[0]) | ends | files))
    (facts,) = trainer.train(step, [config], trainer.count(step))
    return {name: facts["facts"].get(name) for name in ("steps", "tokens_read", "first_loss", "final_loss")}


def scored(
    step: Step, left: LeftOut, texts: dict[str, list[str]], adapter: Path
) -> dict[str, tuple[list[str], Outputs]]:
    """Score all distinct flows by the student of a class; return flow groups and outputs by part.

    Args:
        step: The step.
        left: The data without the class.
        texts: Texts of its flows by part.
        adapter: Folder of the student.
    """
    found: dict[str, tuple[list[str], Outputs]] = {}
    with opened_student(step, base_location(step), adapter) as model:
        rows = label_rows(model, left.classes)
        for part, those in texts.items():
            prompts = [asked(text, "classify", step.settings.student.tasks) for text in those]
            scores, states = model.score_with_states(prompts, left.classes, log=step.log)
            found[part] = left.tables[part]["flow_group"].tolist(), Outputs.of(scores, states, rows)
    return found
