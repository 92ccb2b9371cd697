"""The tiny base, built in processes of its own: the same base from one process or two."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.tiny_base.__main__ import RESULT, BaseConfig
from iot_pipeline.training import launch


def build(folder: Path, processes: int, **changes: Any) -> tuple[dict[str, Any], str]:
    """(report, what it said on standard error)."""
    names = load_spec("farm_flow").feature_names
    numbers = np.random.default_rng(1).normal(0, 1, (120, len(names)))
    texts = ["\n".join(f"{name}: {value:.3f}" for name, value in zip(names, row, strict=True)) for row in numbers]
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps(texts))
    values = {
        "dataset": "farm_flow",
        "texts": folder / "texts.json",
        "out": folder,
        "words": 45,
        "order": "label_first",
        "steps": 3,
        "seed": 5,
        "threads": 1,
        "processes": processes,
    }
    config = BaseConfig(**(values | changes))
    path = config.write(folder / "config.json")
    done = subprocess.run(
        launch.command(path, processes, launch.BUILD_BASE),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **launch.environment(str(folder), processes, 1)},
    )
    report = folder / RESULT
    return (json.loads(report.read_text()) if report.exists() else {}), done.stderr


def test_two_processes_build_the_base_of_one(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one", 1)[0], build(tmp_path / "two", 2)[0]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["values_copied"] is not None and 0 <= one["values_copied"] <= 1
    assert np.allclose(one["losses"], two["losses"], atol=1e-3)
    assert one["tokens"] == two["tokens"]
    assert one["losses"][-1] < one["losses"][0]
    last = json.loads((tmp_path / "two" / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["steps"]) == (3, 3)
    first, second = (load_tokenizer(tmp_path / name / "model").get_vocab() for name in ("one", "two"))
    assert first == second


def test_texts_of_another_data_set_are_one_clear_error(tmp_path: Path) -> None:
    report, said = build(tmp_path / "bad", 1, dataset="rt_iot2022", texts=wrong(tmp_path))
    assert report == {}
    assert said.startswith("error: tiny base: flow text whose features are not") and said.count("\n") == 1


def wrong(folder: Path) -> Path:
    """A file of texts with one feature that no data set has."""
    path = folder / "wrong.json"
    path.write_text('["hello: 1"]')
    return path


def test_what_steers_the_weights_names_the_base(tmp_path: Path) -> None:
    """Two threads add up in another order than one, so their base is another one; it was kept under the same key."""
    (tmp_path / "texts.json").write_text("[]")
    one = BaseConfig(
        dataset="farm_flow",
        texts=tmp_path / "texts.json",
        out=tmp_path,
        words=45,
        order="label_first",
        steps=3,
        seed=5,
        threads=1,
        processes=1,
    )
    others = [one.model_copy(update=change) for change in ({"threads": 2}, {"processes": 2}, {"seed": 6}, {"steps": 4})]
    assert len({config.identity() for config in (one, *others)}) == 5
    assert one.model_copy(update={"out": tmp_path / "elsewhere"}).identity() == one.identity()
