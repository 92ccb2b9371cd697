"""Kinds of training besides the plain one: 4-bit base, bf16, gradient checkpointing, warm start, a GPT-2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student
from iot_pipeline.models.loading import describe_base
from iot_pipeline.models.tokenizer import END_OF_TURN, load_tokenizer
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.tiny_base.build import build_tiny_base
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.distributed import find_machine
from iot_pipeline.training.model import adapted_model, largest_change
from iot_pipeline.training.train import run
from iot_pipeline_tests.tiny_model import CLASSES, FEATURES, RECIPE, chats, flow_texts, make_base, write_answer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    base = make_base(folder / "base")
    build_tensors(chats(flow_texts(16)), load_tokenizer(base), 200, folder / "t.safetensors")
    return base, folder / "t.safetensors"


def config(world: tuple[Path, Path], out: Path, **changes: Any) -> TrainConfig:
    values = {
        "base": str(world[0]),
        "tensors": world[1],
        "validation": world[1],
        "out": out,
        "max_steps": 6,
        "step_rows": 8,
        "learning_rate": 2e-2,
        "warmup_steps": 1,
        "lora_dropout": 0.0,
        "threads": 1,
    }
    return TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def plain(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("plain")
    return run(config(world, out))["facts"], out


def test_a_four_bit_base_is_trained_on_and_counted_whole(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import torch

    recipe = replace(RECIPE, hidden=64, intermediate=128)  # whole blocks of 64 weights
    build_tiny_base(flow_texts(60), CLASSES, FEATURES, tmp_path / "base", write_answer, 1, recipe)
    build_tensors(chats(flow_texts(16)), load_tokenizer(tmp_path / "base"), 200, tmp_path / "t.safetensors")
    wide = tmp_path / "base", tmp_path / "t.safetensors"
    whole = run(config(wide, tmp_path / "whole", max_steps=1))["facts"]
    settings = config(wide, tmp_path / "nf4", quantisation="nf4")
    packed = [p for p in adapted_model(settings, find_machine(1)).parameters() if p.dtype == torch.uint8]
    assert packed, "no weight was packed"
    facts = run(settings)["facts"]
    assert facts["total_parameters"] == whole["total_parameters"]
    assert facts["first_loss"] == pytest.approx(whole["first_loss"], abs=0.2)
    assert facts["validation_loss"] < facts["first_loss"] and facts["final_loss"] < facts["first_loss"]
    assert largest_change(tmp_path / "nf4", None) > 0


@pytest.mark.parametrize(("changed", "tolerance"), [({"gradient_checkpointing": True}, 1e-4), ({"bf16": "on"}, 0.1)])
def test_the_curve_is_that_of_plain_training(
    world: tuple[Path, Path],
    plain: tuple[dict[str, Any], Path],
    tmp_path: Path,
    changed: dict[str, Any],
    tolerance: float,
) -> None:
    result = run(config(world, tmp_path, **changed))
    assert result["facts"]["validation_loss"] == pytest.approx(plain[0]["validation_loss"], abs=tolerance)
    assert result["facts"]["validation_loss"] != plain[0]["validation_loss"] or "bf16" not in changed
    assert result["machine"]["bf16"] is ("bf16" in changed)


def test_a_warm_start_begins_where_the_other_ended(
    world: tuple[Path, Path], plain: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    facts = run(config(world, tmp_path, warm_start=plain[1], max_steps=1, learning_rate=1e-12))["facts"]
    assert facts["validation_loss"] == pytest.approx(plain[0]["validation_loss"], abs=1e-4)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (plain[1], tmp_path))
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert largest_change(tmp_path, plain[1]) < 1e-6 < largest_change(tmp_path, None)
    with pytest.raises(UserError, match="train this track and stage first"):
        run(config(world, tmp_path / "none", warm_start=tmp_path / "nowhere"))


def test_a_base_whose_body_is_not_called_model_is_trained_and_scored(world: tuple[Path, Path], tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer(world[0])
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    shape = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2, eos_token_id=end, bos_token_id=end
    )
    base = tmp_path / "gpt2"
    torch.manual_seed(1)
    GPT2LMHeadModel(shape).save_pretrained(base)
    tokenizer.save_pretrained(base)
    assert describe_base(str(base)) == {"architecture": "gpt2", "longest_row": 256, "revision": None}
    facts = run(config((base, world[1]), tmp_path / "out", lora_targets=["c_attn"]))["facts"]
    assert facts["final_loss"] < facts["first_loss"]
    student = Student.load(base, tmp_path / "out", device="cpu", threads=1)
    names = [*CLASSES, "some longer name"]
    scores = np.exp(student.score_labels(flow_texts(3), names))
    assert scores.shape == (3, 4) and np.allclose(scores.sum(axis=1), 1)


def test_what_is_no_causal_model_is_refused_before_anything_is_paid_for(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    load_tokenizer(world[0]).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"IOT_BASE_MODEL: .* is a vit, no causal language model"):
        describe_base(str(tmp_path))


def test_the_tiny_base_is_built_on_the_cpu_even_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    machine = find_machine(1, "off", cards=False)
    assert (machine.device.type, machine.device_name, machine.bf16) == ("cpu", "cpu", False)


def test_a_card_that_only_emulates_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    told = {"is_available": True, "set_device": None, "get_device_name": "Tesla T4", "current_device": 0}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_given, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _card: SimpleNamespace(major=7))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _card: True)
    assert [find_machine(1, precision).bf16 for precision in ("auto", "on", "off")] == [False, True, False]


def test_a_closed_student_holds_no_model(world: tuple[Path, Path]) -> None:
    import weakref

    student = Student.load(world[0], None, device="cpu", threads=1)
    held = weakref.ref(student.model)
    student.close()
    assert held() is None
