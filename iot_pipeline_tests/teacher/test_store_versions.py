"""Stores that another version of the project made are left alone, with one clear error."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.archive import export_answers
from iot_pipeline.teacher.request import Answer
from iot_pipeline.teacher.store.requests import keep_requests, read_requests
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline_tests.teacher.flows import make_requests

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


def test_a_store_without_the_tables_of_requests_is_read_and_completed(tmp_path: Path) -> None:
    path, file = tmp_path / "t.sqlite", tmp_path / "answers.parquet"
    [request] = make_requests(1)
    with Store(path) as store:
        store.save([], [Answer(request.key, "ok", "yes", "stop", request.model, "s")])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE requests; DROP TABLE request_texts")
    before = path.read_bytes()

    assert export_answers(path, file) == 1 and path.read_bytes() == before
    assert pq.read_table(file)["request"].to_pylist() == [None]
    with Store(path, read_only=True) as store:
        assert read_requests(store, [request.key]) == {}
    with Store(path) as store:
        assert [answer.text for answer in store.lookup([request.key], "s")] == ["yes"]
        keep_requests(store, [request])
        assert list(read_requests(store, [request.key])) == [request.key]
