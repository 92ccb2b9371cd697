"""Chat rows of training tensors: a track's answers, or those of a control, which change the track `original`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.defs.controls import shuffled_names
from iot_pipeline.defs.partitions import sources_of
from iot_pipeline.defs.recording import Step
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.sft import controls
from iot_pipeline.sft.controls import Row
from iot_pipeline.sft.tasks import Tasks, with_tasks
from iot_pipeline.sft.tensors import build_tensors, load_tensors
from iot_pipeline.vocabulary import stages_up_to

Parts = list[tuple[str, str]]  # (asset, partition) of answers


class Chats(NamedTuple):
    """Chat rows, one for each task, and what their tensors must have: `expected` rows or just under `tokens` tokens."""

    rows: Iterable[Row]
    expected: int | None
    tokens: int | None = None


def training_rows(step: Step, arm: str, stage: str, tokenizer: Any) -> Chats:
    """Return the chat rows that an arm trains on.

    Args:
        step: Step of the tensors.
        arm: Track or control.
        stage: Stage whose increments are taken, with those of all stages before.
        tokenizer: The base model's tokeniser, which measures the rows where tokens decide.
    """
    parts = [[(track, part) for part in stages_up_to(stage)] for track in sources_of(arm)]
    if arm == "repeated_originals":
        original, paraphrased = parts
        return repeated_originals(step, original, paraphrased, tokenizer)
    rows, count = answered(step, parts[0]), expected_rows(step.lake, parts[0], step.settings.student.tasks)
    if arm in ("shuffled_explanations", "other_class_explanations"):
        rows = getattr(controls, arm)(list(rows), step.settings.data.seed)
    return Chats(asked_of(step, in_form(step, arm, rows)), count)


def validation_rows(step: Step, arm: str) -> Chats:
    """Return the chat rows of the validation loss: the same flows and answers for every arm, in the arm's own form."""
    part: Parts = [("validation_answers", "")]
    rows, count = answered(step, part), expected_rows(step.lake, part, step.settings.student.tasks)
    return Chats(asked_of(step, in_form(step, arm, rows)), count)


def in_form(step: Step, arm: str, rows: Iterable[Row]) -> Iterable[Row]:
    """Put rows into an arm's form: class lines alone, or other feature names."""
    if arm == "label_only":
        return controls.label_only(rows)
    return shuffled_names(step).rows(rows) if arm == "shuffled_names" else rows


def repeated_originals(step: Step, original: Parts, paraphrased: Parts, tokenizer: Any) -> Chats:
    """Return distinct original rows, repeated to the tokens of the paraphrased track.

    Args:
        step: Step of the tensors.
        original: Increments of the track `original`.
        paraphrased: Those of `paraphrased`.
        tokenizer: The base model's tokeniser.
    """
    rows = controls.distinct_rows(asked_of(step, answered(step, original)))
    budget = int(token_lengths(step, asked_of(step, answered(step, paraphrased)), tokenizer).sum())
    places = controls.repeated(token_lengths(step, rows, tokenizer), budget, step.settings.data.seed)
    step.summarise(distinct_originals=len(rows), tokens_of_paraphrased=budget)
    return Chats((rows[place] for place in places), None, budget)


def token_lengths(step: Step, rows: Iterable[Row], tokenizer: Any) -> np.ndarray:
    """Return the tokens of each row [rows]."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        build_tensors(rows, tokenizer, step.settings.student.max_length, path)
        return load_tensors(path).lengths


def answered(step: Step, parts: Parts) -> Iterable[Row]:
    """Return the chat rows of answers, one part after the other."""
    files = [step.input(*part) / "track.jsonl" for part in parts]
    return (row for file in files for row in read_rows(file))


def asked_of(step: Step, rows: Iterable[Row]) -> Iterator[Row]:
    """Return each row once for each task."""
    tasks = step.settings.student.tasks
    return (asked for row in rows for asked in with_tasks(row, tasks))


def expected_rows(lake: Lake, parts: Parts, tasks: Tasks) -> int:
    """Return the number of training rows that follows from the row counts of the answers' manifests."""
    manifests = [lake.manifest(ArtefactId(*part)) for part in parts]
    return sum(manifest.summary["rows"] for manifest in manifests if manifest) * (2 if tasks == "both" else 1)


def write_rows(rows: Iterable[Row], out: Path) -> None:
    """Write chat rows as a JSONL file."""
    with out.open("w", encoding="utf-8") as whole:
        for row in rows:
            whole.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_rows(jsonl: Path) -> Iterator[Row]:
    """Yield the rows of a JSONL file."""
    with jsonl.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def tensor_files(step: Step, tensors: Path) -> dict[str, Path | None]:
    """Return the files of training tensors that a training reads, by the name of its setting."""
    classes = tensors / "classes.safetensors" if step.settings.student.class_rows else None
    files = {"tensors": tensors / "train.safetensors", "validation": tensors / "validation.safetensors"}
    return {**files, "classes": classes}
