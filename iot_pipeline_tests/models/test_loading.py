"""An adapter goes on its own base, whole, or not at all: in explanations, merging, warm starts and resuming."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student
from iot_pipeline.models.loading import ADAPTER, base_identity, with_sorted_metadata
from iot_pipeline.training import checkpoint
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.distributed import find_machine
from iot_pipeline.training.model import adapted_model, save_adapter
from iot_pipeline.training.state import Progress
from iot_pipeline_tests.tiny_model import make_base

LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and an adapter that was saved for it."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_base(folder / "base")
    config = config_of(base, folder / "adapter")
    config.out.mkdir()
    save_adapter(adapted_model(config, find_machine(1)), config)
    return base, config.out


def config_of(base: Path, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(base=str(base), tensors=out / "none", out=out, threads=1, lora_r=4, **changes)


@pytest.fixture
def adapter(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "adapter"))


def change(path: Path, harm: Callable[[dict[str, Any]], Any]) -> None:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    harm(tensors)
    save_file(tensors, path, metadata=facts)


def settings_of(path: Path) -> Path:
    return path.with_name("adapter_config.json")


def set_in(path: Path, **values: Any) -> None:
    told = json.loads(settings_of(path).read_text()) | values
    settings_of(path).write_text(json.dumps(told))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half of it": (
        lambda path: change(path, lambda t: [t.pop(name) for name in list(t) if "layers.1" in name]),
        r"lacks 8 tensors: .*layers\.1.* and 5 more",
    ),
    "one tensor": (lambda path: change(path, lambda t: t.pop(LORA)), f"lacks 1 tensors: {LORA}"),
    "one too many": (lambda path: change(path, lambda t: t.update(more=torch.ones(1))), "has 1 tensors: more"),
    "shape": (lambda path: change(path, lambda t: t.update({LORA: torch.ones(2, 2)})), "does not fit|has shape"),
    "no number": (lambda path: change(path, lambda t: t[LORA].fill_(torch.nan)), f"{LORA} holds values that are no"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "is damaged"),
    "of no base": (lambda path: save_file(load_file(path), path), "was not trained on the base .* as it is now"),
    "whole numbers": (lambda path: change(path, lambda t: t.update({LORA: t[LORA].int()})), f"{LORA} holds int32 val"),
    "eight bits": (
        lambda path: change(path, lambda t: t.update({LORA: t[LORA].to(torch.float8_e4m3fn)})),
        "holds float8_e4m3fn",
    ),
    "a flipped exponent": (lambda path: change(path, lambda t: t[LORA].fill_(1e38)), f"{LORA} holds values that are"),
    "settings as a list": (lambda path: settings_of(path).write_text("[]"), r"adapter_config\.json is no JSON object"),
    "settings cut off": (lambda path: settings_of(path).write_text("{"), r"adapter_config\.json is no readable JSON"),
    "another scale": (lambda path: set_in(path, lora_alpha=float("1e9")), "lora_alpha is 1000000000.0, no number of a"),
    "no scale": (lambda path: set_in(path, lora_alpha=0), "lora_alpha is 0, no number of a"),
    "another rank": (lambda path: set_in(path, r=8), "does not fit the base .*size mismatch"),
    "scale by the root": (lambda path: set_in(path, use_rslora=True), "use_rslora is set, which no training here"),
    "weights of the base changed": (
        lambda path: set_in(path, init_lora_weights="pissa"),
        "init_lora_weights is set, which no training here",
    ),
    "scale of one layer": (lambda path: set_in(path, alpha_pattern={"q_proj": 9}), "alpha_pattern is set, which no"),
    "another kind": (lambda path: set_in(path, peft_type="IA3"), "peft_type is 'IA3' in place of LORA"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "train this track and stage first"),
    "gone": (lambda path: path.unlink(), "train this track and stage first"),
    "settings gone": (lambda path: path.with_name("adapter_config.json").unlink(), "train this track and stage first"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_adapter_that_is_not_whole_is_refused(made: tuple[Path, Path], adapter: Path, what: str) -> None:
    harm, sentence = WRONG[what]
    harm(adapter / ADAPTER)
    with pytest.raises(UserError, match=sentence):
        Student.load(made[0], adapter, "cpu", 1)
    with pytest.raises(UserError, match=sentence):
        adapted_model(config_of(made[0], adapter, warm_start=adapter), find_machine(1))


def test_an_adapter_goes_on_no_base_but_its_own(made: tuple[Path, Path], adapter: Path, tmp_path: Path) -> None:
    Student.load(made[0], adapter, "cpu", 1)
    moved = shutil.copytree(made[0], tmp_path / "moved")
    Student.load(moved, adapter, "cpu", 1)
    change(moved / "model.safetensors", lambda t: t["model.norm.weight"].mul_(1.5))
    assert base_identity(str(moved)) != base_identity(str(made[0]))
    with pytest.raises(UserError, match="was not trained on the base"):
        Student.load(moved, adapter, "cpu", 1)


def saved(folder: Path) -> Any:
    """A training of two parameters that has made one step, with its checkpoint in `folder`."""
    torch.manual_seed(1)
    parameters = {name: torch.nn.Parameter(torch.randn(2, 3)) for name in ("a", "b")}
    optimiser = torch.optim.AdamW(parameters.values())
    sum(parameter.sum() for parameter in parameters.values()).backward()
    optimiser.step()
    best = {name: value.detach().clone() for name, value in parameters.items()}
    training = SimpleNamespace(
        config=SimpleNamespace(out=folder, keep="best"),
        key="key",
        parameters=parameters,
        optimiser=optimiser,
        progress=Progress([0.5], [(1, 0.25)], best, 2),
    )
    checkpoint.save(training)  # type: ignore[arg-type]
    return training


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda path: change(path, lambda t: t.pop("p.a")), r"lacks 1 tensors: p\.a"),
        (lambda path: change(path, lambda t: t.pop("v.b")), r"lacks 1 tensors: v\.b"),
        (lambda path: change(path, lambda t: t.pop("b.a")), r"lacks 1 tensors: b\.a"),
        (lambda path: change(path, lambda t: t.pop("losses")), "lacks its losses"),
        (lambda path: change(path, lambda t: t.update({"m.a": torch.ones(3, 3)})), r"m\.a has shape \[3, 3\]"),
        (lambda path: change(path, lambda t: t["p.b"].fill_(torch.inf)), r"p\.b holds values that are no numbers"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "is damaged .* remove it"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_no_start(tmp_path: Path, harm: Any, sentence: str) -> None:
    training = saved(tmp_path)
    before = training.progress.best
    training.key = "other key"
    assert checkpoint.load(training) == Progress()
    training.key = "key"
    found = checkpoint.load(training)
    assert (found.step, found.losses, found.validation, found.halvings) == (1, [0.5], [(1, 0.25)], 2)
    assert found.best.keys() == before.keys() and all(torch.equal(before[name], found.best[name]) for name in before)
    harm(tmp_path / checkpoint.FILE)
    with pytest.raises(UserError, match=sentence):
        checkpoint.load(training)
    assert all(torch.equal(before[name], value) for name, value in training.parameters.items())


def test_a_checkpoint_of_another_base_or_another_start_is_not_gone_on_with(
    made: tuple[Path, Path], adapter: Path, tmp_path: Path
) -> None:
    (adapter / "none").write_bytes(b"rows")
    base = shutil.copytree(made[0], tmp_path / "base")
    config = config_of(base, adapter, warm_start=adapter)
    first = config.identity()
    assert config.identity() == first
    change(adapter / ADAPTER, lambda t: t[LORA].mul_(1.5))
    second = config.identity()
    change(base / "model.safetensors", lambda t: t["model.norm.weight"].mul_(1.5))
    assert len({first, second, config.identity()}) == 3


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 5, dtype=torch.float16)}
    # The library orders each map of metadata anew: of 20 calls some would differ.
    (packed,) = {with_sorted_metadata(save(tensors, {"format": "pt", "base": "x"})) for _ in range(20)}
    (tmp_path / "t.safetensors").write_bytes(packed)
    with safe_open(tmp_path / "t.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "base": "x"}
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in tensors.items())
