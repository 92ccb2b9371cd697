"""Both tasks are trained and asked with the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tasks import asked, with_tasks
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline_tests.tiny_model import CLASSES, chats, flow_texts, make_base

FLOW = "orig_pkts: 1.000\nresp_pkts: 0.000"
LAST = "ANALYSIS: One packet.\nKEY_INDICATORS: orig_pkts 1.000\nCLASSIFICATION: TCP_Flood"
ROW = {"messages": [{"role": "user", "content": FLOW}, {"role": "assistant", "content": LAST}]}


def test_one_task_leaves_the_row_alone() -> None:
    assert list(with_tasks(ROW, "explain")) == [ROW]
    assert asked(FLOW, "classify", "explain") == FLOW


def test_both_tasks_make_two_rows() -> None:
    explain, classify = with_tasks(ROW, "both")
    assert [turn["content"] for turn in explain["messages"]] == [f"{FLOW}\nTask: explain", LAST]
    assert [turn["content"] for turn in classify["messages"]] == [
        f"{FLOW}\nTask: classify",
        "CLASSIFICATION: TCP_Flood",
    ]
    assert classify["messages"][0]["content"] == asked(FLOW, "classify", "both")


def test_an_answer_without_a_class_is_an_error() -> None:
    with pytest.raises(UserError, match="no CLASSIFICATION: line"):
        list(with_tasks({"messages": [ROW["messages"][0], {"role": "assistant", "content": "x"}]}, "both"))


def test_rows_of_both_tasks_keep_the_promises_of_tensors(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_base(tmp_path / "base"))
    rows = [asked for row in chats(flow_texts(6)) for asked in with_tasks(row, "both")]
    build_tensors(rows, tokenizer, 300, tmp_path / "t.safetensors")
    assert check_tensors(tmp_path / "t.safetensors", tokenizer, 300, rows=12).problems == []


def test_a_saved_student_answers_as_before(tmp_path: Path) -> None:
    student = Student.load(make_base(tmp_path / "base"), None, threads=1)
    student.save(tmp_path / "merged")
    again = Student.load(tmp_path / "merged", None, threads=1)
    texts = flow_texts(4)
    assert (again.score_labels(texts, CLASSES) == student.score_labels(texts, CLASSES)).all()
    assert not list((tmp_path / "merged").glob("*.bin"))
