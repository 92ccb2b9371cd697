"""The trainer resource for real: what it hands back, says of a failure, leaves of a cancelled run, and keeps."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.defs import resources
from iot_pipeline.defs.home import dagster_home
from iot_pipeline.defs.plan import Planned, forecast
from iot_pipeline.defs.recording import LakeResource, Step, progress
from iot_pipeline.defs.resources import TeacherResource, TrainerResource, clear_work
from iot_pipeline.defs.training.assets import base_config, base_model, lora_checkpoint, train_config
from iot_pipeline.defs.training.rows import expected_rows
from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.lake.yaml_reader import read_yaml
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.training import launch, train
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.vocabulary import Trained
from iot_pipeline_tests.tiny_model import CLASSES, chats, flow_texts, make_base

QUICK = {"IOT_TRAIN_MAX_STEPS": "2", "IOT_TRAIN_STEP_ROWS": "4", "IOT_PROCESSES": "1", "IOT_THREADS": "1"}
QUICK |= {"IOT_CLASS_ROWS": "0"}  # the split below has no class rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that holds a base and a training_split."""
    lake = Lake(tmp_path_factory.mktemp("trainer"))
    with lake.replacing(ArtefactId("base_model")) as folder:
        make_base(folder / "model")
        write_json(folder / "base.json", {"kind": "tiny", "name": "model"})
        finish_artefact(folder, manifest("base_model", ""), set())
    tokenizer = load_tokenizer(lake.folder(ArtefactId("base_model")) / "model")
    with lake.replacing(ArtefactId("training_split_10K", "original")) as folder:
        for name in ("train", "validation"):
            build_tensors(chats(flow_texts(8)), tokenizer, 200, folder / f"{name}.safetensors")
        finish_artefact(folder, manifest("training_split_10K", "original"), set())
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

    @dg.asset(code_version="1", deps=["base_model", "training_split_10K"])
    def trained(
        context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        with lake.step(context) as step:
            body(step, trainer)
        return step.result()

    return dg.materialize(
        [trained],
        resources={"lake": LakeResource(), "trainer": TrainerResource()},
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )


def config_of(step: Step) -> TrainConfig:
    return train_config(step, "10K", Trained(2027, "original"), None)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return data.user_failure_data.description if data.user_failure_data else str(data.error)


@contextlib.contextmanager
def record_progress() -> Iterator[list[str]]:
    """Collect the progress of artefacts."""
    handler, said = logging.Handler(), list[str]()
    handler.emit = lambda record: said.append(record.getMessage()) if record.event == "progress" else None  # type: ignore
    progress.addHandler(handler)
    try:
        yield said
    finally:
        progress.removeHandler(handler)


def test_it_hands_progress_and_facts_back_and_trains_once_though_the_asset_fails_behind_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def train_then_fail(step: Step, trainer: TrainerResource) -> None:
        found.append((config_of(step), trainer.train(step, [config_of(step)], 1)[0]))
        raise OSError("no space left on device")

    with record_progress() as said:
        assert not run(train_then_fail).success
    ((config, facts),) = found
    assert (facts["facts"]["steps"], facts["facts"]["processes"]) == (2, 1)
    assert {"torch", "transformers", "peft", "deterministic", "tf32", "seed"} <= facts["machine"].keys()
    assert (config.out / "adapter_model.safetensors").is_file()
    assert any(line.startswith("step 2 of 2, loss ") for line in said)
    monkeypatch.setattr(TrainerResource, "_run", lambda *_, **__: pytest.fail("it trained again"))
    choose(monkeypatch, IOT_TRAIN_MICRO_ROWS="1", IOT_PACKING="on", IOT_THREADS="2", IOT_GRADIENT_CHECKPOINTING="true")

    def train_and_clear(step: Step, trainer: TrainerResource) -> None:
        assert trainer.train(step, [config_of(step)], 1)[0]["facts"]["steps"] == 2
        clear_work(step)

    assert run(train_and_clear).success
    assert not list((lake.root / ".work").iterdir())


def test_only_what_steers_a_training_names_its_folder(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def look(step: Step, _trainer: TrainerResource) -> None:
        folders.append(config_of(step).out)
        (folders[-1] / "checkpoint.safetensors").write_bytes(b"hours of work")

    run(look)
    choose(
        monkeypatch,
        IOT_TRAIN_MICRO_ROWS="1",
        IOT_PACKING="on",
        IOT_PACK_TOKENS="512",
        IOT_THREADS="7",
        IOT_SAVE_EVERY="3",
        IOT_SAVE_MINUTES="1",
        IOT_GRADIENT_CHECKPOINTING="true",
    )
    run(look)
    assert folders[0] == folders[1]
    choose(monkeypatch, IOT_LEARNING_RATE="0.5")
    run(look)
    assert folders[2] != folders[0] and not folders[0].exists()


def test_accelerate_trains_as_local_does_and_refuses_what_it_would_not_do(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, IOT_TRAINER="accelerate")
    found: list[Any] = []
    assert run(lambda step, trainer: found.append(trainer.train(step, [config_of(step)], 1)[0])).success
    assert found[0]["facts"]["processes"] == 1 and found[0]["facts"]["steps"] == 2
    said = failure(
        run(lambda step, trainer: trainer.train(step, [config_of(step).model_copy(update={"max_steps": 3})], 2))
    )
    assert said.startswith("IOT_TRAINER=accelerate runs one process where there is no GPU")


@pytest.mark.slow
def test_ray_trains_as_this_machine_does(lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    choose(monkeypatch, IOT_LAUNCHER="ray")
    found: list[Any] = []

    def train_on_ray(step: Step, trainer: TrainerResource) -> None:
        config = config_of(step)
        found.append((config, trainer.train(step, [config], trainer.count(step))[0]))

    with record_progress() as said:
        assert run(train_on_ray).success
    ((config, facts),) = found
    here = config.model_copy(update={"out": tmp_path / "here"})
    train.run(here)
    assert facts["facts"]["processes"] == 1 and facts["machine"]["threads"] == 1
    for name in ("adapter_model.safetensors", "loss.jsonl"):
        assert (config.out / name).read_bytes() == (here.out / name).read_bytes()
    assert any(line.startswith("step 2 of 2, loss ") for line in said)
    output = (config.out / "output.txt").read_text()
    assert "Ray" in output and "trained in" not in output  # that line went to Dagster
    assert not list(config.out.glob("iot-*"))


def test_trainings_on_ray_have_a_pool_of_the_clusters_size(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lora_checkpoint("10K").op.pool == "gpu"
    choose(monkeypatch, IOT_LAUNCHER="ray", IOT_RAY_SLOTS="6", DAGSTER_HOME="")
    chosen = settings_module.settings()
    assert lora_checkpoint("10K").op.pool == "ray" and chosen.run.slots()["ray"] == 6
    runs = read_yaml(dagster_home(chosen) / "dagster.yaml")["concurrency"]["runs"]
    assert runs["max_concurrent_runs"] == 9  # four, and five trainings more


def test_a_merged_model_answers_as_base_and_adapter_do(lake: Lake, tmp_path: Path) -> None:
    base, adapter = ArtefactId("base_model"), ArtefactId("lora_checkpoint_10K", "2027|original")
    with pytest.raises(UserError, match="has not been made"):
        find(lake, "10K", Trained(2027, "original"))
    config = TrainConfig(
        base=str(lake.folder(base) / "model"),
        out=tmp_path / "out",
        max_steps=3,
        step_rows=4,
        learning_rate=0.05,
        tensors=lake.folder(ArtefactId("training_split_10K", "original")) / "train.safetensors",
        threads=1,
    )
    train.run(config)
    with lake.replacing(adapter) as folder:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copy(config.out / name, folder)
        finish_artefact(folder, manifest(adapter.asset, adapter.partition), set())
    found = find(lake, "10K", Trained(2027, "original"))
    assert found.name == "tiny", "events name the base, not its folder"
    assert set(found.made_of) == {str(base), str(adapter)}
    Student.load(found.base, found.adapter, "cpu", 1).save(tmp_path / "merged")
    one, two = Student.load(tmp_path / "merged", None, "cpu", 1), Student.load(config.base, config.out, "cpu", 1)
    texts = flow_texts(3)
    assert np.allclose(one.score_labels(texts, CLASSES), two.score_labels(texts, CLASSES), atol=1e-6)


def test_a_lost_row_fails_the_check_of_its_split(lake: Lake) -> None:
    for stage, rows in (("10K", 5), ("30K", 3)):
        with lake.replacing(ArtefactId("original", stage)) as folder:
            finish_artefact(folder, replace(manifest("original", stage), summary={"rows": rows}), set())
    parts = [("original", stage) for stage in ("10K", "30K")]
    assert (expected_rows(lake, parts, "explain"), expected_rows(lake, parts, "both")) == (8, 16)
    split = lake.folder(ArtefactId("training_split_10K", "original"))
    tokenizer = load_tokenizer(lake.folder(ArtefactId("base_model")) / "model")
    assert check_tensors(split / "train.safetensors", tokenizer, 200, 8).problems == []
    build_tensors(chats(flow_texts(7)), tokenizer, 200, split / "train.safetensors")
    assert check_tensors(split / "train.safetensors", tokenizer, 200, 8).problems == ["7 rows where 8 were expected"]


def test_a_failed_training_says_why_in_one_line(lake: Lake) -> None:
    def ruin(step: Step, trainer: TrainerResource) -> None:
        config = config_of(step)
        broken = config.out / "broken.safetensors"
        broken.write_bytes(b"no tensors")
        trainer.train(step, [config.model_copy(update={"tensors": broken})], 2)

    said = failure(run(ruin))
    assert said.startswith("training ended with code ") and "not a readable tensor file" in said
    assert said.count("error: ") == 1 and "Traceback" not in said


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_says_what_can_be_done(processes: int, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "command", partial(launch.command, module="iot_pipeline_tests.defs.killed_rank"))
    said = failure(run(lambda step, trainer: trainer.train(step, [config_of(step)], processes)))
    assert "it was killed" in said and "IOT_TRAIN_MICRO_ROWS" in said


def test_a_cancelled_run_leaves_no_process(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # The launcher and its ranks are real; what the ranks do is not the point, and takes 8 s to load.
    monkeypatch.setattr(resources, "command", partial(launch.command, module="iot_pipeline_tests.defs.endless_rank"))
    folders: list[Path] = []

    def cancelled(step: Step, trainer: TrainerResource) -> None:
        def stop(_text: str) -> None:
            raise KeyboardInterrupt

        config = config_of(step)
        folders.append(config.out)
        monkeypatch.setattr(step, "progress", stop)
        trainer.train(step, [config], 2)

    assert not run(cancelled).success
    assert sorted(path.suffix for path in folders[0].glob("rank.*")) == [".0", ".1"]
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


def test_threads_that_are_set_and_threads_that_are_meant_build_the_same_base(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    found: list[str] = []
    for threads in ("", "2", "4"):
        choose(monkeypatch, IOT_PROCESSES="4", IOT_THREADS=threads)
        assert run(
            lambda step, trainer: found.append(
                base_config(step, flow_texts(3), trainer.count_for_base(step)).identity()
            )
        ).success
    assert found[0] == found[1] != found[2]


def test_a_base_that_is_not_fit_stops_the_teacher_before_it_is_asked(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    shutil.copytree(lake.folder(ArtefactId("base_model")) / "model", given)
    whole = (given / "model.safetensors").read_bytes()
    choose(monkeypatch, IOT_BASE_MODEL=str(given))
    opened: list[str] = []

    @dg.asset(code_version="1")
    def asked(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            with teacher.open(step) as engine:
                opened.append(engine.source)
        return step.result()

    def ask() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asked],
            resources={"lake": LakeResource(), "teacher": TeacherResource()},
            raise_on_error=False,
            instance=dg.DagsterInstance.ephemeral(),
        )

    (given / "model.safetensors").write_bytes(whole[:-50])
    assert "model.safetensors is cut off or damaged" in failure(ask())
    assert opened == [] and not (lake.root / "teacher.sqlite").exists()
    (given / "model.safetensors").write_bytes(whole)
    assert ask().success and len(opened) == 1


def test_the_launchpad_changes_how_a_run_is_carried_out_and_nothing_of_it_is_recorded(lake: Lake) -> None:
    found: list[tuple[str, int]] = []

    @dg.asset(code_version="1")
    def asked(context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource) -> dg.MaterializeResult:
        with lake.step(context) as step:
            with teacher.open(step) as engine:
                found.append((engine.config.via, engine.config.concurrency))
        return step.result()

    done = dg.materialize(
        [asked],
        resources={"lake": LakeResource(), "teacher": TeacherResource.configure_at_launch()},
        run_config={"resources": {"teacher": {"config": {"via": "batch", "concurrency": 3}}}},
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert done.success and found == [("batch", 3)]
    manifest = lake.manifest(ArtefactId("asked"))
    assert manifest is not None and not any("concurrency" in name or "via" in name for name in manifest.settings)


def test_a_folder_given_as_base_is_known_by_its_files(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    shutil.copytree(lake.folder(ArtefactId("base_model")) / "model", given)
    choose(monkeypatch, IOT_LAKE=str(lake.root), IOT_BASE_MODEL=str(given), IOT_MAX_LENGTH="128")
    resources = {"lake": LakeResource(), "trainer": TrainerResource()}
    assert dg.materialize([base_model], resources=resources, instance=dg.DagsterInstance.ephemeral()).success
    chosen, made = settings_module.settings(), ArtefactId("base_model")
    planned = Planned(made, "training", lake.manifest(made).code_version)
    assert forecast(lake, chosen, [planned])[made] == []
    config = given / "config.json"
    config.write_text(config.read_text() + " ")
    assert forecast(lake, chosen, [planned])[made] == [f"file {config} changed"]
