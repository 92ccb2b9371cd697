"""Stores that another version of the project made are left alone, with one clear error."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.store import Store, exists

ADVICE = "name a new store in IOT_TEACHER_STORE, or run that version"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("change", "version"),
    [
        ("UPDATE meta SET value = '6'", "6"),
        ("UPDATE meta SET value = '4'", "4"),
        ("DROP TABLE meta; PRAGMA user_version = 4", "1 to 4, without meta"),  # as a file of version 4 is
        ("DROP TABLE claims", "5, without claims"),
    ],
)
def test_a_store_of_another_version_is_refused_and_left_alone(
    change: str, version: str, read_only: bool, tmp_path: Path
) -> None:
    path = tmp_path / "t.sqlite"
    with Store(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(change)
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"another version of the project \({version}\), .*{ADVICE}"):
        Store(path, read_only)
    with pytest.raises(UserError, match=ADVICE), Store(path):
        pass
    assert exists(path) and path.read_bytes() == before
