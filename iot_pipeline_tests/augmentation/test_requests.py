"""What a change of rows, order, rules or prompt costs: counted in requests, with the real engine and server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.augmentation import ask as asking
from iot_pipeline.augmentation.prompts import parse_prompt
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline_tests.augmentation.factories import build, prompt
from iot_pipeline_tests.augmentation.test_tracks import rows

__all__ = ["rows"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


def test_only_new_work_is_asked_for(
    url: str, tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    teacher = Teacher(TeacherConfig(url, "none", tmp_path / "t.sqlite", "embedded", None, log=heard.append))

    def asked(table: pd.DataFrame, track: str = "original", old: str = "", new: str = "") -> int:
        file = prompt(track)
        file = parse_prompt(file.source.replace(old, new), file.name) if old else file
        originals = first.folder if track == "paraphrased" else None
        build(teacher, tmp_path / "again", track, table, originals=originals, file=file)
        return teacher.summary.asked

    first = build(teacher, tmp_path / "first", "original", rows)
    distinct = first.result.usage["distinct_requests"]
    assert teacher.summary.asked == distinct == teacher.summary.attempts
    repeats = asked(rows, "paraphrased")
    assert repeats == int((rows["repeat"] > 0).sum()) > 0
    assert asked(rows.sample(frac=1, random_state=1)) == 0
    more = pd.concat([rows, rows.head(20).assign(position=range(300, 320), row_id=range(300, 320), repeat=900)])
    assert asked(more) == 0 and asked(more, "paraphrased") == len(
        more[more["repeat"] == 900].drop_duplicates(["flow_group", "label"])
    )
    # Other rules judge the stored answers anew: no request.
    monkeypatch.setattr(asking, "code_version", lambda module: "changed")
    assert asked(rows) == 0
    # One word of one prompt: all requests of that prompt, none of another.
    assert asked(rows, "original", "security analyst", "security expert") == distinct
    assert asked(rows, "paraphrased") == 0
    assert teacher.models == ["gpt-4o-mini"]


def test_progress_says_what_a_user_wants_to_know() -> None:
    from iot_pipeline.teacher.summary import Summary

    summary = Summary(
        requests=100,
        cached=20,
        ok=58,
        quarantined={"refused": 2},
        attempts=45,
        prompt_tokens=1000,
        completion_tokens=500,
        usd=0.25,
        outcomes={"answered": 40, "timeout": 5},
    )
    assert summary.line(10.0) == (
        "teacher: 60 of 100 done (20 cached), 5 attempts failed, 2 quarantined, 1,500 tokens, $0.2500, 4.0/s, 10 s left"
    )
