"""A batch that is refused as a whole over a parameter or a schema is learnt from and sent again; words come inert."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.batches import BatchTable
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import QUICK, Said, accept, batch_server, result, said, serving, teacher
from iot_pipeline_tests.teacher.test_hostile import with_schema

MAX_TOKENS = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
SAMPLING = "Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported."
FORM = "response_format of type json_schema is not supported by this deployment"


def fault(body: dict[str, Any]) -> dict[str, Any] | None:
    """The first fault that a server finds in a body: a reasoning model without schemas."""
    for name, words in (("max_tokens", MAX_TOKENS), ("temperature", SAMPLING), ("response_format", FORM)):
        if name in body:
            return {"code": "unsupported_parameter", "message": words, "param": name}
    return None


def validating(how: str, uploads: list[list[dict[str, Any]]]) -> Any:
    """A Batch API that refuses a faulty file: at upload, at creation, or as a failed batch (one error, or a line)."""
    files: dict[str, list[dict[str, Any]]] = {}
    batches: dict[str, dict[str, Any]] = {}

    def failed(lines: list[dict[str, Any]]) -> dict[str, Any]:
        error = fault(lines[0]["body"])
        if how == "batch" and error:
            return {"status": "failed", "errors": {"data": [error | {"line": None}]}}
        named = [error | {"line": n} for n, line in enumerate(lines, 1) if (error := fault(line["body"]))]
        return {"status": "failed", "errors": {"data": named}} if how == "lines" and named else {}

    def answer(method: str, path: str, body: bytes) -> Said:
        path = path.split("?")[0]
        if path == "/v1/files":
            lines = [json.loads(line) for line in body.splitlines() if line.startswith(b'{"custom_id"')]
            uploads.append(lines)
            if how == "upload" and (error := fault(lines[0]["body"])):
                return said({"error": error}, 400)
            files[name := f"file-{len(files)}"] = lines
            return said({"id": name})
        if path == "/v1/batches" and method == "POST":
            asked = json.loads(body)
            lines = files[asked["input_file_id"]]
            if how == "create" and (error := fault(lines[0]["body"])):
                return said({"error": error}, 400)
            name = f"batch-{len(batches)}"
            told = {"id": name, "status": "completed", "output_file_id": asked["input_file_id"], "created_at": 1}
            batches[name] = told | {"metadata": asked["metadata"]} | failed(lines)
            return said(batches[name])
        if path.startswith("/v1/batches/"):
            return said(batches[path.split("/")[-1]])
        if path.endswith("/content"):
            return 200, b"".join(map(result, files[path.split("/")[-2]])), {}
        return said({"data": list(batches.values())})

    return answer


@pytest.mark.parametrize("how", ["upload", "create", "batch", "lines"])
def test_a_batch_refused_over_parameters_is_sent_again_without_them(how: str, tmp_path: Path) -> None:
    requests, uploads, heard = with_schema(make_requests(4)), list[list[dict[str, Any]]](), list[str]()
    with serving(validating(how, uploads)) as url:
        asking = teacher(url, tmp_path / "t", via="batch", log=heard.append, paid=True, budget_usd=1.0)
        answers = asking.ask(requests, accept)
    assert {a.status for a in answers.values()} == {"ok"} and set(answers) == {r.key for r in requests}
    assert len(uploads) == 4 and all(len(lines) == 4 for lines in uploads)
    assert {"max_completion_tokens", "top_p", "seed"} <= set(uploads[-1][0]["body"])
    assert asking.refused == ["max_tokens", "temperature"] and asking.form_refused
    assert sum("does not take max_tokens" in line for line in heard) == 1
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]
        assert not store.read("SELECT state FROM batches WHERE state <> 'read'")


@pytest.mark.parametrize("how", ["upload", "create", "batch"])
def test_a_batch_that_is_refused_for_ever_ends_with_the_server_s_words(how: str, tmp_path: Path) -> None:
    uploads: list[int] = []
    words = "unsupported: seed, and \x1b[31m everything\n" + "x" * 5000
    error = {"code": "bad", "message": words, "param": "seed"}
    usual = batch_server(lambda lines: b"", status="failed", errors={"data": [error]})

    def answer(method: str, path: str, body: bytes) -> Said:
        if path == "/v1/files":
            uploads.append(1)
        if (how, path, method) in (("upload", "/v1/files", "POST"), ("create", "/v1/batches", "POST")):
            return said({"error": error}, 400)
        return usual(method, path, body)

    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t", via="batch")
        if how == "batch":
            answers = asking.ask(make_requests(3), accept).values()
            told = [a.reasons[0] for a in answers]
        else:
            with pytest.raises(UserError, match="rejected a batch") as caught:
                asking.ask(make_requests(3), accept)
            told = [str(caught.value)]
    assert len(uploads) <= 4 and all("everything" in one and one.isprintable() and len(one) < 600 for one in told)
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


def test_lines_that_wait_for_room_in_the_queue_are_asked_by_nobody_else(tmp_path: Path) -> None:
    requests, found = make_requests(4), list[set[str]]()
    usual = batch_server(lambda lines: b"".join(map(result, lines)))

    def answer(method: str, path: str, body: bytes) -> Said:
        told = usual(method, path, body)
        if path.endswith("/batch-1"):
            full = {"status": "failed", "errors": {"data": [{"code": "token_limit_exceeded"}]}}
            return said(json.loads(told[1]) | full)  # type: ignore[arg-type]
        if path.endswith("/batch-0") and len(found) < 5:  # it goes on meanwhile, and the second one waits for its room
            with Store(tmp_path / "t") as other:
                found.append(other.claim([request.key for request in requests], "s"))
            return said(json.loads(told[1]) | {"status": "in_progress"})  # type: ignore[arg-type]
        return told

    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t", via="batch", batch_limits=replace(QUICK, requests=2))
        answers = asking.ask(requests, accept)
    assert {a.status for a in answers.values()} == {"ok"} and len(answers) == 4
    assert found == [set()] * 5


def test_a_batch_that_appears_late_is_found_however_long_its_upload_took_and_whatever_the_clock(tmp_path: Path) -> None:
    requests, lists, sent = make_requests(2), list[str](), list[bytes]()
    with Store(tmp_path / "t") as store:
        table = BatchTable(store)
        batch = table.plan([(request.key, request.model, 0.1) for request in requests], "s", [1, 1], None)
        assert batch is not None
        table.moved(batch, "uploaded")
        with store.transaction() as db:
            db.exec_driver_sql("UPDATE batches SET planned_at = planned_at - 600")
    late = {"id": "b", "status": "completed", "output_file_id": "f", "metadata": {"iot_pipeline": batch.token}}
    newer = {"id": "c", "status": "in_progress", "created_at": time.time() - 6 * 3600}  # this clock is hours ahead

    def answer(method: str, path: str, body: bytes) -> Said:
        if path == "/v1/files":
            sent.append(body)
        if path.endswith("/content"):
            return 200, b"".join(result({"custom_id": request.key}) for request in requests), {}
        if path.startswith("/v1/batches?"):
            lists.append(path)
            return said({"data": [newer, late] if len(lists) > 1 else []})
        return said(late)

    with serving(answer) as base_url:
        asking = teacher(base_url, tmp_path / "t", via="batch", batch_limits=replace(QUICK, orphan_grace_s=5.0))
        assert {one.status for one in asking.ask(requests, accept).values()} == {"ok"}
    assert sent == [] and len(lists) == 2


@pytest.mark.parametrize("status", [408, 502])
def test_a_batch_that_a_gateway_may_have_started_is_looked_for(status: int, tmp_path: Path) -> None:
    requests, started = make_requests(2), list[bytes]()
    usual = batch_server(lambda lines: b"".join(map(result, lines)))

    def answer(method: str, path: str, body: bytes) -> Said:
        told = usual(method, path, body)
        if (method, path) == ("POST", "/v1/batches"):
            started.append(body)
            return told if len(started) > 1 else said({}, status)
        return told

    with serving(answer) as url:
        answers = teacher(url, tmp_path / "t", via="batch").ask(requests, accept)
    assert {a.status for a in answers.values()} == {"ok"} and len(started) == 1


def test_a_refusal_of_the_list_is_no_refusal_of_a_batch(tmp_path: Path) -> None:
    """After an uncertain start the batch may run: it stays in the store, whatever the list says."""

    def answer(method: str, path: str, body: bytes) -> Said:
        path = path.split("?")[0]
        if path == "/v1/batches":
            return said({}, 500) if method == "POST" else said({"error": {"message": "unsupported: seed"}}, 400)
        return said({"id": "file-1"})

    with serving(answer) as url, pytest.raises(UserError, match="rejected a batch"):
        teacher(url, tmp_path / "t", via="batch").ask(make_requests(2), accept)
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT state FROM batches") == [("uploaded",)]


def test_results_that_drip_have_an_end(tmp_path: Path) -> None:
    usual, drops = batch_server(lambda lines: b""), iter(range(1000))

    def drip() -> Iterator[bytes]:
        for _ in drops:
            time.sleep(0.05)
            yield b" "

    def answer(method: str, path: str, body: bytes) -> Said:
        return (200, drip(), {}) if path.endswith("/content") else usual(method, path, body)

    with serving(answer) as url, pytest.raises(UserError, match="could not be read to its end"):
        teacher(url, tmp_path / "t", via="batch", timeout_s=0.2).ask(make_requests(1), accept)
    assert next(drops, None)  # it was left before its end


@pytest.mark.parametrize("name", ["b\x1b[2J", "b 1", "b\n1", "\u202eb"])
def test_an_id_that_a_terminal_would_obey_is_none(name: str, tmp_path: Path) -> None:
    heard: list[str] = []
    with serving(batch_server(lambda lines: b"".join(map(result, lines)), id=name)) as url:
        with pytest.raises(UserError, match=r"did not answer 2 times in a row \(unreadable .*id: "):
            teacher(url, tmp_path / "t", via="batch", log=heard.append).ask(make_requests(1), accept)
    assert all(line.isprintable() for line in heard)
