"""Fixtures of tests that follow flows by their side of the split."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.evaluation import assets as evaluation
from iot_pipeline.defs.evaluation import students, unknown_students
from iot_pipeline.defs.flows import assets as flows
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.splits import assets as splits
from iot_pipeline.defs.training import grid, paper
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.vocabulary import Trained
from iot_pipeline_tests.defs.reported import make_reported
from iot_pipeline_tests.defs.sides import TRAINED, VALUES, Sides, Student, make
from iot_pipeline_tests.shared import built_once
from iot_pipeline_tests.tiny_model import make_base


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """A lake with real splits, texts and answers, a base of a few steps and a student that is only a folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VALUES.items():
            patch.setenv(name, value)
        root = tmp_path_factory.mktemp("sides") / "lake"
        shutil.copytree(built_once(tmp_path_factory, "sides", lambda folder: fill(patch, folder)), root)
        choose_lake(patch, root)
        yield Sides(Lake(root))
    settings_module.settings.cache_clear()


def choose_lake(patch: pytest.MonkeyPatch, root: Path) -> None:
    patch.setenv("IOT_LAKE", str(root))
    settings_module.settings.cache_clear()


def fill(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Make the artefacts of the lake."""
    choose_lake(patch, root)
    lake = Lake(root)
    make(flows.raw_flows, flows.flows, splits.evaluation_split, splits.training_order, splits.flow_texts)
    for track in ("original", "paraphrased"):
        make(prompts.prompt, partition=track)
    with lake.replacing(ArtefactId("base_model")) as folder:
        make_base(folder / "model")
        write_json(folder / "base.json", {"kind": "tiny", "name": "model"})
        finish_artefact(folder, Manifest("base_model", "", "", "1", {}, {}, {}), set())
    make(augmentation.original, augmentation.paraphrased, partition="10K")
    make(augmentation.validation_answers)
    for student in (Trained(2027, arm).key for arm in TRAINED):
        with lake.replacing(ArtefactId("lora_checkpoint_10K", student)) as folder:
            finish_artefact(folder, Manifest("lora_checkpoint_10K", student, "", "1", {}, {}, {}), set())


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> Student:
    opened = Student()
    for module in (students, grid, paper, unknown_students):
        monkeypatch.setattr(module, "opened_student", opened.opened)
    for module in (evaluation, unknown_students):
        monkeypatch.setattr(module, "label_rows", lambda _student, classes: np.zeros((len(classes), 5)))
    return opened


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a lake with two tracks and a report, which no test may change."""
    built = built_once(tmp_path_factory, "reported", make_reported)
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("reported") / "lake"))
