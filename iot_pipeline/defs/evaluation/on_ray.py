"""Scores of a student's questions by replicas on Ray (IOT_BATCH=ray), in place of one student in this process."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from iot_pipeline.defs.inputs import base_location
from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.resources import work_folder
from iot_pipeline.errors import UserError
from iot_pipeline.inference.engines import REFERENCE, Opening
from iot_pipeline.inference.ray_batch import run_blocks
from iot_pipeline.inference.ray_blocks import GROUP, Pool
from iot_pipeline.inference.ray_scores import ScoreLabels, Scores
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.training.gpu_locks import cards_here, leased

Questions = Mapping[str, tuple[Sequence[str], Sequence[str]]]
Parts = dict[str, tuple[list[str], np.ndarray, np.ndarray]]


def scored_on_ray(step: Step, adapter: Path | None, questions: Questions) -> tuple[Parts, np.ndarray]:
    """Return flow groups, label scores and hidden states of each part, and the head's rows of the labels.

    Scores are those of the reference engine, as in this process. A killed step keeps its finished blocks.

    Args:
        step: The step.
        adapter: Folder of the adapter; None for the base alone.
        questions: Flow groups and questions of each part.
    """
    rows = {group: asked for groups, texts in questions.values() for group, asked in zip(groups, texts, strict=True)}
    if len(rows) < sum(len(groups) for groups, _ in questions.values()):
        raise UserError("a flow group is in two parts of the evaluation: `iot-pipeline verify` tells which file is bad")
    versions = hashlib.sha256(json.dumps(step.data_versions, sort_keys=True).encode()).hexdigest()
    work = ScoreLabels(Opening(base_location(step), adapter, REFERENCE), tuple(step.spec.classes), versions, True)
    folder = work_folder(step, dict(work.key), rows)
    write_table(folder / "questions.parquet", pa.table({GROUP: list(rows), "prompt": list(rows.values())}))
    with replicas(step) as pool:
        found = Scores.of(run_blocks(folder / "questions.parquet", folder / "scores", work, pool, step.log))
    places = {group: place for place, group in enumerate(found.groups)}
    parts: Parts = {}
    for part, (groups, _) in questions.items():
        chosen = [places[group] for group in groups]
        parts[part] = (list(groups), found.log_probs[chosen], found.states[chosen])
    return parts, found.label_rows


@contextlib.contextmanager
def replicas(step: Step) -> Iterator[Pool]:
    """Yield the replicas of the settings; those on this machine hold leases on their GPUs."""
    run = step.settings.run
    if run.ray_address is not None:
        yield Pool(run.ray_replicas, run.ray_address, run.threads)
        return
    here = cards_here()
    count = min(run.ray_replicas or len(here), len(here))
    with leased(here, count, step.log) as cards:
        yield Pool(run.ray_replicas, None, run.threads, tuple(cards) if here else None)
