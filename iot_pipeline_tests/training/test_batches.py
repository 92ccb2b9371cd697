"""What a forward pass reads: each row as often as asked, little padding, packs that do not see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import IGNORED, Tensors, build_tensors, load_tensors
from iot_pipeline.training.data import MOST_PADDING, Batches, best_fit, by_length, causal_loss, share_of
from iot_pipeline_tests.tiny_model import chats, flow_texts, make_base

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, Any, Any]:
    """Tensors, tokenizer and model."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("batches")
    base = make_base(folder / "base")
    tokenizer = load_tokenizer(base)
    texts = flow_texts(24, seed=3)
    build_tensors(chats([*texts, *texts[:8]]), tokenizer, 200, folder / "t.safetensors")
    return load_tensors(folder / "t.safetensors"), tokenizer, AutoModelForCausalLM.from_pretrained(base).eval()


@given(LENGTHS, st.integers(1, 400))
def test_packs_hold_every_row_once_and_no_more_than_they_can(lengths: list[int], capacity: int) -> None:
    packs = best_fit(lengths, capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(len(pack) == 1 or sum(lengths[row] for row in pack) <= capacity for pack in packs)
    assert best_fit(lengths, capacity) == packs


def test_best_fit_fills_the_gap_that_fits_best() -> None:
    assert best_fit([7, 3, 5, 5, 9, 1], 10) == [[4, 5], [0, 1], [2, 3]]


@given(LENGTHS, st.integers(1, 40))
def test_batches_by_length_keep_padding_low(lengths: list[int], most: int) -> None:
    ascending = np.sort(np.array(lengths))
    batches = by_length(ascending, most)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        filled = len(batch) * ascending[batch].max()
        assert 1 - ascending[batch].sum() / filled <= MOST_PADDING + 1e-9


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_equal_rows_are_computed_once_and_counted_as_often(world_size: int) -> None:
    same_as = np.array([0, 1, 0, 0, 4])
    lengths = np.array([5, 9, 5, 5, 7])
    seen: dict[int, int] = {}
    for rank in range(world_size):
        rows, counts = share_of(np.arange(5), same_as, lengths, rank, world_size)
        seen |= dict(zip(rows.tolist(), counts.tolist(), strict=True))
    assert seen == {0: 3, 1: 1, 4: 1}


def total(batches: Batches, model: Any) -> float:
    rows = np.arange(len(batches.tensors))
    return sum(float(causal_loss(model, *batch).detach()) for batch in batches.of(rows))


def test_packed_padded_and_single_rows_have_one_loss(world: tuple[Tensors, Any, Any]) -> None:
    tensors, tokenizer, model = world
    single = total(Batches(tensors, tokenizer, 1, label_weight=4.0), model)
    padded = Batches(tensors, tokenizer, 16, label_weight=4.0)
    packed = Batches(tensors, tokenizer, 16, label_weight=4.0, pack_tokens=300)
    assert total(padded, model) == pytest.approx(single, abs=1e-3)
    assert total(packed, model) == pytest.approx(single, abs=1e-3)
    assert padded.padding_share() <= MOST_PADDING and packed.padding_share() == 0.0
    assert padded.merged_share() == packed.merged_share() == 8 / 32


def test_a_packed_row_is_blind_to_its_neighbours(world: tuple[Tensors, Any, Any]) -> None:
    import torch

    tensors, _tokenizer, model = world
    first, second = tensors.row(0)[0].astype(np.int64), tensors.row(1)[0].astype(np.int64)
    pack = torch.from_numpy(np.concatenate([first, second]))[None]
    positions = torch.from_numpy(np.concatenate([np.arange(len(first)), np.arange(len(second))]))[None]
    with torch.no_grad():
        together = model.model(input_ids=pack, position_ids=positions, use_cache=False).last_hidden_state[0]
        alone = model.model(input_ids=torch.from_numpy(second)[None], use_cache=False).last_hidden_state[0]
    assert torch.allclose(together[len(first) :], alone, atol=1e-4)


def test_weights_are_on_the_label_and_count_in_the_divisor(world: tuple[Tensors, Any, Any]) -> None:
    tensors, tokenizer, _model = world
    batches = Batches(tensors, tokenizer, 4, label_weight=5.0)
    rows = np.arange(4)
    heavy = supervised = 0.0
    for batch in batches.of(rows):
        chosen = batch.labels != IGNORED
        heavy += float((batch.weights[chosen] - 1).sum())
        supervised += float(chosen.sum())
        marked = [int(token) for token in batch.ids[batch.weights > 1]]
        assert all(tokenizer.decode(marked).count(name) == 0 for name in ("ANALYSIS", "CLASSIFICATION"))
    assert heavy > 0
    assert batches.weight_total(rows) == pytest.approx(heavy + supervised)


def test_smaller_halves_until_one_row(world: tuple[Tensors, Any, Any]) -> None:
    tensors, tokenizer, _model = world
    batches = Batches(tensors, tokenizer, 4)
    assert [(batches.shrink(), batches.most()) for _ in range(3)] == [
        (True, "2 rows"),
        (True, "1 rows"),
        (False, "1 rows"),
    ]
    longest = int(tensors.lengths.max())
    packed = Batches(tensors, tokenizer, 4, pack_tokens=2 * longest)
    assert [(packed.shrink(), packed.most()) for _ in range(2)] == [
        (True, f"{longest} tokens"),
        (False, f"{longest} tokens"),
    ]


def test_a_tensor_file_has_the_counts_of_its_rows(world: tuple[Tensors, Any, Any], tmp_path: Path) -> None:
    tensors, tokenizer, _model = world
    batches = Batches(tensors, tokenizer, 4)
    assert batches.supervised.tolist() == [int((tensors.row(p)[1] != IGNORED).sum()) for p in range(len(tensors))]
