"""Class rows: weights, balance, the distribution at every token of a name, and their draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import LABEL_LINE, encode, load_tokenizer, prompt_text
from iot_pipeline.sft.check import check_class_tensors
from iot_pipeline.sft.class_rows import Questions, balanced, build_class_tensors, labelled, masked
from iot_pipeline.sft.tensors import IGNORED, Tensors, load_tensors
from iot_pipeline.training.data import Batches, causal_loss, make_draws
from iot_pipeline_tests.tiny_model import flow_texts, make_base

NAMES = ["Arp_Spoofing", "Arp_Flood", "Normal"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Tokenizer and model."""
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path_factory.mktemp("class-rows") / "base")
    return load_tokenizer(base), AutoModelForCausalLM.from_pretrained(base).eval()


def built(folder: Path, tokenizer: Any, shares: list[list[float]], names: list[str] = NAMES) -> Tensors:
    """Tensors of one text a share."""
    questions = Questions(flow_texts(len(shares), seed=5), np.array(shares), np.ones(len(shares)))
    build_class_tensors([(questions, 1.0)], names, 0.5, tokenizer, 400, folder / "classes.safetensors")
    return load_tensors(folder / "classes.safetensors")


def faulty(tensors: Tensors, fault: str) -> Tensors:
    """The tensors with one planted fault."""
    assert tensors.targets is not None and tensors.draw is not None
    at = int(np.flatnonzero(tensors.labels != IGNORED)[0])
    ids, labels, targets = tensors.input_ids.copy(), tensors.labels.copy(), tensors.targets.copy()
    if fault == "another token":
        ids[at] += 1
    elif fault == "prompt in the loss":
        labels[1] = ids[1]
    elif fault == "name out of the loss":
        labels[at] = IGNORED
    elif fault == "shares":
        targets[0] *= 0.5
    elif fault == "own token":
        targets[0] = np.roll(targets[0], 1)
    draw = tensors.draw * (2 if fault == "draws" else 1)
    return replace(tensors, input_ids=ids, labels=labels, targets=targets, draw=draw)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", []),
        ("another token", ["do not end with a class"]),
        ("prompt in the loss", ["distributions for"]),
        ("name out of the loss", ["distributions for"]),
        ("shares", ["do not sum to 1"]),
        ("own token", ["no share to the token"]),
        ("draws", ["draws of the rows"]),
    ],
)
def test_the_check_of_class_tensors_finds_each_planted_fault(
    world: tuple[Any, Any], tmp_path: Path, fault: str, said: list[str]
) -> None:
    tokenizer, _ = world
    good = built(tmp_path, tokenizer, [[1, 0, 0], [0.3, 0.7, 0], [0, 0, 1]])
    path = tmp_path / "faulty.safetensors"
    faulty(good, fault).save(path)
    found = check_class_tensors(path, tokenizer, 400, NAMES)
    assert all(any(part in problem for problem in found) for part in said)
    assert bool(found) == bool(said), found


def test_a_flow_group_weighs_the_root_of_its_rows_whatever_the_number_of_its_texts() -> None:
    rows = [("a", "g1", "x")] * 9 + [("b", "g2", "y")] + [(f"c{n}", "g3", "y") for n in range(4)]
    found = labelled(rows, ["x", "y"])
    weight = dict(zip(found.texts, found.weights, strict=True))
    assert weight["a"] == pytest.approx(3) and weight["b"] == pytest.approx(1)
    assert sum(weight[f"c{n}"] for n in range(4)) == pytest.approx(2)


def test_labels_that_contradict_become_shares() -> None:
    found = labelled([("a", "g", "x"), ("a", "g", "y"), ("a", "g", "x")], ["x", "y"])
    assert found.shares.tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)]]


def test_no_labelled_row_is_an_error() -> None:
    with pytest.raises(UserError, match="no class rows"):
        labelled([], ["x"])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 100)), min_size=1, max_size=40), st.floats(0, 1))
def test_a_classs_draws_are_its_mass_to_the_power(pairs: list[tuple[int, float]], power: float) -> None:
    shares = np.eye(4)[[place for place, _ in pairs]]
    weights = np.array([weight for _, weight in pairs])
    drawn = balanced(Questions([""] * len(pairs), shares, weights), power) @ shares
    mass = weights @ shares
    wanted = np.where(mass > 0, np.maximum(mass, 1e-9) ** power, 0)
    assert np.allclose(drawn, wanted / wanted.sum())


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 20), st.integers(0, 99)
)
def test_each_row_is_drawn_as_often_as_its_share_says(draw: list[float], per_step: int, steps: int, seed: int) -> None:
    rows = [(np.arange(3), np.arange(3))] * len(draw)
    flat = Tensors.of(rows)
    drawn = make_draws(Tensors(flat.input_ids, flat.labels, flat.offsets, draw=np.array(draw)), per_step, steps, seed)
    counts = np.bincount(drawn.rows, minlength=len(draw))
    assert len(drawn.rows) == per_step * steps
    # By any time a row is within one of its share. When all draws are made, that time is off by half the root of the
    # rows (standard deviation), of which four are allowed.
    share = np.array(draw) / sum(draw)
    assert (np.abs(counts - share * per_step * steps) <= 1 + 2 * len(draw) ** 0.5 * share + 1e-9).all()
    fewer = make_draws(Tensors(flat.input_ids, flat.labels, flat.offsets, draw=np.array(draw)), per_step, 1, seed)
    assert fewer.rows.tolist() == drawn.rows[:per_step].tolist()
    assert np.concatenate([drawn.rows_of(step) for step in range(steps)]).tolist() == drawn.rows.tolist()


def test_a_row_asks_for_the_class_where_it_is_scored(tmp_path: Path, world: tuple[Any, Any]) -> None:
    tokenizer, _ = world
    tensors = built(tmp_path, tokenizer, [[0.7, 0.2, 0.1]])
    ids, labels = tensors.row(0)
    text = flow_texts(1, seed=5)[0]
    (prompt,) = encode(tokenizer, [prompt_text(tokenizer, text)])
    line, name = (encode(tokenizer, [part])[0] for part in (LABEL_LINE, " Arp_Spoofing"))
    assert ids.tolist() == [*prompt, *line, *name]
    assert (labels == IGNORED).sum() == len(prompt) + len(line)


def test_the_loss_of_names_of_one_token_is_the_cross_entropy_of_the_distribution(
    tmp_path: Path, world: tuple[Any, Any]
) -> None:
    import torch

    tokenizer, model = world
    singles = [" n", " s", " t"]  # bytes are tokens
    names = [name.strip() for name in singles]
    share = [0.5, 0.3, 0.2]
    tensors = built(tmp_path, tokenizer, [share], names)
    tokens = [encode(tokenizer, [name])[0] for name in singles]
    (batch,) = Batches(tensors, tokenizer, 4).of(np.array([0]))
    loss = float(causal_loss(model, *batch).detach())
    ids = tensors.row(0)[0]
    logs = model(torch.tensor(ids[None].astype(np.int64))).logits[0].log_softmax(-1)
    start = len(ids) - len(tokens[0])
    wanted = 0.0
    for depth in range(len(tokens[0])):
        at = logs[start + depth - 1]
        same = [s for s, t in zip(share, tokens, strict=True) if t[:depth] == tokens[0][:depth]]
        for s, t in zip(share, tokens, strict=True):
            if t[:depth] == tokens[0][:depth]:
                wanted -= s / sum(same) * float(at[t[depth]].detach())
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_rows_padded_packed_and_alone_have_one_loss(tmp_path: Path, world: tuple[Any, Any]) -> None:
    tokenizer, model = world
    tensors = built(tmp_path, tokenizer, [[0.7, 0.2, 0.1], [0.0, 0.1, 0.9], [0.2, 0.5, 0.3]])
    rows = np.array([0, 1, 2, 2])

    def total(batches: Batches) -> float:
        return sum(float(causal_loss(model, *batch).detach()) for batch in batches.of(rows))

    alone = total(Batches(tensors, tokenizer, 1))
    assert total(Batches(tensors, tokenizer, 8)) == pytest.approx(alone, rel=1e-4)
    assert total(Batches(tensors, tokenizer, 8, pack_tokens=900)) == pytest.approx(alone, rel=1e-4)


def test_a_longer_row_than_allowed_is_named(tmp_path: Path, world: tuple[Any, Any]) -> None:
    questions = Questions(flow_texts(1, seed=5), np.array([[1.0, 0, 0]]), np.ones(1))
    with pytest.raises(UserError, match="IOT_MAX_LENGTH=16"):
        build_class_tensors([(questions, 1.0)], NAMES, 0.5, world[0], 16, tmp_path / "c.safetensors")


@given(st.integers(0, 5), st.integers(0, 99))
def test_masked_copies_share_their_flows_weight_and_keep_every_name(copies: int, seed: int) -> None:
    texts = ["a: 1.5 p3\nb.c: -2e-05 p100\nd: 0 p50", "a: 7 p9\nb.c: 1 p1\nd: 2 p2"]
    found = masked(Questions(texts, np.eye(2), np.array([4.0, 1.0])), copies, seed)
    assert len(found.texts) == 2 * (copies + 1)
    assert found.weights @ found.shares == pytest.approx([4, 1])
    for text, share in zip(found.texts, found.shares, strict=True):
        own = texts[int(share.argmax())].split("\n")
        lines = text.split("\n")
        assert all(line == whole or line == f"{whole.split(':')[0]}: ?" for line, whole in zip(lines, own, strict=True))
    assert set(texts) <= set(found.texts)


def test_some_values_are_masked() -> None:
    text = "\n".join(f"f{n}: {n} p{n}" for n in range(20))
    found = masked(Questions([text], np.ones((1, 1)), np.ones(1)), 50, 3)
    share = np.mean([other.count("?") / 20 for other in found.texts[1:]])
    assert 0.1 < share < 0.2
