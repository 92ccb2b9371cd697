"""Bases as users have them: what is wrong with one is one sentence, said before the teacher is asked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253
from safetensors.torch import load_file, save_file

from iot_pipeline.commands.doctor import _base
from iot_pipeline.errors import UserError
from iot_pipeline.models.check import TINY_MATRICES, check_base, check_targets
from iot_pipeline.models.folder import LFS_POINTER, in_hub_cache
from iot_pipeline.models.loading import base_identity, load_base
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.tiny_model import make_base

PROJECTION = "model.layers.0.self_attn.q_proj.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
MARK = "CODE_OF_THE_BASE_RAN"
CODE = f"open({MARK!r}, 'w')\nfrom transformers import Qwen2Config as XConfig\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """A base of its own for each test."""
    return Path(shutil.copytree(made, tmp_path / "base"))


def change_tensors(base: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def change_json(base: Path, file: str, **values: Any) -> None:
    path = base / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def put(name: str, value: Any) -> Callable[[Path], None]:
    return lambda base: change_tensors(base, lambda tensors: tensors.update({name: value(tensors[name])}))


def lose(*names: str) -> Callable[[Path], None]:
    return lambda base: change_tensors(base, lambda tensors: [tensors.pop(name) for name in names])


def point(file: str) -> Callable[[Path], None]:
    return lambda base: (base / file).write_bytes(LFS_POINTER + b"v1\noid sha256:4665b1b4\nsize 3087467144\n") and None


def cut(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_it(base: Path) -> None:
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def shard(base: Path, lost: int | None = None) -> None:
    model, _unused = load_base(str(base), torch.float32)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="20KB")
    if lost is not None:
        sorted(base.glob("model-*.safetensors"))[lost].unlink()


def add_token(base: Path) -> None:
    change = json.loads((base / "tokenizer.json").read_text())
    highest = max(change["model"]["vocab"].values())
    change["added_tokens"].append({**change["added_tokens"][0], "id": highest + 1, "content": "<|new|>"})
    (base / "tokenizer.json").write_text(json.dumps(change))


def without_padding(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (base / name).read_text().replace('"pad_token": "<|endoftext|>"', '"pad_token": "<|im_end|>"')
        (base / name).write_text(text.replace("<|endoftext|>", "<|other|>"))


def bring_code(file: str) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        change_json(base, file, auto_map={"AutoConfig": "configuration_x.XConfig", "AutoTokenizer": ["x.T", None]})
        for module in ("configuration_x.py", "modeling_x.py", "x.py"):
            (base / module).write_text(CODE)

    return change


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no projection": (lose(PROJECTION), rf"lacks 1 tensors: {PROJECTION}; they would be random numbers"),
    "half of it": (
        lambda base: change_tensors(base, lambda t: [t.pop(name) for name in list(t) if "layers.1" in name]),
        r"lacks 12 tensors: model\.layers\.1.* and 9 more",
    ),
    "zeros": (put(PROJECTION, torch.zeros_like), rf"{PROJECTION} in model\.safetensors is all zeros"),
    "no number": (put(PROJECTION, lambda t: t.index_fill(0, torch.tensor([3]), torch.nan)), "are no numbers"),
    "infinite bias": (put(BIAS, lambda t: t + torch.inf), rf"{BIAS} .* holds values that are no numbers"),
    "shape": (put(PROJECTION, lambda t: torch.ones(3, 3)), rf"{PROJECTION} has shape \[3, 3\] where its config\.json"),
    "pointer": (point("model.safetensors"), r"model\.safetensors is a Git LFS pointer, .*git lfs pull"),
    "pointer for a tokenizer": (point("tokenizer.json"), r"tokenizer\.json is a Git LFS pointer, .*git lfs pull"),
    "cut off": (cut, r"model\.safetensors is cut off or damaged"),
    "pickled": (pickle_it, r"holds pickled weights only \(pytorch_model\.bin\)"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "has no weights"),
    "lost shard": (lambda base: shard(base, lost=1), r"model-00002-of-\d+\.safetensors is missing"),
    "gptq": (
        lambda base: change_json(base, "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"is quantised already \(gptq\)",
    ),
    "one token more than rows": (add_token, r"tokens up to number \d+, its embedding \d+ rows; resize"),
    "no padding": (without_padding, "no padding token"),
    "code in its config": (bring_code("config.json"), r"code of its own \(auto_map in config\.json\)"),
    "code in its tokenizer": (bring_code("tokenizer_config.json"), r"code of its own \(auto_map in tokenizer_config"),
    "code in its generation": (bring_code("generation_config.json"), r"\(auto_map in generation_config\.json\)"),
    "unknown type": (lambda base: change_json(base, "config.json", model_type="xmodel"), "model type `xmodel`"),
    "unreadable": (lambda base: (base / "config.json").write_text("{"), r"config\.json is no readable JSON"),
    "a list": (lambda base: (base / "config.json").write_text("[]"), r"config\.json is no JSON object"),
    "broken tokenizer": (lambda base: (base / "tokenizer.json").write_text('{"a": 1}'), "no tokenizer in"),
    "an adapter": (lambda base: (base / "adapter_config.json").write_text("{}"), "is a LoRA adapter, no base"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_base_that_is_not_fit_is_refused_in_one_sentence(
    base: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, sentence = WRONG[what]
    harm(base)
    monkeypatch.chdir(base)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked a question"))
    with pytest.raises(UserError, match=sentence) as told:
        check_base(str(base))
    assert "\n" not in str(told.value) and str(told.value).startswith("IOT_BASE_MODEL: ")
    assert not (base / MARK).exists()


@pytest.mark.parametrize(
    "what", ["no projection", "half of it", "shape", "lost shard", "pickled", "code in its config"]
)
def test_the_loader_refuses_what_the_check_refuses(base: Path, what: str) -> None:
    harm, sentence = WRONG[what]
    harm(base)
    with pytest.raises(UserError, match=sentence):
        load_base(str(base), torch.float32)


FIT: dict[str, Callable[[Path], Any]] = {
    "as it was built": lambda base: None,
    "in shards": shard,
    "with a bias of zeros": put(BIAS, torch.zeros_like),
    "with a tensor that nobody reads": lambda base: change_tensors(base, lambda t: t.update({"vision": torch.ones(2)})),
}


@pytest.mark.parametrize("what", FIT)
def test_a_base_that_is_fit_passes_and_is_described(base: Path, what: str) -> None:
    FIT[what](base)
    facts = check_base(str(base))
    assert (facts["architecture"], facts["longest_row"], facts["revision"]) == ("qwen2", 4096, None)
    assert facts["parameters"] == sum(p.numel() for p in load_base(str(base), torch.float32)[0].parameters())
    assert facts["unused_tensors"] == (what == "with a tensor that nobody reads")
    for targets in ("q_proj,v_proj", "all-linear", "self_attn.o_proj", "model.layers.0.mlp.up_proj", "lm_head"):
        check_targets(facts["matrices"], targets)
    for targets, told in (("q_proj,x_proj", "no 'x_proj'; name some of .*q_proj"), (" , ", "names no module")):
        with pytest.raises(UserError, match=f"^IOT_LORA_TARGETS.*{told}"):
            check_targets(facts["matrices"], targets)


def test_targets_of_the_tiny_base_are_checked_before_it_is_built(base: Path) -> None:
    assert sorted(TINY_MATRICES) == check_base(str(base))["matrices"]
    wrong = _base(load_settings({"IOT_LORA_TARGETS": "x_proj"}))
    assert wrong.state == "error" and "no 'x_proj'" in wrong.text
    assert _base(load_settings({"IOT_LORA_TARGETS": "q_proj,down_proj"})).state == "note"


def test_a_changed_folder_is_looked_at_again(base: Path) -> None:
    check_base(str(base))
    before = base_identity(str(base))
    put(PROJECTION, torch.zeros_like)(base)
    with pytest.raises(UserError, match="all zeros"):
        check_base(str(base))
    assert base_identity(str(base)) != before


def test_what_is_neither_a_folder_nor_on_the_hub_is_one_sentence(tmp_path: Path) -> None:
    for name in ("nobody/nothing-of-this-name", str(tmp_path / "nowhere" / "at" / "all")):
        with pytest.raises(UserError, match="is no folder here, and the hub has none") as told:
            check_base(name)
        assert "\n" not in str(told.value)


def test_a_hub_id_is_examined_in_the_local_cache(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--some--base"  # as huggingface_hub leaves it
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(base, model / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert in_hub_cache("some/base") and not in_hub_cache("other/base")
    assert check_base("some/base", download=False)["revision"] == commit
    put(PROJECTION, torch.zeros_like)(model / "snapshots" / commit)
    with pytest.raises(UserError, match="all zeros"):
        check_base("some/base", download=False)


@pytest.mark.parametrize(
    ("name", "state", "text"),
    [
        ("base", "ok", r"base model .*: qwen2, [\d,]+ parameters$"),
        ("missing", "error", f"lacks 1 tensors: {PROJECTION}"),
        ("nobody/nothing-of-this-name", "note", "comes from the hub at first use"),
        ("not a/hub/id", "error", "neither a folder here nor a hub id"),
    ],
)
def test_doctor_says_the_same_of_a_base(base: Path, tmp_path: Path, name: str, state: str, text: str) -> None:
    lose(PROJECTION)(Path(shutil.copytree(base, tmp_path / "missing")))
    given = str(tmp_path / name) if (tmp_path / name).is_dir() else name
    found = _base(load_settings({"IOT_BASE_MODEL": given}))
    assert found.state == state and re.search(text, found.text)
    if state == "ok":
        wrong = _base(load_settings({"IOT_BASE_MODEL": given, "IOT_LORA_TARGETS": "x_proj"}))
        assert wrong.state == "error" and "no 'x_proj'" in wrong.text
