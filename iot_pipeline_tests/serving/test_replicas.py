"""`classify --replicas` that ends before its first event: answers of the replicas are kept, and used where they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from iot_pipeline import cli
from iot_pipeline.commands import classify as command
from iot_pipeline.errors import UserError
from iot_pipeline.inference.ray_batch import Result as Blocks
from iot_pipeline_tests.serving.factories import HashStudent, classifier, csv_rows

Answers = list[tuple[int, bool]]  # rows that replicas were given, and whether a block of them was there


class OpenStudent(HashStudent):
    """Student that is its own opener."""

    def open(self, _threads: int | None) -> OpenStudent:
        return self


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answers:
    """Rows given to replicas that die at the first try, after a block."""
    asked: Answers = []

    def run_blocks(source: Path, out: Path, work: Any, *_: Any) -> Blocks:
        block = out / "blocks" / "000000.parquet"
        asked.append((pq.read_metadata(source).num_rows, block.exists()))
        if not block.exists():
            block.parent.mkdir(parents=True)
            pq.write_table(work.open(None)(pq.read_table(source, columns=list(work.columns))), block)
        if len(asked) == 1:
            raise UserError("replicas of Ray died again and again")
        return Blocks([block], {})

    made: Any = classifier()
    made.student = OpenStudent()
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    monkeypatch.setattr(command, "newest", lambda *_: ("10K", "original"))
    monkeypatch.setattr(command, "open_classifier", lambda *_: made)
    monkeypatch.setattr(command, "words", lambda *_: frozenset())
    monkeypatch.setattr("iot_pipeline.inference.ray_batch.check_ray", lambda: None)
    monkeypatch.setattr("iot_pipeline.serving.ray_verdicts.run_blocks", run_blocks)
    return asked


def classify(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["classify", *map(str, arguments), "--replicas", "2"])


def failed_once(tmp_path: Path) -> tuple[Path, Path]:
    source, out = tmp_path / "flows.csv", tmp_path / "out"
    source.write_text(csv_rows(40, 12))
    assert "died again and again" in str(classify(source, "--out", out).exception)
    return source, out


def test_blocks_that_were_answered_before_the_first_event_stay(given: Answers, tmp_path: Path) -> None:
    source, out = failed_once(tmp_path)
    done = classify(source, "--out", out)
    assert done.exit_code == 0, (done.exception, done.stderr)
    assert [there for _, there in given] == [False, True] and given[0] == (given[1][0], False)
    assert len(out.read_text().splitlines()) == 40 and not out.with_name("out.resume").exists()


@pytest.mark.parametrize(("seed", "explain"), [(1, "none"), (0, "all")])
def test_what_replicas_answered_of_another_input_or_otherwise_is_not_used(
    given: Answers, tmp_path: Path, seed: int, explain: str
) -> None:
    source, out = failed_once(tmp_path)
    source.write_text(csv_rows(40, 12, seed))
    done = classify(source, "--explain", explain, "--out", out)
    assert done.exit_code == 0, (done.exception, done.stderr)
    assert given[1][1] is False and "have left the cache" not in done.stderr
    assert len(out.read_text().splitlines()) == 40
