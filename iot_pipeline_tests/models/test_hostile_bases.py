"""Bases that are broken on purpose or by a bad disk: each is refused in one sentence, and none hangs the check."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253
from safetensors.torch import load_file, save_file

from iot_pipeline.errors import UserError
from iot_pipeline.models.examine import examine
from iot_pipeline.models.folder import base_folder
from iot_pipeline_tests.tiny_model import make_base

PROJECTION = "model.layers.0.self_attn.q_proj.weight"
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}"
ASKED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

Harm = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "base")


def setting(file: str = "config.json", lost: str = "", **values: Any) -> Harm:
    def change(base: Path) -> None:
        told = json.loads((base / file).read_text()) | values
        told.pop(lost, None)
        (base / file).write_text(json.dumps(told))

    return change


def text(file: str, content: str) -> Harm:
    return lambda base: (base / file).write_text(content)


def template(content: str, end: str = ASKED) -> Harm:
    return text("chat_template.jinja", TURNS.replace("CONTENT", content) + end)


def named_templates(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    setting("tokenizer_config.json", chat_template=[{"name": "tool", "template": TURNS}])(base)


def tokenizer(**values: Any) -> Harm:
    return setting("tokenizer.json", **values)


def tensor(change: Callable[[Any], Any]) -> Harm:
    def harm(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        tensors[PROJECTION] = change(tensors[PROJECTION])
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    return harm


def index(change: Callable[[dict[str, str]], Any]) -> Harm:
    def harm(base: Path) -> None:
        (base / "model.safetensors").rename(base / "model-1.safetensors")
        names = load_file(base / "model-1.safetensors")
        places = change(dict.fromkeys(names, "model-1.safetensors"))
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return harm


def in_place_of(name: str, put: Callable[[Path], Any]) -> Harm:
    def harm(base: Path) -> None:
        (base / name).unlink()
        put(base / name)

    return harm


WRONG: dict[str, tuple[Harm, str]] = {
    "no words for numbers": (setting(vocab_size="abc"), "'vocab_size' expected int, got str"),
    "a trillion tokens": (setting(vocab_size=10**12), r"where its config\.json means \[1000000000000, 32\]"),
    "fewer than no tokens": (setting(vocab_size=-1), "negative dimension"),
    "no heads": (setting(num_attention_heads=0), "ZeroDivisionError"),
    "too many layers": (setting(lost="layer_types", num_hidden_layers=5000), "means 5,000 layers where its weig"),
    "unknown activation": (setting(hidden_act="none_such"), "KeyError: 'none_such'"),
    "unknown positions": (setting(rope_parameters={"rope_type": "none_such"}), "KeyError: 'none_such'"),
    "a list of types": (setting(model_type=["qwen2"]), "no causal language model here"),
    "an encoder too": (setting(is_encoder_decoder=True), "has an encoder and a decoder"),
    "reads both ways": (setting(model_type="bert"), "a bert that reads a text in both directions"),
    "packed otherwise": (setting(compression_config={"quant_method": "sparse"}), r"quantised already \(sparse\)"),
    "NaN among settings": (setting(rms_norm_eps=float("nan")), "a value is NaN"),
    "nested": (text("config.json", '{"a":' + "[" * 200_000), "nested too deeply"),
    "a pipe": (in_place_of("config.json", os.mkfifo), r"config\.json is no file, but a folder, a pipe or a link"),
    "a folder": (in_place_of("model.safetensors", Path.mkdir), r"model\.safetensors is no file"),
    "a circle": (in_place_of("tokenizer.json", lambda path: path.symlink_to(path)), r"tokenizer\.json is no file"),
    "a link to nothing": (
        in_place_of("model.safetensors", lambda path: path.symlink_to("nothing")), r"model\.safetensors is no file"
    ),
    "places as a list": (index(lambda places: [*places]), "it names no file"),
    "places as numbers": (index(lambda places: places | {PROJECTION: 5}), "5 is missing"),
    "places elsewhere": (
        index(lambda places: places | {PROJECTION: "../base/model-1.safetensors"}), "is no safetensors file in this f"
    ),
    "whole numbers": (tensor(lambda value: value.to(torch.int8)), "holds I8 values, as quantised models do"),
    "eight bits": (tensor(lambda value: value.to(torch.float8_e4m3fn)), "holds F8_E4M3 values, as quantised models do"),
    "a flipped exponent": (tensor(lambda value: value.index_fill(0, torch.tensor(3), 1e38)), "far too large"),
    "divides by nothing": (template("1 / 0"), "template refuses .*ZeroDivisionError"),
    "adds a number": (template("m.content + 1"), "template refuses"),
    "calls itself": (template("m.content", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "maximum recursion"),
    "counts too far": (template("range(10 ** 9)"), "Range too big"),
    "includes a file": (template("m.content", "{% include '/etc/hostname' %}"), "template refuses"),
    "leaves the question out": (template("m.content if m.role == 'assistant'"), "leaves out the text of a question"),
    "shouts": (template("m.content | upper"), "changes or leaves out the text of a question"),
    "escapes": (template("m.content if m.role == 'user' else m.content | e"), "leaves out the text of an answer"),
    "no template by default": (named_templates, "no default"),
    "small letters": (tokenizer(normalizer={"type": "Lowercase"}), "keeps text as it is"),
    "no line ends": (
        tokenizer(normalizer={"type": "Replace", "pattern": {"String": "\n"}, "content": " "}), "keeps text as it is"
    ),
    "length in words": (setting("tokenizer_config.json", model_max_length="x"), "cannot encode a chat"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_broken_base_is_one_sentence(made: Path, tmp_path: Path, what: str) -> None:
    harm, sentence = WRONG[what]
    base = Path(shutil.copytree(made, tmp_path / "base"))
    harm(base)
    with pytest.raises(UserError, match=sentence) as told:
        examine(str(base), base_folder(str(base)))
    assert "\n" not in str(told.value) and str(told.value).startswith("IOT_BASE_MODEL: ")
    assert len(str(told.value)) < 600
