"""`teacher retry` withdraws verdicts: those requests are asked again, and nothing else is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from iot_pipeline.cli import app
from iot_pipeline.commands.retry import STALE, retry, sentences
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.store.store import Attempt, Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import accept, completion, said, serving, teacher

SOURCE = "http://127.0.0.1:9/v1"
KEPT = [
    ("ok", "fine", ()),
    ("quarantined", "x", ("mislabelled: A in place of B", "malformed: y")),
    ("quarantined", "x", ("mislabelled: A in place of C",)),
    ("quarantined", "", ("refused",)),
    ("quarantined", "x", ("cut off",)),
    ("quarantined", "", ("no answer: timeout",)),
]


def settings(tmp_path: Path, **more: str) -> Any:
    return load_settings({"IOT_LAKE": str(tmp_path), "IOT_TEACHER": SOURCE, **more})


def filled(tmp_path: Path, source: str = SOURCE) -> list[Request]:
    """Store one answer of each kind, each with its attempt."""
    requests = make_requests(len(KEPT))
    with Store(tmp_path / "teacher.sqlite") as store:
        for request, (status, text, reasons) in zip(requests, KEPT, strict=True):
            answer = Answer(request.key, status, text, "stop", "m", source, reasons=reasons, cost_usd=0.5)  # type: ignore[arg-type]
            store.save([Attempt(request.key, source, "m", "answered", Usage(), 0.5, False, 1.0)], [answer])
    return requests


def track(tmp_path: Path, name: str, rows: list[tuple[str | None, str]]) -> ArtefactId:
    """Write a track's artefact with these (key, status) rows."""
    lake, artefact = Lake(tmp_path), ArtefactId(name, "10K")
    with lake.replacing(artefact) as folder:
        keys, statuses = ([row[place] for row in rows] for place in (0, 1))
        pq.write_table(
            pa.table({"key": pa.array(keys, pa.string()), "status": statuses}), folder / "provenance.parquet"
        )
        finish_artefact(folder, Manifest(name, "10K", "", "c", {}, {}, {}), set())
    return artefact


def stale(tmp_path: Path, artefact: ArtefactId) -> list[str]:
    return Lake(tmp_path).stale_reasons(artefact, "c", lambda _: None)


def test_verdicts_are_withdrawn_by_reason_and_the_ledger_stays(tmp_path: Path) -> None:
    filled(tmp_path)
    told = retry(settings(tmp_path), "mislabelled", None, dry_run=False)
    assert told["withdrawn"] == {"mislabelled": 2} and told["left"] == {"cut off": 1, "refused": 1, "timeout": 1}
    again = retry(settings(tmp_path), None, None, dry_run=False)
    assert again["withdrawn"] == {"refused": 1, "cut off": 1}
    assert again["asked_again_anyway"] == {"verdict withdrawn": 2, "timeout": 1}
    with Store(tmp_path / "teacher.sqlite") as store:
        assert store.spent_usd() == 3.0 and store.ledger()["attempts"] == 6
        kept = store.read("SELECT status, text, reasons FROM answers WHERE text <> ''")
    assert ("ok", "fine", "[]") in kept and sum("mislabelled: A in place of C" in reasons for *_, reasons in kept) == 1


def test_withdrawn_ones_are_asked_again_and_no_others(tmp_path: Path) -> None:
    asked: list[bytes] = []
    with serving(lambda _, __, body: asked.append(body) or said(completion())) as url:  # type: ignore[func-returns-value]
        requests = filled(tmp_path, url)
        asking = teacher(url, tmp_path / "teacher.sqlite", source=url)
        retry(settings(tmp_path, IOT_TEACHER=url), "mislabelled", None, dry_run=False)
        answers = asking.ask(requests, accept)
    assert len(asked) == 3  # two withdrawn, and the one that got no answer
    assert [answers[r.key].status for r in requests] == ["ok"] * 3 + ["quarantined"] * 2 + ["ok"]


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    requests = filled(tmp_path)
    artefact = track(tmp_path, "original", [(requests[1].key, "quarantined")])
    before = (tmp_path / "teacher.sqlite").read_bytes()
    told = retry(settings(tmp_path), None, None, dry_run=True)
    assert sum(told["withdrawn"].values()) == 4 and told["made_again_by_the_next_run"] == ["original[10K]"]
    assert (tmp_path / "teacher.sqlite").read_bytes() == before and stale(tmp_path, artefact) == []
    assert sentences(told)[0].startswith("Verdicts to be withdrawn (dry run): 4, of ")


def test_a_track_is_chosen_and_made_again(tmp_path: Path) -> None:
    requests = filled(tmp_path)
    mine = track(tmp_path, "original", [(requests[0].key, "ok"), (requests[3].key, "quarantined"), (None, "ok")])
    other = track(tmp_path, "paraphrased", [(requests[1].key, "quarantined"), (requests[2].key, "quarantined")])
    good = track(tmp_path, "feature_varied", [(requests[3].key, "ok")])
    told = retry(settings(tmp_path), None, "original", dry_run=False)
    assert told["withdrawn"] == {"refused": 1} and told["made_again_by_the_next_run"] == ["original[10K]"]
    assert stale(tmp_path, mine) == [STALE] and stale(tmp_path, other) == stale(tmp_path, good) == []
    track(tmp_path, "original", [(requests[0].key, "ok")])
    assert stale(tmp_path, mine) == []  # made again


def test_another_teacher_s_answers_stay_and_any_edition_of_the_embedded_one_is_meant(tmp_path: Path) -> None:
    filled(tmp_path, "embedded-1")
    assert retry(settings(tmp_path), None, None, dry_run=False)["withdrawn"] == {}
    assert retry(settings(tmp_path, IOT_TEACHER="embedded"), "refused", None, dry_run=False)["withdrawn"] == {
        "refused": 1
    }


@pytest.mark.parametrize(
    ("reason", "track_name", "more", "told"),
    [
        ("nonsense", None, {}, r"--reason nonsense: .* there are: mislabelled \(2\)"),
        (None, "original", {}, "nothing of it has been made"),
        (None, "orignal", {}, "must be one of original, paraphrased"),
        (None, None, {"IOT_TEACHER": "replay"}, "replay never asks"),
        (None, None, {"IOT_TEACHER_STORE": "none.sqlite"}, "there is no store of answers"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    reason: str | None, track_name: str | None, more: dict[str, str], told: str, tmp_path: Path
) -> None:
    filled(tmp_path)
    with pytest.raises(UserError, match=told):
        retry(settings(tmp_path, **more), reason, track_name, dry_run=False)


def test_the_command_prints_sentences_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    monkeypatch.setenv("IOT_TEACHER", SOURCE)
    monkeypatch.delenv("IOT_TEACHER_STORE", raising=False)
    run = CliRunner().invoke
    found = json.loads(run(app, ["teacher", "retry", "--dry-run", "--json"]).stdout)
    assert found["withdrawn"] == {"mislabelled": 2, "refused": 1, "cut off": 1} and found["dry_run"]
    told = run(app, ["teacher", "retry", "--reason", "refused"]).stdout
    assert told.startswith(f"Verdicts withdrawn: 1, of {SOURCE};")
    assert (
        "retry" in run(app, ["teacher", "--help"]).stdout
        and "rate_limit" in run(app, ["teacher", "--faults", "help"]).stdout
    )
