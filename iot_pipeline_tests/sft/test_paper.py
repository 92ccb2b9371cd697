"""The old recipe does what it did: cuts the label off, trains on prompts, never on an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.paper import build_paper_tensors, named_class, named_classes
from iot_pipeline.sft.tensors import IGNORED, build_tensors, load_tensors
from iot_pipeline_tests.tiny_model import CLASSES, NO_REAL, REAL, chats, flow_texts, label_of, make_base


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_base(tmp_path_factory.mktemp("base") / "base"))


def explained_last(words: int) -> list[dict[str, Any]]:
    """Rows whose class comes behind an analysis of `words` words, as in the prior work."""
    rows = chats(flow_texts(5))
    for row in rows:
        label, analysis, *_ = row["messages"][1]["content"].split("\n")
        row["messages"][1]["content"] = f"{analysis} {'packets ' * words}\n{label}"
    return rows


def test_short_rows_keep_their_label_but_never_train_an_end(tokenizer: Any, tmp_path: Path) -> None:
    stats = build_paper_tensors(explained_last(5), tokenizer, tmp_path / "old.safetensors", CLASSES)
    assert (stats["rows"], stats["rows_cut"], stats["rows_with_label"], stats["rows_with_end"]) == (5, 0, 5, 0)
    assert 0 < stats["prompt_loss_tokens"] < stats["loss_tokens"]
    old = load_tensors(tmp_path / "old.safetensors")
    ids, labels = old.row(0)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (labels[ids == end] == IGNORED).all() and (labels[ids != end] == ids[ids != end]).all()


def test_long_rows_lose_it(tokenizer: Any, tmp_path: Path) -> None:
    stats = build_paper_tensors(explained_last(600), tokenizer, tmp_path / "old.safetensors", CLASSES)
    assert (stats["rows_cut"], stats["rows_with_label"]) == (5, 0)
    assert (np.array(load_tensors(tmp_path / "old.safetensors").lengths) == 512).all()
    assert stats["label_survives_share"] == 0.0


def test_a_share_of_the_answer_can_stand_for_the_cut(tokenizer: Any, tmp_path: Path) -> None:
    stats = build_paper_tensors(explained_last(40), tokenizer, tmp_path / "old.safetensors", CLASSES, kept_share=0.25)
    assert (stats["rows_cut"], stats["rows_with_label"]) == (5, 0)
    assert stats["answer_kept_share"] == pytest.approx(0.25, abs=0.02)


def test_with_the_real_tokenizer_no_label_survives_an_answer_of_the_papers_length(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(NO_REAL)
    tokenizer = load_tokenizer(REAL)
    rows = explained_last(900)
    names = load_spec("farm_flow").feature_names
    random = np.random.default_rng(5)
    for row in rows:
        row["messages"][0]["content"] = "\n".join(f"{name}: {random.normal():.3f}" for name in names)
    assert len(names) == 29
    stats = build_paper_tensors(rows, tokenizer, tmp_path / "old.safetensors", CLASSES)
    assert stats["rows_cut"] == 5 and stats["rows_with_label"] == 0 and stats["rows_with_end"] == 0
    ours = build_tensors(rows, tokenizer, 4096, tmp_path / "ours.safetensors")
    assert ours.rows_label_and_end_supervised == 5 and ours.rows_cut == 0


def test_a_class_that_the_analysis_names_is_counted_though_its_line_is_cut(tokenizer: Any, tmp_path: Path) -> None:
    texts, rows = flow_texts(5), explained_last(600)
    for text, row in list(zip(texts, rows, strict=True))[:3]:
        answer = row["messages"][1]
        answer["content"] = answer["content"].replace("ANALYSIS:", f"ANALYSIS: The label {label_of(text)} fits;", 1)
    stats = build_paper_tensors(rows, tokenizer, tmp_path / "old.safetensors", CLASSES)
    assert (stats["rows_with_label"], stats["rows_naming_class"], stats["rows_telling_class"]) == (0, 3, 3)
    assert (stats["label_survives_share"], stats["class_named_share"], stats["class_told_share"]) == (0.0, 0.6, 0.6)


def test_an_answer_that_is_not_cut_tells_its_class_by_its_line(tokenizer: Any, tmp_path: Path) -> None:
    stats = build_paper_tensors(explained_last(40), tokenizer, tmp_path / "old.safetensors", CLASSES, kept_share=1.0)
    assert (stats["rows_cut"], stats["rows_with_label"], stats["rows_telling_class"]) == (0, 5, 5)
    lengths = load_tensors(tmp_path / "old.safetensors").lengths
    assert stats["rows_with_end"] == 0 and 40 < stats["longest_answer"] < lengths.max()


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("ANALYSIS: a TCP flood, not port scanning.\nCLASSIFICATION: Port_Scanning", "Port_Scanning"),
        ("ANALYSIS: This is a TCP flood; Port_Scanning would differ.", "TCP_Flood"),
        ("ANALYSIS: tcp-flood", "TCP_Flood"),
        ("ANALYSIS: a normal rate of packets", None),  # the adjective
        ("ANALYSIS: the class is Normal", "Normal"),
        ("ANALYSIS: TCP_Flooding and Port_Scan", None),  # other words, or cut off
        ("CLASSIFICATION: ", None),
        ("", None),
    ],
)
def test_the_class_that_an_answer_gives(answer: str, wanted: str | None) -> None:
    assert named_class(answer, CLASSES) == wanted


def test_of_two_names_at_one_place_the_longer_is_meant() -> None:
    assert named_classes("a DOS_SYN_Hping flow", ("DOS", "DOS_SYN_Hping"))[0] == "DOS_SYN_Hping"
