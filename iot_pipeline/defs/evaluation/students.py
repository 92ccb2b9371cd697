"""Student of a partition, the flows that it is asked about, and the questions in its form."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from iot_pipeline.defs.controls import shuffled_names
from iot_pipeline.defs.inputs import base_location, records_of, texts_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.resources import opened_student
from iot_pipeline.flows.dataset import side_texts
from iot_pipeline.inference.student import Student
from iot_pipeline.sft.controls import ShuffledNames
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import Trained, staged

DATA = ["flow_texts", "evaluation_split", "base_model"]


def adapter_of(step: Step, stage: str) -> Path | None:
    """Return the folder of this partition's checkpoint; None for the untrained student, which is the base alone."""
    partition = step.artefact.partition
    trained = Trained.parse(partition).track != "untrained"
    return step.input(staged("lora_checkpoint", stage), partition) if trained else None


def student(step: Step, stage: str) -> AbstractContextManager[Student]:
    """Open the student of this partition's checkpoint for a `with` block."""
    return opened_student(step, base_location(step), adapter_of(step, stage))


def prompts_of(step: Step, side: str) -> tuple[list[str], list[str]]:
    """Return flow groups and texts of the distinct flows of one side."""
    flows = side_texts(texts_of(step), records_of(step), side)
    return flows["flow_group"].tolist(), flows["text"].tolist()


def explained_flows(step: Step) -> tuple[list[str], list[str]]:
    """Return flow groups and texts of the test flows that students explain: a seeded choice, alike for all of them."""
    groups, texts = prompts_of(step, "test")
    shuffled = np.random.default_rng(step.settings.data.seed).permutation(len(texts))
    chosen = sorted(shuffled[: step.settings.evaluation.explained_flows])
    return [groups[i] for i in chosen], [texts[i] for i in chosen]


def names_of(step: Step) -> ShuffledNames | None:
    """Return the feature names that this partition's student reads in flows; None if they are the true ones."""
    return shuffled_names(step) if Trained.parse(step.artefact.partition).track == "shuffled_names" else None


def class_scores(step: Step, model: Student, texts: list[str]) -> np.ndarray:
    """Score each class for flow texts: log-probabilities, float64 [texts, classes]."""
    return model.score_labels(asked_of(step, texts), step.spec.classes, log=step.log)


def asked_of(step: Step, texts: list[str]) -> list[str]:
    """Return the questions for the classes of flow texts."""
    tasks, names = step.settings.student.tasks, names_of(step)
    return [asked(names.flow(text) if names else text, "classify", tasks) for text in texts]
