"""The parts of the tiny base: tokeniser, tasks, copy accuracy, numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.tiny_base.build import (
    BaseRecipe,
    build_tiny_base,
    cited_values,
    measure_copying,
    new_model,
    number_features,
)
from iot_pipeline.tiny_base.pretraining_tasks import Curriculum, Flows, lookup, masked, parse, planted
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
    text, answer, _ = masked(flows, 2, np.random.default_rng(1))
    assert text.count(": ?") == 4
    filled = dict(line.split(": ") for line in answer.split("\n")[1:])
    assert {name: value for name, value in filled.items() if f"{name}: ?" in text} == filled
    assert all(f"{name}: {value}" in flows.texts[2] for name, value in filled.items())


def test_compact_texts_are_read_and_masked_in_their_own_form() -> None:
    names = ["orig_pkts", "flow_iat.tot", "flow_iat.avg"]
    flows = parse(["orig_pkts 3\nflow_iat tot -.117 avg 1.5", "orig_pkts 4\nflow_iat tot 2 avg -1"], names)
    assert flows.printed == [["3", "-.117", "1.5"], ["4", "2", "-1"]]
    assert flows.numbers[0].tolist() == [3.0, -0.117, 1.5]
    text, answer, _ = masked(flows, 0, np.random.default_rng(1))
    assert text == "orig_pkts ?\nflow_iat tot ? avg ?"
    assert answer == "FILL: orig_pkts 3 flow_iat.tot -.117 flow_iat.avg 1.5"
    with pytest.raises(ValueError, match="features are not"):
        parse(["orig_pkts 3\nflow_iat tot -.117 avg 1.5", "orig_pkts: 3\nflow_iat.tot: 2\nflow_iat.avg: 1"], names)


def ranked_flows() -> Flows:
    """Flows of 29 features whose values have many forms."""
    names = [f"feature_{n}" for n in range(29)]
    forms = ["-0.068", "1.997e+05", "7240", "12.345", "0", "-2e-05"]
    texts = [
        "\n".join(f"{name}: {forms[(n + first) % len(forms)]} p{n + first}" for n, name in enumerate(names))
        for first in range(6)
    ]
    return parse(texts, names)


def test_planted_values_keep_the_form_of_the_flows_and_nothing_else() -> None:
    flows, random = ranked_flows(), np.random.default_rng(1)
    real = {cell.split(" ")[0] for row in flows.printed for cell in row}
    cells = [cell for _ in range(40) for cell in planted(flows, random)]
    values = [cell.split(" ")[0] for cell in cells]
    form = re.compile(r"-?\d\.\d{3}|[1-9]\.\d{3}e\+05|[1-9]\d{3}|[1-9]\d\.\d{3}|\d|-[1-9]e-05")
    assert [value for value in values if not form.fullmatch(value)] == []
    assert 0.3 < sum(value in real for value in values) / len(values) < 0.6  # 0.4, and what "0" becomes
    assert {cell.split(" ")[1] for cell in cells} == {f"p{rank}" for rank in range(101)}


def test_a_lookup_is_answered_from_its_own_text() -> None:
    flows, random = ranked_flows(), np.random.default_rng(1)
    for size in (3, 8, 29):
        text, answer, real = lookup(flows, size, random)
        lines = [line.replace(": ", " ") for line in text.split("\n")]
        asked = re.findall(r" (feature_\d+ \S+ p\d+)", answer)
        assert answer == "FILL:" + "".join(f" {line}" for line in asked) and not real
        assert len(lines) == size and len(asked) == min(8, size) and set(asked) <= set(lines)


def test_compact_lookups_keep_the_lines_that_depend_on_one_another() -> None:
    names = ["orig_pkts", "flow_iat.tot", "flow_iat.avg"]
    flows = parse(["orig_pkts 3\nflow_iat tot -.117 avg 1.5"], names)
    text, answer, _ = lookup(flows, 1, np.random.default_rng(1))
    found = re.fullmatch(r"orig_pkts (\S+)\nflow_iat tot (\S+) avg (\S+)", text)
    assert found is not None
    assert set(re.findall(r" (\S+) (\S+)", answer)) == set(zip(names, found.groups(), strict=True))


def test_written_answers_are_about_planted_values_and_only_real_texts_are_learned() -> None:
    flows = ranked_flows()
    curriculum = Curriculum(flows, np.zeros((6, 2), dtype=int), CLASSES, lambda text, name, _: f"{name} {text}")
    tasks = [curriculum.task(1, np.random.default_rng(seed)) for seed in range(200)]
    assert {task.real for task in tasks if task.text == flows.texts[1]} == {True}
    written = [task for task in tasks if task.answer.startswith(tuple(CLASSES))]
    assert 25 < len(written) < 75
    assert all(not task.real and task.text not in flows.texts and task.text in task.answer for task in written)
    first = [curriculum.task(1, np.random.default_rng(seed), first=True) for seed in range(20)]
    assert all(task.answer.startswith("FILL:") and len(task.text.split("\n")) == 8 for task in first)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("orig_pkts -.117\nflow_iat tot .5 avg 2e-5", "orig_pkts| -.11|7|\nflow_iat| tot| .5| avg| 2|e-5"),
        (
            "orig_pkts: -0.068 p38\nflow_iat.tot: 1.997e+05 p5",
            "orig_pkts:| -0|.06|8| p38|\nflow_iat.tot:| 1|.99|7|e+05| p5",
        ),
    ],
)
def test_a_value_is_pieces_of_two_digits_for_the_tokenizer(text: str, pieces: str) -> None:
    tokenizer = build_tokenizer([text] * 50, [], 500)
    assert [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]] == pieces.split("|")


def test_an_untrained_base_looks_at_the_value_of_the_name_just_read() -> None:
    import torch

    names = [f"feature_{chr(97 + n)}" for n in range(20)]
    flow = "\n" + "\n".join(f"{name}: {n}.{n + 31} p{n * 4}" for n, name in enumerate(names))
    tokenizer = build_tokenizer([flow], [*(f" {name}" for name in names), " above"], 700)
    model = new_model(tokenizer, BaseRecipe(), seed=1)
    model.set_attn_implementation("eager")
    ids = tokenizer(flow)["input_ids"]
    pieces = [tokenizer.decode([token]) for token in ids]
    found = 0
    for name in names:
        asked = torch.tensor([[*ids, *tokenizer(f" above {name}")["input_ids"]]])
        with torch.inference_mode():
            first, second, _ = model(asked, output_attentions=True).attentions
        assert [int(first[0, head, -1].argmax()) for head in range(3)] == [
            asked.shape[1] - 2 - head for head in range(3)
        ]
        found += int(second[0, 0, -1].argmax()) == pieces.index(f"\n{name}:") + 1
    assert found >= 10  # of 20; by chance 1 in 80


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
