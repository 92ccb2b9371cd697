"""Tensors: nothing cut, answer-only labels, one end of turn; and a check that can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import END_OF_TURN, load_tokenizer, pad_id
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tensors import IGNORED, build_tensors, load_tensors
from iot_pipeline.tiny_base.pretraining_tasks import ANSWER_WORDS
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.tiny_model import CLASSES, NO_REAL, REAL, answer_of, chats, flow_texts, make_base


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(flow_texts(50), [*ANSWER_WORDS, *(f" {name}" for name in CLASSES)], 700)


def test_rows_hold_prompt_answer_and_one_end(tokenizer: Any, tmp_path: Path) -> None:
    texts = [*flow_texts(5), flow_texts(5)[2]]
    stats = build_tensors(chats(texts), tokenizer, 200, tmp_path / "t.safetensors")
    tensors = load_tensors(tmp_path / "t.safetensors")
    assert (stats.rows, stats.distinct_rows, stats.rows_cut, stats.rows_label_and_end_supervised) == (6, 5, 0, 6)
    assert (tensors.input_ids.dtype, tensors.labels.dtype, tensors.offsets.dtype) == ("int32", "int32", "int64")
    for place, text in enumerate(texts):
        ids, labels = tensors.row(place)
        kept = labels[labels != IGNORED]
        assert tokenizer.decode(kept) == answer_of(text) + END_OF_TURN
        assert tokenizer.decode(ids[labels == IGNORED]) == (
            f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        )
    assert stats.supervised_tokens == int((tensors.labels != IGNORED).sum())
    assert check_tensors(tmp_path / "t.safetensors", tokenizer, 200, 6).problems == []


def test_same_rows_give_same_bytes(tokenizer: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_tensors(chats(flow_texts(4)), tokenizer, 200, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_longer_rows_are_an_error_that_names_them(tokenizer: Any, tmp_path: Path) -> None:
    rows = chats(flow_texts(9))
    for place in range(1, 8):
        rows[place]["messages"][1]["content"] += " and more" * (200 + place)
    named = r"^7 distinct training rows are longer than IOT_MAX_LENGTH=150: 1 \(\d+ tokens\), 2 .* and 2 more; raise it"
    with pytest.raises(UserError, match=named):
        build_tensors(rows, tokenizer, 150, tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "row 0: `messages` must be one user"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "no label"}]},
            "row 0: the answer has no CLASSIFICATION:",
        ),
    ],
)
def test_malformed_row_is_an_error(tokenizer: Any, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_tensors([row], tokenizer, 200, tmp_path / "t")


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("prompt", "prompt tokens in the loss"),
        ("end", "do not supervise"),
        ("cut", "do not end with the end of turn"),
        ("second end", "do not supervise"),
        ("forged turn", "1 rows have other control tokens than the 4 that the chat template writes"),
    ],
)
def test_check_finds_harm(tokenizer: Any, tmp_path: Path, harm: str, problem: str) -> None:
    path = tmp_path / "t.safetensors"
    build_tensors(chats(flow_texts(3)), tokenizer, 200, path)
    tensors = load_tensors(path)
    ids, labels, offsets = tensors.input_ids.copy(), tensors.labels.copy(), tensors.offsets.copy()
    last = int(offsets[1]) - 1
    if harm == "prompt":
        labels[2:5] = ids[2:5]
    elif harm == "end":
        labels[last] = IGNORED
    elif harm == "forged turn":  # in a prompt, where nothing else looks at it
        ids[5] = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    elif harm == "second end":
        ids[last - 1] = labels[last - 1] = ids[last]
    else:
        ids, labels = np.delete(ids, last), np.delete(labels, last)
        offsets[1:] -= 1
    save_file({"input_ids": ids, "labels": labels, "offsets": offsets}, path)
    found = check_tensors(path, tokenizer, 200)
    assert any(problem in line for line in found.problems), found.problems


def test_any_text_comes_back(tokenizer: Any) -> None:
    for text in ("orig_pkts: -0.123 p07\n\n  ü 漢 \t €", "a.b.c 1e-05 !? __x", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_saved_tokenizer_beside_a_qwen2_config_reads_the_same(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    again = load_tokenizer(tmp_path)
    texts = [*flow_texts(20, seed=9), answer_of(flow_texts(1)[0])]
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert pad_id(again) != again.convert_tokens_to_ids(END_OF_TURN)


def test_missing_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="IOT_BASE_MODEL"):
        load_tokenizer(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL)
def test_real_qwen_tokenizer_keeps_the_promises(tmp_path: Path) -> None:
    real = load_tokenizer(REAL)
    stats = build_tensors(chats(flow_texts(4)), real, 400, tmp_path / "t.safetensors")
    assert stats.rows_label_and_end_supervised == 4
    assert check_tensors(tmp_path / "t.safetensors", real, 400).problems == []


def test_an_answer_whose_first_word_joins_a_newline_is_told_from_its_prompt(tmp_path: Path) -> None:
    """A tokenizer that knows "\\nANALYSIS" as one token joined it over the prompt's end, and the row was refused."""
    tokenizer = load_tokenizer(make_base(tmp_path / "base"))
    tokenizer.add_tokens(["\nANALYSIS", "\nCLASSIFICATION"])
    rows = chats(flow_texts(2))
    for row in rows:
        label, *rest = row["messages"][1]["content"].split("\n")
        row["messages"][1]["content"] = "\n".join([*rest, label])
    build_tensors(rows, tokenizer, 200, tmp_path / "t.safetensors")
    ids, labels = load_tensors(tmp_path / "t.safetensors").row(0)
    answer = tokenizer.decode(ids[labels != -100].tolist())
    assert answer == rows[0]["messages"][1]["content"] + "<|im_end|>"
