"""Answers as a file: out of one store, into another, replayed without a server; and limits a minute that are kept.

Belongs here: archive.py, Teacher's own limits. Does not belong here: faults (test_engine.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from iot_pipeline.augmentation import tracks
from iot_pipeline.augmentation.track_files import write_track
from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher.archive import Imported, Replay, export_answers, import_answers
from iot_pipeline.teacher.connect import as_objects, open_teacher
from iot_pipeline.teacher.engine import Teacher
from iot_pipeline.teacher.process import embedded_server
from iot_pipeline.teacher.store import Store
from iot_pipeline_tests.augmentation.test_tracks import BRIEF, prompt, rows
from iot_pipeline_tests.teacher.flows import checker, make_requests

__all__ = ["rows"]


def test_a_replayed_track_is_equal_to_the_byte(tmp_path: Path, rows) -> None:  # type: ignore[no-untyped-def]
    first, second, file = tmp_path / "a.sqlite", tmp_path / "b" / "teacher.sqlite", tmp_path / "answers.parquet"
    with embedded_server() as url:
        teacher = Teacher(url, "none", first, "embedded", None)
        asked = tracks.build_original(rows[:60], prompt("original"), teacher, BRIEF)
    count = export_answers(first, file)
    assert count == asked.usage["distinct_requests"] > 0
    assert import_answers(second, file, tracks.check_imported) == Imported(count, 0)
    assert import_answers(second, file, tracks.check_imported) == Imported(0, count)
    settings = load_settings({"IOT_LAKE": str(second.parent), "IOT_TEACHER": "replay"})
    assert not as_objects(settings)
    with open_teacher(settings) as replay:
        again = tracks.build_original(rows[:60], prompt("original"), replay, BRIEF)
        for result, folder in ((asked, tmp_path / "x"), (again, tmp_path / "y")):
            write_track(result, folder)
        with pytest.raises(UserError, match=r"IOT_TEACHER=replay: \d+ of \d+ answers are not in"):
            tracks.build_original(rows[:90], prompt("original"), replay, BRIEF)
    for name in ("track.jsonl", "answers.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
    assert again.report == asked.report and again.usage == asked.usage


def test_what_is_there_is_kept_and_quarantined_ones_travel_with_their_reasons(tmp_path: Path) -> None:
    requests = make_requests(3)
    with embedded_server({"server_error": 1.0}) as url:
        asking = Teacher(url, "none", tmp_path / "a.sqlite", "s", None, max_attempts=1)
        answers = asking.ask(requests, checker(requests))
    export_answers(tmp_path / "a.sqlite", tmp_path / "f.parquet")
    import_answers(tmp_path / "b.sqlite", tmp_path / "f.parquet", tracks.check_imported)
    replayed = Replay(tmp_path / "b.sqlite").ask(requests, checker(requests))
    assert {k: a.reasons for k, a in replayed.items()} == {k: a.reasons for k, a in answers.items()}
    with Store(tmp_path / "b.sqlite") as store:
        assert store.spent_usd() == 0 and store.ledger()["attempts"] == 0


def test_no_file_no_store_and_several_teachers_are_named(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="is no Parquet file"):
        import_answers(tmp_path / "b.sqlite", tmp_path / "f.parquet", tracks.check_imported)
    with pytest.raises(UserError, match=r"there is no store .* cache import"):
        Replay(tmp_path / "none.sqlite")
    with pytest.raises(UserError, match="there is no store of answers"):
        export_answers(tmp_path / "none.sqlite", tmp_path / "g.parquet")
    with Store(tmp_path / "c.sqlite"):
        pass
    with pytest.raises(UserError, match="holds answers of nobody"):
        Replay(tmp_path / "c.sqlite")


def test_requests_a_minute_are_kept_before_the_server_says_no(tmp_path: Path) -> None:
    requests = make_requests(63)
    with embedded_server(rpm=62) as url:  # one too few for all of them at once
        asking = Teacher(url, "none", tmp_path / "t.sqlite", "s", None, rpm=60)
        assert len(asking.ask(requests, checker(requests))) == 63
    assert asking.summary.outcomes == {"answered": 63}
    small = Teacher(url, "none", tmp_path / "u.sqlite", "s", None, tpm=100)
    with pytest.raises(UserError, match="IOT_TEACHER_TPM"):
        small.ask(requests[:2], checker(requests))
