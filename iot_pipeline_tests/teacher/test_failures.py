"""Failures that must neither lose an answer nor pay for it twice: stopped processes, full disks, odd replies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.archive import Replay
from iot_pipeline.teacher.batch import Batches
from iot_pipeline.teacher.batch_api import UncertainOutcome, line_reply
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.http import open_chat_client
from iot_pipeline.teacher.refusals import read_error
from iot_pipeline.teacher.replies import read_completion
from iot_pipeline.teacher.reply import Asked
from iot_pipeline.teacher.request import Answer
from iot_pipeline.teacher.store.batches import Batch
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.loopback import Handler, listening
from iot_pipeline_tests.teacher.flows import make_requests

GOOD: dict[str, Any] = {
    "model": "m",
    "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@contextmanager
def server(handle: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback that answers every POST by `handle`; its base URL."""

    class Handled(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            handle(self)

    with listening(Handled) as host:
        yield f"http://{host}/v1"


def good(handler: BaseHTTPRequestHandler) -> None:
    data = json.dumps(GOOD).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def no_reasons(request: object, text: str) -> list[str]:
    return []


def test_who_waits_for_another_s_batch_goes_on_when_that_one_is_killed(tmp_path: Path) -> None:
    requests = make_requests(1)
    code = f"""
import pathlib, time
from iot_pipeline.teacher.store.store import Store
from iot_pipeline.teacher.store.batches import BatchTable
store = Store(pathlib.Path({str(tmp_path / "s")!r}))
BatchTable(store).plan([({requests[0].key!r}, "m", 1.0)], "embedded", [1], None)
print("ready", flush=True)
time.sleep(100)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
    with server(good) as url:
        found: list[dict[str, Answer]] = []
        teacher = Teacher(TeacherConfig(url, "k", tmp_path / "s", "embedded", None))
        waiting = threading.Thread(target=lambda: found.append(teacher.ask(requests, no_reasons)), daemon=True)
        waiting.start()
        time.sleep(0.8)
        assert not found
        owner.kill()
        owner.wait()
        waiting.join(15)
    assert [answer.text for answer in found[0].values()] == ["fine"]


def test_a_batch_that_shows_up_late_is_not_started_twice() -> None:
    class Api:
        created = 0
        at = 0.0

        async def create(self, *_: Any) -> str:
            self.created, self.at = self.created + 1, time.monotonic()
            raise UncertainOutcome("HTTP 502")

        async def find(self, *_: Any) -> str | None:
            return "b1" if self.created and time.monotonic() - self.at > 0.4 else None

    batches = object.__new__(Batches)
    batches.api, batches.limits = Api(), BatchLimits(orphan_grace_s=2.0)  # type: ignore[assignment]
    batches.config = SimpleNamespace(max_attempts=5, backoff_base_s=0.1, base_url="u")  # type: ignore[assignment]
    batch = Batch(1, "t", "s", "uploaded", "", 1, 1, time.time())
    assert asyncio.run(batches._start(batch, "file")) == "b1"
    assert batches.api.created == 1  # type: ignore[attr-defined]


def test_what_cannot_be_saved_stops_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, calls = Store.save, []

    def once(self: Store, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise UserError("the disk is full")
        saved(self, *arguments)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        good(handler)

    monkeypatch.setattr(Store, "save", once)
    with server(slowly) as url, pytest.raises(UserError, match="the disk is full"):
        Teacher(TeacherConfig(url, "k", tmp_path / "s", "embedded", None, concurrency=1)).ask(
            make_requests(4), no_reasons
        )


def test_a_store_that_cannot_be_closed_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the real error"), Store(tmp_path / "s") as store:
        store.connection.exec_driver_sql("PRAGMA query_only=1")
        raise ValueError("the real error")


@pytest.mark.parametrize("sent", [r"half of a pair \ud83d", r"a \u0000 in the middle"])
def test_signs_that_no_database_keeps_do_not_cost_the_answer(sent: str, tmp_path: Path) -> None:
    said = json.dumps(GOOD).replace('"fine"', f'"{sent} \\ud83d\\ude00"').encode()

    def odd(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    requests = make_requests(1)
    with server(odd) as url:
        asked = Teacher(TeacherConfig(url, "k", tmp_path / "s", "s", None)).ask(requests, no_reasons)
    stored = Replay(tmp_path / "s").ask(requests, no_reasons)
    expected = sent.replace(r"\ud83d", "\ufffd").replace(r"\u0000", "\ufffd") + " \U0001f600"
    assert [a.text for a in asked.values()] == [a.text for a in stored.values()] == [expected]


@pytest.mark.parametrize("usage", [{"prompt_tokens": 1}, [1], {"prompt_tokens": "x", "completion_tokens": None}])
def test_usage_that_is_not_in_numbers_has_an_unknown_price(usage: Any) -> None:
    reply = read_completion(GOOD | {"usage": usage})
    assert (reply.text, reply.usage, reply.billed_unknown) == ("fine", None, True)


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "fine"}], "fine"),
        ([THOUGHT, {"type": "text", "text": "fi"}, {"type": "output_text", "text": "ne"}], "fine"),
        ([THOUGHT], ""),
        ([], ""),
    ],
)
def test_content_in_parts_is_their_text_without_thoughts(content: Any, text: str) -> None:
    reply = read_completion({"choices": [{"message": {"content": content}}]})
    assert (reply.kind, reply.text) == ("answer", text)


@pytest.mark.parametrize("content", [5, {"text": "x"}, ["x"], [{"type": "text", "text": 5}], [{"type": "text"}]])
def test_content_that_is_no_text_is_unreadable(content: Any) -> None:
    assert read_completion({"choices": [{"message": {"content": content}}]}).outcome == "unreadable response"


@pytest.mark.parametrize(
    ("reason", "kind", "read"),
    [
        ("stop", "answer", "stop"), ("eos_token", "answer", "eos_token"), (None, "answer", ""),
        ("length", "answer", "length"), ("max_tokens", "answer", "length"), ("MAX_TOKENS", "answer", "length"),
        ("model_length", "answer", "length"), ("SAFETY", "answer", "content_filter"),
        ("abort", "transport", ""), ("error", "transport", ""), ("CANCELLED", "transport", ""),
    ],
)  # fmt: skip
def test_an_answer_that_did_not_end_by_itself_is_none_whatever_its_server_calls_that(
    reason: str | None, kind: str, read: str
) -> None:
    said = {"choices": [{"message": {"content": "half"}, "finish_reason": reason}]}
    reply = read_completion(said | {"usage": {"prompt_tokens": 60, "completion_tokens": 20}})
    assert (reply.kind, reply.finish_reason, reply.refusal) == (kind, read, read == "content_filter")
    assert reply.usage is not None and reply.usage.completion == 20  # it is paid all the same
    assert kind == "answer" or (reply.text == "" and str(reason) in reply.reason)


def test_errors_that_are_no_objects_are_read() -> None:
    line = {"custom_id": "k", "response": {"status_code": 400, "body": {"error": "bad"}}}
    assert line_reply(line).kind == "rejected"


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{",
        b"HTTP/1.1 200 OK\r\n\x00bad\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
    ],
    ids=["half a body", "bad chunk", "bad header", "bad gzip"],
)
def test_a_broken_response_is_worth_another_try_and_may_have_been_billed(sent: bytes) -> None:
    def broken(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(sent)
        handler.close_connection = True

    async def attempt(url: str) -> Any:
        async with open_chat_client(TeacherConfig(url, "k", "t.sqlite", "s", None, timeout_s=5)) as client:
            return await client.send({"model": "m", "messages": []})

    with server(broken) as url:
        reply = asyncio.run(attempt(url))
    assert (reply.kind, reply.billed_unknown) == ("transport", True)


@pytest.mark.parametrize(("status", "unknown"), [(408, True), (502, True), (504, True), (524, True), (500, False)])
def test_a_gateway_s_error_may_have_been_billed(status: int, unknown: bool) -> None:
    reply = read_error(status, None, Asked("m"))
    assert (reply.kind, reply.billed_unknown) == ("transport", unknown)
