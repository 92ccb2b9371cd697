"""Training for real: it learns, resumes after a kill, and gives one curve for one or two processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import build_tensors, load_tensors
from iot_pipeline.training import launch, train
from iot_pipeline.training.config import TrainConfig, finished, read_config
from iot_pipeline.training.data import make_plan
from iot_pipeline.training.train import schedule
from iot_pipeline_tests.tiny_model import chats, flow_texts, make_base


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("training")
    base = make_base(folder / "base")
    texts = flow_texts(24, seed=3)
    build_tensors(chats([*texts, *texts[:8]]), load_tokenizer(base), 200, folder / "t.safetensors")
    return base, folder / "t.safetensors"


def config(world: tuple[Path, Path], out: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "base": str(world[0]),
        "tensors": world[1],
        "out": out,
        "max_steps": 12,
        "step_rows": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "lora_dropout": 0.0,
        "threads": 1,
        "save_every": 4,
    }
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


def start(settings: TrainConfig, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
    path = settings.write(settings.out / "config.json")
    variables = {**os.environ, **launch.environment(settings.base, processes, 1), **environment}
    return subprocess.Popen(
        launch.command([path], processes), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").read_text().splitlines()]


def adapter(out: Path) -> bytes:
    return (out / "adapter_model.safetensors").read_bytes()


def facts_of(out: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((out / "training.json").read_text())["facts"]
    return facts


@pytest.fixture(scope="module")
def one(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training in one process."""
    out = tmp_path_factory.mktemp("one")
    train.run(config(world, out, validation=world[1], evaluate_every=3, keep="best"))
    return out


def test_a_run_learns_and_says_what_it_did(one: Path, world: tuple[Path, Path]) -> None:
    facts, lengths = facts_of(one), load_tensors(world[1]).lengths
    assert (facts["processes"], facts["steps"], facts["rows"], facts["distinct_rows"]) == (1, 12, 32, 24)
    assert facts["final_loss"] < facts["first_loss"] - 0.3
    assert facts["validation_loss"] < facts["first_loss"]
    plan = make_plan(lengths, 8, 1, 12, 42)
    assert facts["tokens_read"] == int(sum(lengths[plan.rows_of(step)].sum() for step in range(12)))
    assert len(losses(one)) == 12
    assert sorted(load_file(one / "adapter_model.safetensors"))[0].startswith("base_model.model.model.layers.0")
    assert json.loads((one / "adapter_config.json").read_text())["r"] == 16
    assert not list(one.glob("checkpoint*")) and not list(one.rglob("*.pt")) and not list(one.rglob("*.bin"))
    assert json.loads((one / "progress.jsonl").read_text().splitlines()[-1])["step"] == 12


def test_killed_run_resumes_to_the_same_weights_and_choice(
    one: Path, world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = config(world, tmp_path, validation=world[1], evaluate_every=3, keep="best")
    process = start(settings)
    while not (tmp_path / "checkpoint.safetensors").exists():
        assert process.poll() is None, "it ended before a checkpoint was seen"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "training.json").exists()
    (tmp_path / ".checkpoint.safetensors.1.tmp").write_bytes(b"half a checkpoint")
    train.run(settings)
    assert "resumed at step" in capsys.readouterr().out
    assert losses(tmp_path) == losses(one)
    assert adapter(tmp_path) == adapter(one)
    assert facts_of(tmp_path) == facts_of(one)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.fixture(scope="module")
def in_two(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of three trainings by the same two processes, and what they printed: one runs out of memory, then again,
    then one with sharded layers."""
    folder = tmp_path_factory.mktemp("in-two")
    best = {"validation": world[1], "evaluate_every": 3, "keep": "best"}
    paths = [
        config(world, folder / "small", **best).write(folder / "small.json"),
        config(world, folder / "again", **best).write(folder / "again.json"),
        config(world, folder / "sharded", shard=True, validation=world[1], micro_rows=2).write(folder / "sharded.json"),
    ]
    (folder / "second_runs_out.py").write_text(SECOND_RUNS_OUT)
    argv = launch.command(paths, 2, module="second_runs_out")
    found = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **launch.environment(str(world[0]), 2, 1), "PYTHONPATH": found}
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


SECOND_RUNS_OUT = """
import os, sys
import torch
from torch.distributed.fsdp import FSDPModule
from iot_pipeline.training import train
real = train.causal_loss
def small_card(model, ids, *rest):
    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    if os.environ["RANK"] == "1" and len(ids) > 1 and not sharded:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return real(model, ids, *rest)
train.causal_loss = small_card
sys.exit(train.main())
"""


def test_two_processes_give_the_curve_of_one_though_one_of_them_runs_out_of_memory(
    one: Path, in_two: tuple[Path, str]
) -> None:
    small = in_two[0] / "small"
    assert "out of memory at step 1: forward passes of 1 rows at most" in in_two[1]
    assert json.loads((small / "training.json").read_text())["timings"]["forward_pass"] == "1 rows"
    assert adapter(in_two[0] / "again") == adapter(small)
    facts, whole = facts_of(small), facts_of(one)
    assert (facts["processes"], facts["kept_step"]) == (2, whole["kept_step"])
    assert np.allclose(losses(small), losses(one), atol=1e-3)
    assert np.allclose(facts["validation_history"], whole["validation_history"], atol=1e-3)


def test_sharded_layers_give_the_curve_of_whole_ones(one: Path, in_two: tuple[Path, str]) -> None:
    sharded = in_two[0] / "sharded"
    facts, whole = facts_of(sharded), facts_of(one)
    frozen = whole["total_parameters"] - whole["trainable_parameters"] - 700 * 32 - 32  # embeddings, last norm
    assert json.loads((sharded / "training.json").read_text())["timings"]["forward_pass"] == "2 rows"
    assert facts["total_parameters"] == whole["total_parameters"] == whole["held_parameters"]
    assert facts["held_parameters"] == whole["held_parameters"] - frozen // 2
    assert np.allclose(losses(sharded), losses(one), atol=1e-3)
    assert facts["validation_loss"] == pytest.approx(whole["validation_loss"], abs=1e-3)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (sharded, one))
    assert ours.keys() == theirs.keys()


def test_sharding_needs_company(world: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="IOT_PROCESSES"):
        train.run(config(world, tmp_path, shard=True))


def test_packed_run_gives_the_curve_of_the_padded_one(one: Path, world: tuple[Path, Path], tmp_path: Path) -> None:
    train.run(config(world, tmp_path, packing="on", pack_tokens=256))
    assert json.loads((tmp_path / "training.json").read_text())["timings"]["packed"] is True
    assert np.allclose(losses(tmp_path), losses(one), atol=1e-3)


def test_best_checkpoint_is_kept(world: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(
        world, tmp_path, validation=world[1], learning_rate=1.0, scheduler="constant", evaluate_every=2, keep="best"
    )
    facts = train.run(settings)["facts"]
    history = dict(facts["validation_history"])
    assert sorted(history) == [2, 4, 6, 8, 10, 12]
    assert facts["kept_step"] == min(history, key=lambda step: (history[step], step)) < 12
    assert facts["validation_loss"] == pytest.approx(min(history.values()), abs=1e-4)


def test_training_stops_when_nothing_gets_better(world: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(
        world, tmp_path, validation=world[1], learning_rate=1e-30, evaluate_every=2, patience=2, keep="best"
    )
    facts = train.run(settings)["facts"]
    assert (facts["kept_step"], facts["steps"], facts["rows_read"]) == (2, 6, 48)


def test_out_of_memory_halves_the_forward_pass_and_says_so(
    one: Path, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch

    real, sizes = train.causal_loss, []

    def small_card(model: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, ids, *rest)

    monkeypatch.setattr(train, "causal_loss", small_card)
    train.run(config(world, tmp_path, max_steps=3))
    assert "out of memory at step 1: forward passes of 2 rows at most" in capsys.readouterr().out
    assert max(sizes[-3:]) <= 2
    assert np.allclose(losses(tmp_path)[0], losses(one)[0], atol=1e-4)


def test_a_smaller_forward_pass_is_remembered_when_it_resumes(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch

    real, sizes = train.causal_loss, []

    def small_card(model: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(sizes) > 30:
            raise KeyboardInterrupt
        return real(model, ids, *rest)

    monkeypatch.setattr(train, "causal_loss", small_card)
    with pytest.raises(KeyboardInterrupt):
        train.run(config(world, tmp_path, max_steps=8, save_every=1))
    sizes.clear()
    train.run(config(world, tmp_path, max_steps=8, save_every=1))
    assert sizes and max(sizes) <= 2
    assert "forward passes of 2 rows at most, as before" in capsys.readouterr().out


def test_out_of_memory_in_validation_halves_its_forward_passes(
    one: Path, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch

    real = train.causal_loss

    def small_card(model: Any, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > 1 and not model.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, ids, *rest)

    monkeypatch.setattr(train, "causal_loss", small_card)
    train.run(config(world, tmp_path, validation=world[1], evaluate_every=3, keep="best"))
    assert "out of memory in validation: forward passes of 1 rows at most" in capsys.readouterr().out
    assert facts_of(tmp_path)["validation_loss"] == pytest.approx(facts_of(one)["validation_loss"], abs=1e-3)


def test_the_adapter_is_safe_before_the_last_measurement(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(world, tmp_path, validation=world[1], max_steps=3)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="no measurement"):
        broken.setattr(train, "evaluate", lambda *_: (_ for _ in ()).throw(RuntimeError("no measurement")))
        train.run(settings)
    weights = adapter(tmp_path)
    monkeypatch.setattr(train, "optimise", lambda *_: pytest.fail("a step was done again"))
    facts = train.run(settings)["facts"]
    assert facts["steps"] == 3 and facts["validation_loss"] > 0
    assert adapter(tmp_path) == weights


def test_an_ended_training_is_not_done_again(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(world, tmp_path, max_steps=2)
    result = train.run(settings)
    monkeypatch.setattr(train, "adapted_model", lambda *_: pytest.fail("it began again"))
    assert train.run(settings)["facts"] == json.loads(json.dumps(result["facts"]))
    assert finished(config(world, tmp_path, max_steps=2, micro_rows=1, threads=2, packing="on")) is not None
    assert finished(config(world, tmp_path, max_steps=2, learning_rate=1e-3)) is None
    assert finished(config(world, tmp_path, max_steps=2, validation=world[1])) is None


def test_a_checkpoint_goes_on_with_other_forward_passes(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(train, "finish", stop)
        train.run(config(world, tmp_path, max_steps=2))
    train.run(config(world, tmp_path, max_steps=2, micro_rows=1, packing="on", gradient_checkpointing=True))
    assert "resumed at step 2 of 2" in capsys.readouterr().out


def test_out_of_memory_with_one_row_is_one_clear_error(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def no_card(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "causal_loss", no_card)
    with pytest.raises(UserError, match="out of memory at step 1 even with one row"):
        train.run(config(world, tmp_path, max_steps=3))


def test_choosing_by_validation_loss_needs_one(world: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="need evaluate_every and validation"):
        config(world, tmp_path, keep="best")


def test_equal_tokens_end_a_plan(world: tuple[Path, Path]) -> None:
    lengths = load_tensors(world[1]).lengths
    plan = make_plan(lengths, 8, 3, None, 42)
    most = int(sum(lengths[plan.rows_of(step)].sum() for step in range(5))) + 1
    assert plan.steps == 12
    assert make_plan(lengths, 8, 3, None, 42, most).steps == 5
    assert make_plan(lengths, 8, 3, None, 42, 1).steps == 1


def test_it_ends_when_its_parent_is_gone(world: tuple[Path, Path], tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    process = start(config(world, tmp_path, max_steps=100_000), IOT_PARENT_PID=str(gone.pid))
    process.communicate(timeout=600)
    assert process.returncode == 3


def test_bad_configuration_is_one_line_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []

    class Output(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            writes.append(bytes(data))
            return len(data)

    bad, no_json = tmp_path / "config.json", tmp_path / "no.json"
    bad.write_text('{"base": "x", "tensors": "t", "out": "o", "epochs": -1}')
    no_json.write_text("{")
    # Unbuffered, as launch.environment asks for: what is written in two goes can be parted by another process.
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(Output(), write_through=True))  # type: ignore[type-var]
    assert [train.main([str(path)]) for path in (bad, no_json, tmp_path / "absent.json")] == [2, 2, 2]
    assert len(writes) == 3
    assert all(line.startswith(b"error: ") and line.endswith(b"\n") and line.count(b"\n") == 1 for line in writes)
    assert b"epochs: Input should be greater than 0" in writes[0] and b"Invalid JSON" in writes[1]


def test_configuration_survives_json(world: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(world, tmp_path, lora_targets="all-linear", warm_start=tmp_path)
    assert read_config(settings.write(tmp_path / "c.json")) == settings
    assert config(world, tmp_path, lora_targets="q_proj, v_proj").lora_targets == ["q_proj", "v_proj"]


def test_plan_reads_every_row_once_an_epoch() -> None:
    plan = make_plan(np.full(10, 7), per_step=4, epochs=2, max_steps=None, seed=7)
    read = np.concatenate([plan.rows_of(step) for step in range(plan.steps)])
    assert plan.steps == 5 and plan.tokens(5) == 140
    assert sorted(read[:10].tolist()) == list(range(10))
    assert sorted(read[10:].tolist()) == list(range(10))
    assert read[:10].tolist() != read[10:].tolist()


def test_schedule_warms_up_and_falls() -> None:
    rates = [schedule("cosine", step, 100, 10) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0
    assert all(a >= b for a, b in pairwise(rates[9:])) and rates[-1] < 0.001
    assert schedule("constant", 50, 100, 10) == 1.0 and schedule("linear", 55, 100, 10) == 0.5
