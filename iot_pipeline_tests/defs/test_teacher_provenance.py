"""What was learnt from a teacher's refusals is in the provenance of the artefact that its answers made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.resources import TeacherResource
from iot_pipeline.errors import UserError
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import Said, accept, completion, said, serving
from iot_pipeline_tests.teacher.test_hostile import with_schema


def reasoning_model_without_schemas(_method: str, _path: str, body: bytes) -> Said:
    sent = json.loads(body)
    for name, words in (
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        ("temperature", "Unsupported value: 'temperature' does not support 0.7. Only the default (1) is supported."),
        ("response_format", "response_format is not supported"),
    ):
        if name in sent:
            return said({"error": {"message": words, "code": "unsupported_parameter", "param": name}}, 400)
    return said(completion())


@pytest.mark.parametrize("key", ["sk-D15T1NCT1VE-key"])
def test_what_a_server_does_not_take_is_in_the_provenance(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    with serving(reasoning_model_without_schemas) as url:
        address = url.replace("//", "//me:s3cret@") + "/?token=t0ken1"
        for name, value in (("IOT_LAKE", str(tmp_path)), ("IOT_TEACHER", address), ("OPENAI_API_KEY", key)):
            monkeypatch.setenv(name, value)
        settings_module.settings.cache_clear()
        step: Any = SimpleNamespace(
            tag_run=print,
            settings=settings_module.settings(),
            log=heard.append,
            provenance={},
            metadata={},
            code=lambda _: "x",
        )
        with TeacherResource().open(step) as engine:
            assert set(engine.ask(with_schema(make_requests(3)), accept)) and not step.metadata
    settings_module.settings.cache_clear()
    assert step.provenance == {
        "teacher": url,
        "via": "requests",
        "answers": "without response_format, which the server refused",
        "parameters_refused": ["max_tokens", "temperature"],
    }
    told = json.dumps([step.provenance, heard, repr(step.metadata)])
    assert "takes no response_format" in told and not any(secret in told for secret in (key, "s3cret", "t0ken1"))


def test_a_server_that_takes_everything_leaves_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: said(completion())) as url:
        monkeypatch.setenv("IOT_LAKE", str(tmp_path))
        monkeypatch.setenv("IOT_TEACHER", url)
        settings_module.settings.cache_clear()
        step: Any = SimpleNamespace(
            tag_run=print, settings=settings_module.settings(), log=print, provenance={}, metadata={}
        )
        with TeacherResource().open(step) as engine:
            engine.ask(make_requests(1), accept)
    settings_module.settings.cache_clear()
    assert step.provenance == {"teacher": url, "via": "requests"}


def test_a_launchpad_lowers_the_budget_and_does_not_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []

    def opened(chosen: settings_module.Settings, *_: object) -> None:
        taken.append(chosen.run.teacher_budget_usd)
        raise UserError("enough")

    monkeypatch.setattr("iot_pipeline.defs.resources.open_teacher", opened)
    step: Any = SimpleNamespace(settings=settings_module.load_settings(teacher_budget_usd="1"), log=print)
    step.code = str
    for asked in (None, 0.5, 100.0):
        with pytest.raises(UserError, match="enough"), TeacherResource(budget_usd=asked).open(step):
            pass
    assert taken == [1.0, 0.5, 1.0]
