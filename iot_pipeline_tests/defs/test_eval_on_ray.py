"""`eval_metrics` with IOT_BATCH=ray: the replicas' work, done here by a stand-in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.evaluation import assets as evaluation
from iot_pipeline.defs.evaluation import on_ray
from iot_pipeline.inference.ray_batch import Result
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline_tests.defs.sides import STUDENT, Sides, Student, make


def test_replicas_on_ray_are_asked_the_same_and_give_the_same_artefact(
    sides: Sides, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = ArtefactId("eval_metrics_10K", STUDENT)
    make(evaluation.eval_metrics("10K"), partition=STUDENT)
    before, asked = sides.lake.manifest(evaluated), list(student.scored)
    opened: list[tuple[Any, ...]] = []

    def here(source: Path, out: Path, work: Any, pool: Any, log: Any) -> Result:
        write_table(out / "0.parquet", work.open(pool.threads)(pq.read_table(source)))
        return Result([out / "0.parquet"], {})

    def opening(*given: Any) -> SimpleNamespace:
        opened.append(given)
        return SimpleNamespace(name="stand-in", open=lambda _threads: student)

    monkeypatch.setattr(on_ray, "run_blocks", here)
    monkeypatch.setattr(on_ray, "Opening", opening)
    monkeypatch.setattr("iot_pipeline.inference.states.label_rows", lambda _, classes: np.zeros((len(classes), 5)))
    monkeypatch.setenv("IOT_BATCH", "ray")
    settings_module.settings.cache_clear()
    make(evaluation.eval_metrics("10K"), partition=STUDENT)
    monkeypatch.delenv("IOT_BATCH")
    settings_module.settings.cache_clear()
    after = sides.lake.manifest(evaluated)
    assert before is not None and after is not None and before.data_version == after.data_version
    assert student.scored == asked * 2 and len(opened) == 1
    assert opened[0][1] == sides.lake.folder(ArtefactId("lora_checkpoint_10K", STUDENT))
    assert not any((sides.lake.root / ".work").glob("eval_metrics*"))
