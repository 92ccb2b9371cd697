"""Judging a base ends: files that loop, fill the memory or break a library end a child process, and are a sentence."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.models import check
from iot_pipeline_tests.tiny_model import make_base

JUDGE = check.judge  # the real one: ../conftest.py puts another in its place
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_without_end_is_stopped_and_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text(LOOP)
    with pytest.raises(UserError, match=r"^IOT_BASE_MODEL: .*tokenizer and chat template took more than 2 s; take"):
        JUDGE(str(base), base, cpu_s=2)


def test_the_audit_s_tokenizer_is_judged_alone_in_such_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, asked = make_base(tmp_path / "base"), list[list[str]]()
    (base / "model.safetensors").unlink()  # a tokenizer alone has no weights

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        told = b'{"doing": "reading its tokenizer and chat template"}\n'
        return subprocess.CompletedProcess(command, -signal.SIGPROF, told)

    check.check_tokenizer(str(base))  # in this process
    (base / "chat_template.jinja").write_text(LOOP)
    monkeypatch.setattr(check, "judge", JUDGE)
    monkeypatch.setattr(check.subprocess, "run", run)
    with pytest.raises(UserError, match=r"^IOT_AUDIT_TOKENIZER: .* took more than 60 s; take another tokenizer"):
        check.check_tokenizer(str(base))
    assert [command[-1] for command in asked] == ["tokenizer"]


@pytest.mark.parametrize(
    ("code", "lines", "sentence"),
    [
        (-signal.SIGKILL, [{"doing": "reading its weights"}], r"reading its weights ended the process \(signal 9\)"),
        (-signal.SIGPROF, [], "reading its files took more than 60 s"),
        (1, [{"doing": "building its model"}], r"building its model ended the process \(code 1\)"),
        (0, [{"doing": "x"}, {"error": "IOT_BASE_MODEL: this is wrong"}], "this is wrong"),
    ],
)
def test_however_the_child_ends_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, lines: list[dict[str, str]], sentence: str
) -> None:
    told = "\n".join(["no json", *map(json.dumps, lines)]).encode()
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, told))
    with pytest.raises(UserError, match=sentence):
        JUDGE("base", tmp_path)


def test_a_child_that_waits_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, timeout: float, **__: Any) -> Any:
        assert timeout >= check.WALL_S
        raise subprocess.TimeoutExpired("judge", timeout, b'{"doing": "reading its weights"}\n')

    monkeypatch.setattr(check.subprocess, "run", run)
    with pytest.raises(UserError, match="reading its weights did not end in time"):
        JUDGE("base", tmp_path)
