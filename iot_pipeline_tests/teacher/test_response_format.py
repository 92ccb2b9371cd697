"""Answers held to a JSON schema: asked for where the server knows it, without it where it does not, read either way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.augmentation.answers import answer_schema, format_answer, parse_answer
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.request import Request
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests


def with_schema(count: int) -> list[Request]:
    return [replace(r, schema_version="1-json", schema=answer_schema("label_first")) for r in make_requests(count)]


def teacher(url: str, store: Path, heard: list[str], **changes: Any) -> Teacher:
    limits = BatchLimits(first_poll_s=0.05, poll_s=0.1, orphan_grace_s=0.0)
    settings = {"source": "s", "budget_usd": None, "log": heard.append, "backoff_base_s": 0.02, "batch_limits": limits}
    return Teacher(TeacherConfig(url, "none", store, **(settings | changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("via", ["requests", "batch"])
def test_objects_are_asked_for_read_and_checked(tmp_path: Path, via: str) -> None:
    requests = with_schema(30)
    with embedded_server({"ungrounded": 0.1, "wrong_label": 0.1, "truncate": 0.1}, seed=2) as url:
        asking = teacher(url, tmp_path / "t.sqlite", [], via=via)
        answers = asking.ask(requests, checker(requests))
    good = [a for a in answers.values() if a.status == "ok"]
    assert len(good) >= 27 and not asking.form_refused  # bad ones may come often enough to be quarantined
    assert all(a.reasons for a in answers.values() if a.status != "ok")
    assert all(list(json.loads(a.text)) == ["classification", "analysis", "key_indicators"] for a in good)
    assert asking.summary.attempts > 30 and asking.summary.outcomes["cut off"] > 0


@pytest.mark.parametrize("via", ["requests", "batch"])
def test_a_server_without_schemas_is_asked_without_and_that_is_said(tmp_path: Path, via: str) -> None:
    requests, heard = with_schema(30), list[str]()
    with embedded_server(json_schema=0) as url:
        asking = teacher(url, tmp_path / "t.sqlite", heard, via=via, concurrency=4)
        answers = asking.ask(requests, checker(requests))
    assert set(answers) == {r.key for r in requests} and {a.status for a in answers.values()} == {"ok"}
    assert asking.form_refused and sum("takes no response_format" in line for line in heard) == 1
    with Store(tmp_path / "t.sqlite") as store:
        outcomes = store.ledger()["outcomes"]
    assert outcomes["answered"] == 30
    # Only what was sent before the first refusal came back was sent in vain.
    assert 1 <= outcomes["form of a schema refused"] <= (30 if via == "batch" else 4)


def test_the_form_is_in_the_key_by_its_version_and_a_request_without_is_as_ever() -> None:
    plain, held = make_requests(1)[0], with_schema(1)[0]
    assert plain.key != held.key == replace(held, schema=None).key
    assert "response_format" not in plain.body()
    assert held.body()["response_format"]["json_schema"]["strict"] is True


WRAPS = [
    "{}", "```json\n{}\n```", "\n {}\n", "<think>maybe {x}</think>{}", "Here it is:\n```json\n{}\n```",
    "Sure. {} I hope this helps.", "```\n{}\n```\nTell me if you need more.", "My answer in JSON:\n\n{}<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_an_object_says_what_the_text_says(wrap: str) -> None:
    text = "CLASSIFICATION: Normal\nANALYSIS: a_b is 0.500 here.\nKEY_INDICATORS: a_b 0.500 (above the mean); c -1"
    content = (
        '{"classification": "Normal", "analysis": "a_b is 0.500 here.", "key_indicators": '
        '[{"feature": "a_b", "value": 0.500, "note": "(above the mean)"}, {"feature": "c", "value": "-1", "note": ""}]}'
    )
    parsed = parse_answer(wrap.replace("{}", content))
    assert parsed == parse_answer(text) and parsed.problems == ()
    assert format_answer(parsed, "label_first") == text


def test_a_text_that_begins_with_a_brace_in_a_sentence_stays_a_text() -> None:
    text = "CLASSIFICATION: N\nANALYSIS: x is 1 here.\nKEY_INDICATORS: x 1 (low)"
    assert parse_answer("For the flow {x: 1}:\n" + text) == parse_answer(text)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('{"classification": "Normal", "anal', "no JSON object"),
        ('{"classification": "Normal"}', "key_indicators"),
        ('{"classification": "", "analysis": "x", "key_indicators": []}', "no KEY_INDICATORS"),
        ('{"classification": "N", "analysis": "x", "key_indicators": [5]}', "a JSON object without"),
        ('{"classification": "N", "classification": "M", "analysis": "x", "key_indicators": []}', "comes twice"),
        ('First {"classification": "N"}, then {"classification": "M"}', "more than one answer"),
        ('{"classification": "N"}\nANALYSIS: x', "more than one answer"),
        ("I cannot read {this}.", "no ANALYSIS"),
        ('I read { "this".', "no JSON object"),
    ],
)
def test_what_is_wrong_with_an_object_is_named(said: str, problem: str) -> None:
    assert any(problem in one for one in parse_answer(said).problems)
