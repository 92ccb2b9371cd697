"""Places that IOT_TEACHER_STORE may name, errors where it cannot be opened, and its password, which is said nowhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from iot_pipeline.commands.doctor import examine, told_settings
from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher.store.database import shown, store_url
from iot_pipeline.teacher.store.store import Store
from iot_pipeline.teacher_factory import open_teacher, store_of
from iot_pipeline_tests.command_line import call

CLOSED = "postgresql+psycopg2://me:s3cret,pass@127.0.0.1:1/answers"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/x/t.sqlite", "/x/t.sqlite"),
        ("sqlite:////x/t.sqlite", "/x/t.sqlite"),
        ("postgresql://me:s3cret@db:5432/a", "postgresql+psycopg2://me:***@db:5432/a"),
        (
            "postgresql+psycopg2://me:s3/c,t@/a?host=/run/pg&options=x",
            "postgresql+psycopg2://me:***@/a?host=%2Frun%2Fpg",
        ),
        ("postgresql+psycopg2://db/a", "postgresql+psycopg2://db/a"),
    ],
)
def test_a_store_is_shown_without_its_password(given: str, told: str) -> None:
    assert shown(given) == told and "s3" not in repr(store_url(given)) + str(store_url(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("postgresql://me:s3cret@db:port/a", "is no URL of a database"),
        ("://s3cret", "is no URL of a database"),
        (
            "mysql://me:s3cret@db/a",
            r"cannot be in mysql; SQLite \(a path\) and PostgreSQL \(postgresql://.* are supported",
        ),
        ("oracle+oracledb://me:s3cret@db/a", r"cannot be in oracle\+oracledb; SQLite .* PostgreSQL"),
        ("nosuch://me:s3cret@db/a", r"cannot be in nosuch; .*iot-pipeline\[postgres\]"),
        ("sqlite+aiosqlite:////x/t.sqlite", "cannot be in sqlite.aiosqlite"),
        ("postgresql+asyncpg://me:s3cret@db/a", r"cannot be in postgresql\+asyncpg.*iot-pipeline\[postgres\]"),
        ("postgresql://db/a?password=s3cret", "PGPASSWORD"),
        ("postgresql://db/a?passwd=s3cret", "user:password@host"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_what_is_no_place_for_a_store_is_named(given: str, message: str) -> None:
    with pytest.raises(UserError, match=f"IOT_TEACHER_STORE.*{message}") as caught:
        store_url(given)
    assert "s3cret" not in str(caught.value)


def test_files_are_named_from_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = load_settings({"IOT_TEACHER_STORE": "sqlite:///t.sqlite"})
    monkeypatch.chdir("/")
    assert store_of(chosen).database == str(tmp_path / "t.sqlite")
    with Store(store_of(chosen)) as store:
        assert store.spent_usd() == 0
    assert (tmp_path / "t.sqlite").is_file()


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    message = r"the driver psycopg2.*pip install 'iot-pipeline\[postgres\]'.*IOT_TEACHER_STORE"
    with pytest.raises(UserError, match=message) as caught:
        Store(CLOSED)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("option", ["nosuch=1", "connect_timeout=soon", "client_encoding=nosuch"])
def test_an_option_that_the_driver_does_not_know_is_told(option: str) -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(UserError, match=r"me:\*\*\*@127\.0\.0\.1:1/a cannot be opened: .*IOT_TEACHER_STORE") as caught:
        Store(f"postgresql://me:s3cret@127.0.0.1:1/a?{option}")
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    chosen = load_settings({"IOT_LAKE": str(tmp_path), "IOT_TEACHER_STORE": CLOSED})
    with open_teacher(chosen) as teacher, pytest.raises(UserError, match="IOT_TEACHER_STORE names it") as caught:
        teacher.ask([], lambda request, text: [])
    assert "me:***@127.0.0.1:1/answers cannot be opened" in str(caught.value) and "s3cret" not in str(caught.value)
    findings = [finding for finding in examine(chosen) if finding.topic == "store"]
    assert [finding.state for finding in findings] == ["error"] and "me:***@" in findings[0].text
    assert "s3cret" not in str(examine(chosen)) + str(told_settings(chosen)) + repr(teacher)


@pytest.mark.parametrize("command", [["doctor", "--json"], ["cache", "export", "x.parquet", "--json"]])
def test_commands_never_print_the_password(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg2")
    done = call(*command, IOT_TEACHER_STORE=CLOSED, IOT_LAKE=str(tmp_path))
    said = done.stdout + done.stderr + "".join(capfd.readouterr())
    assert done.returncode != 0 and "me:***@127.0.0.1:1/answers" in said
    assert "s3cret" not in said and "Traceback" not in said
    if command[0] == "doctor":
        assert (
            json.loads(done.stdout)["settings"]["IOT_TEACHER_STORE"]
            == "postgresql+psycopg2://me:***@127.0.0.1:1/answers"
        )
