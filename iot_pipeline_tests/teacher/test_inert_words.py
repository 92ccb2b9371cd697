"""A server's words, whatever they are, reach terminal, log, store and metadata inert and short."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.commands import console
from iot_pipeline.errors import UserError, printable
from iot_pipeline.teacher.redaction import inert, shown_words
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import Said, accept, completion, said, serving, teacher

EVIL = "\x1b]0;owned\x07\x1b[31m[bold red]<script>alert(1)</script>\r\n\u202e=cmd|' /C calc'!A1 " + "y" * 40


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_becomes_inert(text: str) -> None:
    assert inert(text).isprintable() and len(inert(text, 9)) <= 9
    assert shown_words(text).isprintable()
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()
    assert not text.isprintable() or printable(text) == text


@pytest.mark.parametrize("status", [200, 400, 402, 403, 404, 429, 500])
@pytest.mark.parametrize("as_json", [True, False])
def test_errors_are_told_inert_and_cut(status: int, as_json: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("iot_pipeline.teacher.retry.RATE_LIMIT_ATTEMPTS", 2)
    words, heard = EVIL + "z " * 2_000, list[str]()
    content = {"error": {"message": words, "code": words, "param": words}}
    body: Said = said(content, status) if as_json else (status, words.encode(), {})
    with serving(lambda *_: body) as url:
        asking = teacher(url, tmp_path / "t", log=heard.append)
        told: list[str] = []
        try:
            told += [reason for a in asking.ask(make_requests(2), accept).values() for reason in a.reasons]
        except UserError as error:
            told.append(str(error))
    assert told and all(one.isprintable() and len(one) < 800 and "<script>" not in one for one in told + heard)
    with Store(tmp_path / "t") as store:
        kept = store.read("SELECT outcome, model FROM attempts")
        assert all(len(cell) < 120 and cell.isprintable() for row in kept for cell in row)


def test_names_in_an_answer_are_kept_inert(tmp_path: Path) -> None:
    choice = {"message": {"content": "fine"}, "finish_reason": EVIL}
    with serving(lambda *_: said(completion(model=EVIL, choices=[choice]))) as url:
        (answer,) = teacher(url, tmp_path / "t").ask(make_requests(1), accept).values()
    assert answer.model.isprintable() and answer.finish_reason.isprintable() and len(answer.finish_reason) <= 100


def test_an_endless_message_is_read_no_further_than_an_answer(tmp_path: Path) -> None:
    pieces = (b"x" * 100_000 for _ in itertools.count())
    with serving(lambda *_: (400, pieces, {})) as url:
        answers = teacher(url, tmp_path / "t", max_attempts=1, concurrency=1).ask(make_requests(1), accept)
    assert all(len(a.reasons[0]) < 400 for a in answers.values())


def test_the_breaker_tells_a_check_s_reason_inert(tmp_path: Path) -> None:
    with serving(lambda *_: said(completion("x"))) as url:
        asking = teacher(url, tmp_path / "t")
        with pytest.raises(UserError, match="most common reason") as caught:
            asking.ask(make_requests(60), lambda *_: [f"mislabelled: {EVIL}"])
    assert str(caught.value).isprintable()


def test_tables_and_facts_of_the_terminal_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    console.facts({"teacher": EVIL, "reasons": {EVIL: 1}, "list": [EVIL]}, as_json=False)
    console.rows([{"teacher": EVIL}], as_json=False)
    console.facts({"teacher": EVIL}, as_json=True)
    shown = capsys.readouterr().out
    assert "\x1b]" not in shown and "\x07" not in shown and "\u202e" not in shown and "[bold red]" in shown
