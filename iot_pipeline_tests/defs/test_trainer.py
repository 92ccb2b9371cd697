"""The trainer resource for real: what it hands back, says of a failure, leaves of a cancelled run, and keeps."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs import step as step_module
from iot_pipeline.defs.resources import TrainerResource, clear_work
from iot_pipeline.defs.step import LakeResource, Step
from iot_pipeline.defs.training.assets import expected_rows, train_config
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.sft.tokenizer import load_tokenizer
from iot_pipeline.training.config import TrainConfig
from iot_pipeline_tests.tiny import chats, flow_texts, make_base

QUICK = {"IOT_TRAIN_MAX_STEPS": "2", "IOT_TRAIN_STEP_ROWS": "4", "IOT_PROCESSES": "1", "IOT_THREADS": "1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that holds a base and a training_split."""
    lake = Lake(tmp_path_factory.mktemp("trainer"))
    with lake.replacing(ArtefactId("base_model")) as folder:
        make_base(folder / "model")
        write_json(folder / "base.json", {"kind": "tiny", "name": "model"})
        finish_artefact(folder, manifest("base_model", ""), set())
    tokenizer = load_tokenizer(lake.folder(ArtefactId("base_model")) / "model")
    with lake.replacing(ArtefactId("training_split", "10K|original")) as folder:
        for name in ("train", "validation"):
            build_tensors(chats(flow_texts(8)), tokenizer, 200, folder / f"{name}.safetensors")
        finish_artefact(folder, manifest("training_split", "10K|original"), set())
    return lake.root


def manifest(asset: str, partition: str) -> Manifest:
    return Manifest(asset, partition, "", "1", {}, {}, {})


@pytest.fixture
def lake(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    shutil.copytree(made, tmp_path / "lake")
    choose(monkeypatch, IOT_LAKE=str(tmp_path / "lake"), **QUICK)
    yield Lake(tmp_path / "lake")
    settings_module.settings.cache_clear()


def choose(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()


def run(body: Callable[[Step, TrainerResource], Any]) -> dg.ExecuteInProcessResult:
    """Run `body` as the body of an asset."""

    @dg.asset(code_version="1")
    def trained(
        context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        with lake.step(context) as step:
            body(step, trainer)
        return step.result()

    return dg.materialize(
        [trained], resources={"lake": LakeResource(), "trainer": TrainerResource()}, raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )


def config_of(step: Step) -> TrainConfig:
    return train_config(step, "10K", "original", None)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return data.user_failure_data.description if data.user_failure_data else str(data.error)


def test_it_trains_and_hands_progress_and_facts_back(lake: Lake) -> None:
    found: list[Any] = []
    said: list[str] = []
    step_module.listeners.append(lambda _artefact, event, text: said.append(text) if event == "progress" else None)
    try:
        result = run(lambda step, trainer: found.append((config_of(step), trainer.train(step, config_of(step), 1))))
    finally:
        step_module.listeners.pop()
    assert result.success, failure(result)
    ((config, facts),) = found
    assert (facts["facts"]["steps"], facts["facts"]["processes"]) == (2, 1)
    assert {"torch", "transformers", "peft", "deterministic", "tf32", "seed"} <= facts["machine"].keys()
    assert (config.out / "adapter_model.safetensors").is_file()
    assert any(line.startswith("step 2 of 2, loss ") for line in said)


def test_what_was_trained_is_not_trained_again_when_the_asset_failed_behind_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_then_fail(step: Step, trainer: TrainerResource) -> None:
        trainer.train(step, config_of(step), 1)
        raise OSError("no space left on device")

    assert not run(train_then_fail).success
    monkeypatch.setattr(TrainerResource, "_run", lambda *_, **__: pytest.fail("it trained again"))
    choose(monkeypatch, IOT_TRAIN_MICRO_ROWS="1", IOT_PACKING="on", IOT_THREADS="2", IOT_GRADIENT_CHECKPOINTING="true")

    def train_and_clear(step: Step, trainer: TrainerResource) -> None:
        assert trainer.train(step, config_of(step), 1)["facts"]["steps"] == 2
        clear_work(step)

    assert run(train_and_clear).success
    assert not list((lake.root / ".work").iterdir())


def test_only_what_steers_a_training_names_its_folder(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def look(step: Step, _trainer: TrainerResource) -> None:
        folders.append(config_of(step).out)
        (folders[-1] / "checkpoint.safetensors").write_bytes(b"hours of work")

    run(look)
    choose(monkeypatch, IOT_TRAIN_MICRO_ROWS="1", IOT_PACKING="on", IOT_PACK_TOKENS="512", IOT_THREADS="7",
           IOT_SAVE_EVERY="3", IOT_SAVE_MINUTES="1", IOT_GRADIENT_CHECKPOINTING="true")
    run(look)
    assert folders[0] == folders[1]
    choose(monkeypatch, IOT_LEARNING_RATE="0.5")
    run(look)
    assert folders[2] != folders[0] and not folders[0].exists()


def test_a_lost_row_fails_the_check_of_its_split(lake: Lake) -> None:
    for stage, rows in (("10K", 5), ("30K", 3)):
        with lake.replacing(ArtefactId("original", f"{stage}|original")) as folder:
            finish_artefact(folder, replace(manifest("original", f"{stage}|original"), summary={"rows": rows}), set())
    parts = [("original", f"{stage}|original") for stage in ("10K", "30K")]
    assert (expected_rows(lake, parts, "explain"), expected_rows(lake, parts, "both")) == (8, 16)
    split = lake.folder(ArtefactId("training_split", "10K|original"))
    tokenizer = load_tokenizer(lake.folder(ArtefactId("base_model")) / "model")
    assert check_tensors(split / "train.safetensors", tokenizer, 200, 8).passed
    build_tensors(chats(flow_texts(7)), tokenizer, 200, split / "train.safetensors")
    assert check_tensors(split / "train.safetensors", tokenizer, 200, 8).problems == ["7 rows where 8 were expected"]


def test_a_failed_training_says_why_in_one_line(lake: Lake) -> None:
    def ruin(step: Step, trainer: TrainerResource) -> None:
        config = config_of(step)
        broken = config.out / "broken.safetensors"
        broken.write_bytes(b"no tensors")
        trainer.train(step, config.model_copy(update={"tensors": broken}), 2)

    said = failure(run(ruin))
    assert said.startswith("training ended with code ") and "not a readable tensor file" in said
    assert said.count("error: ") == 1 and "Traceback" not in said


def test_a_cancelled_run_leaves_no_process(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, IOT_TRAIN_MAX_STEPS="1000000")
    folders: list[Path] = []

    def cancelled(step: Step, trainer: TrainerResource) -> None:
        def stop(_text: str) -> None:
            raise KeyboardInterrupt

        config = config_of(step).model_copy(update={"log_seconds": 0.01})
        folders.append(config.out)
        monkeypatch.setattr(step, "progress", stop)
        trainer.train(step, config, 2)

    assert not run(cancelled).success
    assert processes_of(folders[0]) == []


def processes_of(folder: Path) -> list[int]:
    """Ids of processes whose command line names the folder, a moment later."""
    time.sleep(0.2)
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found
