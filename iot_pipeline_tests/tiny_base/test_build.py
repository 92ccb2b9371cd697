"""The parts of the tiny base: tokeniser, tasks, copy accuracy, numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.tiny_base.build import build_tiny_base, cited_values, measure_copying, number_features
from iot_pipeline.tiny_base.pretraining_tasks import masked, parse
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.tiny_model import CLASSES, FEATURES, RECIPE, flow_texts, make_base, write_answer


def test_base_is_a_folder_of_safetensors_made_the_same_twice(tmp_path: Path) -> None:
    make_base(tmp_path / "a")
    build_tiny_base(flow_texts(60), CLASSES, FEATURES, tmp_path / "b", write_answer, 1, RECIPE)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "config.json").read_text())["model_type"] == "qwen2"
    assert "WITHOUT their labels" in (tmp_path / "a" / "README.md").read_text()
    tokenizer = load_tokenizer(tmp_path / "a")
    assert all(len(tokenizer(f" {name}")["input_ids"]) == 1 for name in CLASSES)


def test_base_of_other_texts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tiny base: flow text"):
        build_tiny_base(["hello: 1"], CLASSES, FEATURES, tmp_path, write_answer, 1, RECIPE)


def test_masked_lines_are_those_of_the_answer() -> None:
    names = [f"feature_{n}" for n in range(6)]
    flows = parse(
        ["\n".join(f"{name}: {n + 0.5:.3f}" for n, name in enumerate(names, first)) for first in range(3)], names
    )
    text, answer = masked(flows, 2, np.random.default_rng(1))
    assert text.count(": ?") == 4
    filled = dict(line.split(": ") for line in answer.split("\n")[1:])
    assert {name: value for name, value in filled.items() if f"{name}: ?" in text} == filled
    assert all(f"{name}: {value}" in flows.texts[2] for name, value in filled.items())


def test_compact_texts_are_read_and_masked_in_their_own_form() -> None:
    names = ["orig_pkts", "flow_iat.tot", "flow_iat.avg"]
    flows = parse(["orig_pkts 3\nflow_iat tot -.117 avg 1.5", "orig_pkts 4\nflow_iat tot 2 avg -1"], names)
    assert flows.printed == [["3", "-.117", "1.5"], ["4", "2", "-1"]]
    assert flows.numbers[0].tolist() == [3.0, -0.117, 1.5]
    text, answer = masked(flows, 0, np.random.default_rng(1))
    assert text == "orig_pkts ?\nflow_iat tot ? avg ?"
    assert answer == "FILL: orig_pkts 3 flow_iat.tot -.117 flow_iat.avg 1.5"
    with pytest.raises(ValueError, match="features are not"):
        parse(["orig_pkts 3\nflow_iat tot -.117 avg 1.5", "orig_pkts: 3\nflow_iat.tot: 2\nflow_iat.avg: 1"], names)


@pytest.mark.parametrize("text", ["orig_pkts -.117\nflow_iat tot .5 avg 2e-5", "orig_pkts: -0.117\nflow_iat.tot: 0.5"])
def test_a_value_is_one_piece_for_the_tokenizer(text: str) -> None:
    tokenizer = build_tokenizer([text] * 50, [], 500)
    pieces = [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]
    assert [piece.strip() for piece in pieces] == text.split()


@pytest.mark.parametrize(("wrong", "copied"), [((), 3), ((" 3",), 2), ((".117",), 2), ((" 3", ".117", " 1.5"), 0)])
def test_a_value_is_copied_where_each_of_its_tokens_is(wrong: tuple[str, ...], copied: int) -> None:
    import torch

    flow = "orig_pkts 3\nflow_iat tot -.117 avg 1.5"
    answer = (
        "CLASSIFICATION: Normal\nANALYSIS: orig_pkts is 3.\nKEY_INDICATORS: orig_pkts 3; "
        "flow_iat.tot -.117 (below the mean); flow_iat.avg 1.5 (above the mean)"
    )
    assert [answer[start:end] for start, end in cited_values(answer)] == ["3", "-.117", "1.5"]
    tokenizer = build_tokenizer([flow, answer], [], 300)
    mistaken = {tokenizer(text)["input_ids"][-1] for text in wrong}

    class Foreseeing:
        """Knows every next token but some."""

        def __call__(self, input_ids: Any, use_cache: bool) -> Any:
            following = torch.roll(input_ids, -1, dims=1)
            for token in mistaken:
                following[following == token] = 0
            return SimpleNamespace(logits=torch.nn.functional.one_hot(following, len(tokenizer)))

    assert measure_copying(Foreseeing(), tokenizer, [(flow, answer)]) == (copied, 3)
    assert measure_copying(Foreseeing(), tokenizer, []) == (0, 0)


def test_near_numbers_begin_near() -> None:
    def distance(one: str, other: str) -> float:
        a, b = number_features(one), number_features(other)
        assert a is not None and b is not None
        return float(np.linalg.norm(np.array(a) - np.array(b)))

    assert number_features("word") is None
    assert distance(" p50", " p51") < distance(" p50", " p60")
    assert distance(" 1.000", " 1.010") < distance(" 1.000", " 3.000")
