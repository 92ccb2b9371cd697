"""Training with class rows: they teach the class, resume to the last digit, and cost tokens; merged LoRA layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.class_rows import Questions, build_class_tensors
from iot_pipeline.sft.tensors import build_tensors, load_tensors
from iot_pipeline.training import train
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.data import make_draws
from iot_pipeline.training.model import merge_forwards
from iot_pipeline_tests.tiny_model import CLASSES, chats, flow_texts, label_of, make_base


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a base, of tensors whose labels are all of one class, and of class rows with the right ones."""
    folder = tmp_path_factory.mktemp("class-training")
    tokenizer = load_tokenizer(make_base(folder / "base"))
    texts = flow_texts(120, seed=3)
    same = [text for text in texts if label_of(text) == CLASSES[0]][:8]
    build_tensors(chats(same), tokenizer, 300, folder / "train.safetensors")
    shares = np.eye(len(CLASSES))[[CLASSES.index(label_of(text)) for text in texts]]
    questions = Questions(texts, shares, np.ones(len(texts)))
    build_class_tensors([(questions, 1.0)], CLASSES, 0.5, tokenizer, 300, folder / "classes.safetensors")
    return folder


def config(world: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "base": str(world / "base"), "tensors": world / "train.safetensors", "classes": world / "classes.safetensors",
        "class_rows": 16, "out": out, "max_steps": 60, "step_rows": 4, "learning_rate": 1e-2, "warmup_steps": 2,
        "lora_dropout": 0.0, "lora_targets": "all-linear", "threads": 1, "save_every": 5,
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def accuracy(world: Path, adapter: Path) -> float:
    """Share of training flows whose class the student scores highest."""
    texts = flow_texts(120, seed=3)
    scores = Student.load(world / "base", adapter).score_labels(texts, CLASSES)
    return float(
        np.mean([CLASSES[place] == label_of(text) for place, text in zip(scores.argmax(1), texts, strict=True)])
    )


def test_class_rows_teach_classes_that_no_explained_row_has(world: Path, tmp_path: Path) -> None:
    found = train.run(config(world, tmp_path / "with"))
    train.run(config(world, tmp_path / "without", classes=None, class_rows=0))
    assert accuracy(world, tmp_path / "with") > accuracy(world, tmp_path / "without") + 0.2
    tensors = load_tensors(world / "classes.safetensors")
    assert found["facts"]["class_rows_read"] == 60 * 16
    without = found["facts"]["tokens_read"] - make_draws(tensors, 16, 60, 42).tokens(60)
    assert without == load_tensors(world / "train.safetensors").lengths.sum() / 8 * 240


def test_class_rows_count_in_a_budget_of_tokens(world: Path, tmp_path: Path) -> None:
    whole = train.run(config(world, tmp_path / "whole", max_steps=6))["facts"]
    budget = whole["tokens_read"]
    equal = train.run(config(world, tmp_path / "equal", max_steps=None, epochs=50, max_tokens=budget))["facts"]
    assert (equal["steps"], equal["tokens_read"]) == (6, budget)
    less = train.run(config(world, tmp_path / "less", max_steps=None, epochs=50, max_tokens=budget - 1))["facts"]
    assert less["steps"] == 5 and less["tokens_read"] < budget


def test_a_resumed_training_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.run(config(world, tmp_path / "whole", max_steps=8))
    optimise, calls = train.optimise, []

    def killed(training: Any, rate: float) -> float:
        calls.append(rate)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return optimise(training, rate)

    monkeypatch.setattr(train, "optimise", killed)
    with pytest.raises(KeyboardInterrupt):
        train.run(config(world, tmp_path / "cut", max_steps=8))
    resumed = train.run(config(world, tmp_path / "cut", max_steps=8))
    assert resumed["timings"]["resumed_from_step"] == 5
    assert resumed["facts"]["final_loss"] == whole["facts"]["final_loss"]
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_class_rows_and_their_number_need_each_other(world: Path, tmp_path: Path) -> None:
    for changes in ({"classes": None}, {"class_rows": 0}):
        with pytest.raises(ValidationError, match="class_rows and classes need each other"):
            config(world, tmp_path, **changes)


def test_merged_layers_compute_the_same_gradients(world: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    ids = torch.from_numpy(load_tensors(world / "train.safetensors").row(0)[0].astype(np.int64)[None])
    found = []
    for merged in (False, True):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(world / "base")
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(base, lora)
        if merged:
            merge_forwards(model)
        model(ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-3, atol=1e-6), name
