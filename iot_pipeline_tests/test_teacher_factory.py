"""From settings to a teacher: every setting arrives, who is paid is said, credentials stay out of what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher.address import split_credentials
from iot_pipeline.teacher.store.database import store_url
from iot_pipeline.teacher_factory import address_of, open_teacher, source_of, store_of
from iot_pipeline_tests.teacher.flows import checker, make_requests


def settings(tmp_path: Path, **given: str):  # type: ignore[no-untyped-def]
    return load_settings({"IOT_LAKE": str(tmp_path), **{f"IOT_{name.upper()}": v for name, v in given.items()}})


def test_every_setting_arrives(tmp_path: Path) -> None:
    chosen = settings(
        tmp_path,
        teacher="http://10.0.0.7:8000/v1",
        teacher_via="batch",
        teacher_timeout_s="7.5",
        teacher_max_attempts="3",
        teacher_enqueued_tokens="1000",
        teacher_paid="yes",
        teacher_budget_usd="2",
        teacher_concurrency="9",
        teacher_store=str(tmp_path / "elsewhere.sqlite"),
    )
    with open_teacher(chosen) as teacher:
        config = teacher.config
        assert (teacher.via, config.timeout_s, config.max_attempts, config.paid) == ("batch", 7.5, 3, True)
        assert (config.batch_limits.tokens, config.budget_usd, config.concurrency) == (1000, 2.0, 9)
        assert store_url(config.store).database == str(tmp_path / "elsewhere.sqlite")


@pytest.mark.parametrize(
    ("where", "paid", "expected", "said"),
    [
        ("http://10.0.0.7/v1", "auto", False, "taken for a free server"),
        ("http://10.0.0.7/v1", "yes", True, None),
        ("https://llm.example.org/v1", "auto", True, "taken for a paid server"),
        ("https://llm.example.org/v1", "no", False, None),
    ],
)
def test_who_is_paid_is_the_settings_choice_and_a_guess_is_said(
    tmp_path: Path, where: str, paid: str, expected: bool, said: str | None
) -> None:
    heard: list[str] = []
    with open_teacher(settings(tmp_path, teacher=where, teacher_paid=paid), heard.append) as teacher:
        assert teacher.config.paid is expected
    assert (said in heard[0] and "IOT_TEACHER_PAID" in heard[0]) if said else not heard


def test_credentials_of_a_url_travel_but_are_not_kept(tmp_path: Path) -> None:
    chosen = settings(tmp_path, teacher="https://me:s3cr%40t@llm.example.org/v1")
    heard: list[str] = []
    with open_teacher(chosen, heard.append) as teacher:
        assert (teacher.source, teacher.config.base_url) == ("https://llm.example.org/v1",) * 2
        assert "s3cr" not in "".join([repr(teacher), repr(teacher.config), *heard])
        assert source_of(chosen) == teacher.source
        assert split_credentials(teacher.config.url) == (
            "https://llm.example.org/v1",
            {"Authorization": "Basic bWU6czNjckB0"},
        )


@pytest.mark.parametrize(
    ("where", "message"), [("opnai", "IOT_TEACHER must be embedded, openai"), ("openai", "OPENAI_API_KEY is not set")]
)
def test_what_is_no_teacher_is_named(tmp_path: Path, where: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=message), open_teacher(settings(tmp_path, teacher=where)):
        pass


def test_answers_of_another_edition_of_the_embedded_rules_are_not_given_out(tmp_path: Path) -> None:
    chosen, requests = settings(tmp_path), make_requests(5)
    asked = []
    for edition in ("one", "one", "two"):
        with open_teacher(chosen, edition=edition) as teacher:
            teacher.ask(requests, checker(requests))
            asked.append((teacher.source, teacher.summary.asked, teacher.config.paid))
    assert asked == [("embedded-one", 5, False), ("embedded-one", 0, False), ("embedded-two", 5, False)]


@pytest.mark.parametrize(
    "where",
    [
        "htp://me:s3cret@host/v1",
        "me:s3cret@host/v1",
        "http:me:s3cret@host/v1",
        "s3cret://a:s3cret@h://b:s3cret@host",
        "http://me:s3cret/more@host/v1",
        "http://me:more@s3cret@host/v1",
        "http://me:s3cret:8000/v1",
        "http://s3cret@:x/v1",
        "host/v1?token=s3cret",
        "ftp://host/v1#s3cret",
    ],
)
def test_a_refused_address_is_told_without_its_credentials(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match="IOT_TEACHER") as caught, open_teacher(settings(tmp_path, teacher=where)):
        pass
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("where", ["postgresql//me:s3cret@db/a", "postgresql:/me:s3cret@db/a", "me:s3cret@db/a"])
def test_a_store_s_url_without_its_marks_is_no_path(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match="IOT_TEACHER_STORE is no URL") as caught:
        store_of(settings(tmp_path, teacher_store=where))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "where", ["http://me:s3cr%40t@h:1/v1?token=t", "http://h/v1/@cf/model", "https://[::1]:8000/v1"]
)
def test_an_address_with_credentials_in_their_place_is_taken(tmp_path: Path, where: str) -> None:
    assert address_of(settings(tmp_path, teacher=where)) == where
