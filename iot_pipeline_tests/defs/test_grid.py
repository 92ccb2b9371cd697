"""The data-by-steps grid in the lake: cells planned, trained at equal tokens, resumed, and read by the study."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.definitions import defs
from iot_pipeline.defs.evaluation.study import study
from iot_pipeline.defs.plan import wanted
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.resources import TrainerResource
from iot_pipeline.defs.training import grid
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.grid import MORE_DATA, MORE_TOKENS
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.evaluation.study import ONE_SEED
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.settings import load_settings
from iot_pipeline.sft.class_rows import Questions, build_class_tensors
from iot_pipeline.sft.tensors import build_tensors, load_tensors
from iot_pipeline.training.data import make_draws, make_plan
from iot_pipeline_tests.tiny_model import chats, flow_texts, make_base

CLASSES = list(load_spec("farm_flow").classes)
ROWS = {"10K": 12, "30K": 40}
SETTINGS = {"IOT_TRAIN_STEP_ROWS": "4", "IOT_PROCESSES": "1", "IOT_THREADS": "1", "IOT_SEEDS": "7"}
SETTINGS |= {"IOT_CLASS_ROWS": "2"}
TEXTS = flow_texts(60, seed=3)
SIDES = {"test": range(0, 40), "validation": range(40, 60)}


def plan(**settings: Any) -> list[str]:
    made = wanted(defs(), load_settings({}, **settings))
    return [str(p.artefact) for p in made if p.artefact.asset.startswith("data_grid")]


def test_the_grid_is_off_by_default_and_has_nothing_to_train_at_one_stage() -> None:
    assert plan() == plan(stages="10K,30K") == plan(stages="10K", grid=True) == []
    assert load_settings({}).run.grid is False


def test_every_pair_of_different_stages_is_a_cell_of_each_seed() -> None:
    assert plan(stages="10K,30K", grid=True) == ["data_grid_10K[2027|30K]", "data_grid_30K[2027|10K]"]
    assert len(plan(stages="10K,30K,70K,150K,ALL", grid=True)) == 20
    with pytest.raises(UserError, match="add it to IOT_TRACKS"):
        plan(stages="10K,30K", grid=True, tracks="paraphrased")
    with pytest.raises(UserError, match="IOT_STAGE_CHAIN=independent"):
        load_settings({}, grid=True, stage_chain="warm_start")


def test_a_cell_depends_on_its_rows_and_on_the_student_whose_tokens_it_takes() -> None:
    graph, key = defs().resolve_asset_graph(), dg.MultiPartitionKey({"seed": "2027", "tokens": "30K"})
    parents = graph.get_parents_partitions(dg.AssetKey("data_grid_10K"), key).parent_partitions
    assert {(parent.asset_key.to_user_string(), str(parent.partition_key)) for parent in parents} == {
        ("base_model", "None"),
        ("flow_texts", "None"),
        ("evaluation_split", "None"),
        ("training_split_10K", "original"),
        ("lora_checkpoint_30K", "2027|original"),
    }


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake with a base of a few steps, tensors of two stages, and students of one pass that are a token count."""
    choose(monkeypatch, IOT_LAKE=str(tmp_path), **SETTINGS)
    lake = Lake(tmp_path)
    with lake.replacing(ArtefactId("base_model")) as folder:
        make_base(folder / "model")
        write_json(folder / "base.json", {"kind": "tiny", "name": "model"})
        finish(folder, ArtefactId("base_model"))
    tokenizer = load_tokenizer(lake.folder(ArtefactId("base_model")) / "model")
    for stage, rows in ROWS.items():
        with lake.replacing(ArtefactId(f"training_split_{stage}", "original")) as folder:
            stats = build_tensors(chats(flow_texts(rows)), tokenizer, 200, folder / "train.safetensors")
            build_tensors(chats(flow_texts(4, seed=1)), tokenizer, 200, folder / "validation.safetensors")
            write_json(folder / "stats.json", stats.plain())
            questions = Questions(flow_texts(rows), np.eye(len(CLASSES))[np.arange(rows) % 3], np.ones(rows))
            told = build_class_tensors([(questions, 1.0)], CLASSES, 0.5, tokenizer, 200, folder / "classes.safetensors")
            write_json(folder / "class_rows.json", told)
            drawn = make_draws(load_tensors(folder / "classes.safetensors"), 2, rows // 4, 7).tokens(rows // 4)
            finish(folder, ArtefactId(f"training_split_{stage}", "original"))
        with lake.replacing(ArtefactId(f"lora_checkpoint_{stage}", "7|original")) as folder:
            write_json(folder / "training.json", {"facts": {"tokens_read": stats.tokens + drawn}})
            finish(folder, ArtefactId(f"lora_checkpoint_{stage}", "7|original"))
    make_sides(lake)
    yield lake
    settings_module.settings.cache_clear()


def make_sides(lake: Lake) -> None:
    """Put test and validation flows and their texts into the lake."""
    rows = [(side, index) for side, places in SIDES.items() for index in places]
    records = pd.DataFrame({"side": [side for side, _ in rows], "row_id": [index for _, index in rows]})
    records["flow_group"] = [f"{index:04d}" for _, index in rows]
    records["label"] = [CLASSES[index % 3] for _, index in rows]
    records[["rows", "group_rows"]] = 1
    tables = {"evaluation_split": ("records", records), "flow_texts": ("texts", records[["flow_group"]].copy())}
    tables["flow_texts"][1]["text"] = [TEXTS[index] for _, index in rows]
    for asset, (name, table) in tables.items():
        with lake.replacing(ArtefactId(asset)) as folder:
            table.to_parquet(folder / f"{name}.parquet", index=False)
            finish(folder, ArtefactId(asset))


def finish(folder: Path, artefact: ArtefactId) -> None:
    finish_artefact(folder, Manifest(artefact.asset, artefact.partition, "", "1", {}, {}, {}), set())


def choose(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()


def make(asset: dg.AssetsDefinition, partition: str | None = None, fails: bool = False) -> None:
    done = dg.materialize(
        [asset],
        partition_key=partition,
        instance=dg.DagsterInstance.ephemeral(),
        resources={"lake": LakeResource(), "trainer": TrainerResource()},
        raise_on_error=not fails,
    )
    assert done.success is not fails


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> dg.AssetsDefinition:
    """The grid's asset of stage 10K; its partitions were defined with the seeds of other settings."""
    partitions = dg.MultiPartitionsDefinition(
        {"seed": dg.StaticPartitionsDefinition(["7"]), "tokens": dg.StaticPartitionsDefinition(["30K"])}
    )
    monkeypatch.setattr(grid, "grid_partitions", lambda stage: partitions)
    return grid.data_grid("10K")


def test_a_cell_reads_as_many_tokens_as_the_other_student_and_a_killed_one_trains_once(
    lake: Lake, cell: dg.AssetsDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = grid.score
    monkeypatch.setattr(grid, "score", lambda *_: 1 / 0)
    make(cell, "7|30K", fails=True)
    monkeypatch.setattr(grid, "score", real)
    monkeypatch.setattr(TrainerResource, "_run", lambda *_, **__: pytest.fail("it trained again"))
    make(cell, "7|30K")
    folder = lake.folder(ArtefactId("data_grid_10K", "7|30K"))
    told, training = (json.loads((folder / name).read_text()) for name in ("cell.json", "training.json"))
    budget = json.loads((lake.folder(ArtefactId("lora_checkpoint_30K", "7|original")) / "training.json").read_text())
    assert told["budget"] == budget["facts"]["tokens_read"] and told["rows"] == "10K" and told["tokens"] == "30K"
    assert 0 <= told["budget"] - told["tokens_read"] < 4 * told["longest_row"] + 2 * told["longest_class_row"]
    assert training["facts"]["rows"] == 12 and training["facts"]["rows_read"] > 3 * 12 - 4
    found = json.loads((folder / "eval.json").read_text())
    assert found["groups"] == 40 and found["validation"]["groups"] == 20
    assert {"accuracy_test", "macro_f1_validation", "lowest_recall_test"} <= set(
        lake.manifest(ArtefactId("data_grid_10K", "7|30K")).summary
    )
    assert not list((lake.root / ".work").iterdir())


def test_a_cell_of_fewer_tokens_than_its_budget_is_refused(
    lake: Lake, cell: dg.AssetsDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_: Any, step: Any, configs: list[Any], processes: int) -> list[dict[str, Any]]:
        for name in grid.TOLD:
            write_json(configs[0].out / name, {})
        return [{"facts": {"tokens_read": configs[0].max_tokens // 2, "steps": 1}}]

    monkeypatch.setattr(TrainerResource, "train", train)
    monkeypatch.setattr(grid, "score", lambda *_: {})
    make(cell, "7|30K", fails=True)
    assert "tokens_are_equal" in lake.manifest(ArtefactId("data_grid_10K", "7|30K")).describe_failures()


def test_the_budget_of_its_own_stage_gives_the_ordinary_student_s_steps(lake: Lake) -> None:
    """So the diagonal may be read from the students that exist."""
    for stage in ROWS:
        lengths = load_tensors(
            lake.folder(ArtefactId(f"training_split_{stage}", "original")) / "train.safetensors"
        ).lengths
        ordinary = make_plan(lengths, 4, 1.0, None, 7)
        tokens = ordinary.tokens(ordinary.steps)
        cell = make_plan(lengths, 4, tokens / lengths.sum() + 1, None, 7, tokens)
        assert cell.steps == ordinary.steps
        assert all((cell.rows_of(step) == ordinary.rows_of(step)).all() for step in range(cell.steps))


def predicted(lake: Lake, asset: str, partition: str, errors: int) -> None:
    """Put predictions of the test flows into the lake, so many of them wrong."""
    certain = np.full((40, len(CLASSES)), -9.0)
    certain[np.arange(40), [(index + (index < errors)) % 3 for index in range(40)]] = 0
    artefact = ArtefactId(asset, partition)
    with lake.replacing(artefact) as folder:
        write_predictions(folder / "predictions.parquet", [f"{index:04d}" for index in range(40)], certain, CLASSES)
        write_json(folder / "cell.json", {"tokens_read": 900, "pass": 300})
        finish(folder, artefact)


def studied(lake: Lake) -> Any:
    make(study)
    return json.loads((lake.folder(ArtefactId("study")) / "study.json").read_text())["grid"]


def test_the_study_takes_the_diagonal_from_the_students_and_compares_neighbours(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, IOT_SEEDS="7,8")
    for seed in (7, 8):
        for stage, errors in (("10K", 20), ("30K", 4)):
            predicted(lake, f"eval_metrics_{stage}", f"{seed}|original", errors)
        predicted(lake, "data_grid_10K", f"{seed}|30K", 5)
    predicted(lake, "data_grid_30K", "7|10K", 20)
    found = studied(lake)
    assert found["left_out"] == ["30K rows, tokens of 10K"] and found["seeds"] == 2
    assert [(cell["rows"], cell["tokens"], cell["passes"]) for cell in found["cells"]] == [
        ("10K", "10K", None), ("30K", "30K", None), ("10K", "30K", 3.0)
    ]  # fmt: skip
    asked = {(row["question"], row["first"], row["second"]) for row in found["contrasts"]}
    assert asked == {
        (MORE_DATA, "30K rows, tokens of 30K", "10K rows, tokens of 30K"),
        (MORE_TOKENS, "10K rows, tokens of 30K", "10K rows, tokens of 10K"),
    }
    assert found["arms"]["10K rows, tokens of 10K"]["accuracy"]["mean"] == pytest.approx(0.5)


def test_without_trained_cells_there_is_no_grid_and_one_seed_gives_no_verdict(lake: Lake) -> None:
    for stage in ROWS:
        predicted(lake, f"eval_metrics_{stage}", "7|original", 4)
    assert studied(lake) is None
    predicted(lake, "data_grid_10K", "7|30K", 9)
    shutil.rmtree(lake.folder(ArtefactId("study")))
    assert {row["verdict"] for row in studied(lake)["contrasts"]} == {ONE_SEED}
