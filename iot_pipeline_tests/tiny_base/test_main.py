"""The tiny base, built in processes of its own: the same base from one process or two."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.tiny_base.__main__ import RESULT, BaseConfig, main
from iot_pipeline.training import launch


def configuration(folder: Path, **changes: Any) -> BaseConfig:
    """A build from 60 texts of Farm-Flow's features."""
    names = load_spec("farm_flow").feature_names
    numbers = np.random.default_rng(1).normal(0, 1, (60, len(names)))
    texts = ["\n".join(f"{name}: {value:.3f}" for name, value in zip(names, row, strict=True)) for row in numbers]
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps(texts))
    values = {
        "dataset": "farm_flow",
        "texts": folder / "texts.json",
        "out": folder,
        "words": 45,
        "order": "label_first",
        "steps": 2,
        "seed": 5,
        "threads": 1,
        "processes": 1,
    }
    return BaseConfig(**(values | changes))


def build_here(config: BaseConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """Build in this process; return the exit code."""
    monkeypatch.setattr("sys.argv", ["tiny_base", str(config.write(config.out / "config.json"))])
    return main()


def test_two_processes_build_the_base_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_here(configuration(tmp_path / "one"), monkeypatch) == 0
    config = configuration(tmp_path / "two", processes=2)
    done = subprocess.run(
        launch.command(config.write(tmp_path / "two" / "config.json"), 2, launch.BUILD_BASE),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **launch.environment(str(tmp_path), 2, 1)},
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / RESULT).read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["values_copied"] is not None and 0 <= one["values_copied"] <= 1
    assert np.allclose(one["losses"], two["losses"], atol=1e-3)
    assert one["tokens"] == two["tokens"]
    assert one["losses"][-1] < one["losses"][0]
    last = json.loads((tmp_path / "two" / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["steps"]) == (2, 2)
    first, second = (load_tokenizer(tmp_path / name / "model").get_vocab() for name in ("one", "two"))
    assert first == second


def test_texts_of_another_data_set_are_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = configuration(tmp_path / "bad", dataset="rt_iot2022")
    config.texts.write_text('["hello: 1"]')
    assert build_here(config, monkeypatch) == 2
    assert not (config.out / RESULT).exists()
    said = capsys.readouterr().err
    assert said.startswith("error: tiny base: flow text whose features are not") and said.count("\n") == 1


def test_what_steers_the_weights_names_the_base(tmp_path: Path) -> None:
    """Two threads add up in another order than one, so their base is another one; it was kept under the same key."""
    one = configuration(tmp_path / "base")
    others = [one.model_copy(update=change) for change in ({"threads": 2}, {"processes": 2}, {"seed": 6}, {"steps": 4})]
    assert len({config.identity() for config in (one, *others)}) == 5
    assert one.model_copy(update={"out": tmp_path / "elsewhere"}).identity() == one.identity()
