"""Class rows of a student: distinct flows of its own rows, and of the train pool if it learns from a baseline."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from iot_pipeline.defs.inputs import probabilities_of, records_of, texts_of
from iot_pipeline.defs.partitions import sources_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.training.rows import in_form, read_rows
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.flows.dataset import side_texts
from iot_pipeline.models.tokenizer import LABEL_LINE
from iot_pipeline.sft.check import check_class_tensors
from iot_pipeline.sft.class_rows import Questions, build_class_tensors, labelled, masked
from iot_pipeline.sft.controls import Row, label_of
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import DISTILLED, stages_up_to


def write_class_rows(step: Step, arm: str, stage: str, tokenizer: Any) -> list[str]:
    """Write the tensors of an arm's class rows into the artefact; return what their check finds wrong.

    Args:
        step: Step of the tensors.
        arm: Track or control.
        stage: Stage whose increments are taken, with those of all stages before.
        tokenizer: The base model's tokeniser.
    """
    student, classes = step.settings.student, step.spec.classes
    triples = list(labelled_texts(step, arm, stage))
    questions = labelled(triples, classes)
    parts = [(questions, 1.0)]
    if arm == DISTILLED:
        parts = distilled(step, questions, {text: group for text, group, _ in triples}, stage)
    parts[0] = masked(parts[0][0], student.class_copies, step.settings.data.seed), parts[0][1]
    told = build_class_tensors(
        parts, classes, student.class_power, tokenizer, student.max_length, step.folder / "classes.safetensors"
    )
    step.json("class_rows.json", told)
    step.summarise(**{name: value for name, value in told.items() if not isinstance(value, dict)})
    return check_class_tensors(step.folder / "classes.safetensors", tokenizer, student.max_length, classes)


def labelled_texts(step: Step, arm: str, stage: str) -> Iterator[tuple[str, str, str]]:
    """Yield the question, flow group and label of each answered row of an arm; ValueError if files do not agree."""
    track, tasks = sources_of(arm)[0], step.settings.student.tasks
    for part in stages_up_to(stage):
        folder = step.input(track, part)
        status = pq.read_table(folder / "provenance.parquet", columns=["flow_group", "status"])
        groups = [row["flow_group"] for row in status.to_pylist() if row["status"] == "ok"]
        rows: Iterable[Row] = in_form(step, arm, read_rows(folder / "track.jsonl"))
        for row, group in zip(rows, groups, strict=True):
            text = asked(row["messages"][0]["content"], "classify", tasks)
            yield text, group, label_of(row).removeprefix(LABEL_LINE).strip()


def distilled(step: Step, questions: Questions, groups: dict[str, str], stage: str) -> list[tuple[Questions, float]]:
    """Return class rows that learn from the baseline: the stage's labelled flows, and all others of the train pool.

    Args:
        step: Step of the tensors.
        questions: Labelled flows.
        groups: Flow group of each of their texts.
        stage: Stage on whose rows the baseline was trained.
    """
    chosen, classes = step.settings.student, step.spec.classes
    found = read_predictions(probabilities_of(step, stage), classes)
    probabilities = dict(zip(found[0], np.exp(found[1]), strict=True))
    own = np.array([probabilities[groups[text]] for text in questions.texts])
    mixed = (1 - chosen.distil_weight) * questions.shares + chosen.distil_weight * own
    known = set(groups.values())
    pool = side_texts(texts_of(step), records_of(step), "train")
    pool = pool[~pool["flow_group"].isin(known)]
    if pool.empty:  # the stage has every flow of the train pool
        return [(Questions(questions.texts, mixed, questions.weights), 1.0)]
    if missing := set(pool["flow_group"]) - probabilities.keys():
        raise UserError(f"baseline_probabilities[{stage}] lacks {len(missing)} flows of the train pool; make it again")
    texts = [asked(text, "classify", chosen.tasks) for text in pool["text"]]
    others = Questions(texts, np.array([probabilities[group] for group in pool["flow_group"]]), np.ones(len(texts)))
    share = chosen.distil_pool
    return [(Questions(questions.texts, mixed, questions.weights), 1 - share), (others, share)]
