"""Responses that break HTTP or JSON: each is told, none is taken for an answer, none outlives its deadline."""

from __future__ import annotations

import contextlib
import gzip
import json
import socketserver
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import accept, completion, teacher

GOOD = json.dumps(completion()).encode()
BOMB = gzip.compress(b" " * 60_000_000, 9)


@contextmanager
def raw(*responses: bytes) -> Iterator[str]:
    """A server that answers its requests with these bytes in turn, the last one for ever, and hangs up."""
    count = iter(range(10**6))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            with contextlib.suppress(OSError):  # the client has had enough
                self.wfile.write(responses[min(next(count), len(responses) - 1)])

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def http(body: bytes, *headers: str, length: int | None = None, status: str = "200 OK") -> bytes:
    """A response with a content length, which may be wrong."""
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", "connection: close", *headers]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + f"{len(body):x}".encode() + b"\r\n" + body


def usage(text: str) -> bytes:
    return GOOD.replace(b'"prompt_tokens": 60', b'"prompt_tokens": ' + text.encode())


PACKED = "content-encoding: gzip"
BROKEN = {
    "longer than sent": http(GOOD, length=len(GOOD) + 9),
    "shorter than sent": http(GOOD, length=len(GOOD) - 9),
    "negative length": http(GOOD, length=-5),
    "two lengths": http(GOOD, "content-length: 3"),
    "chunk cut off": chunked(GOOD)[:-20],
    "no last chunk": chunked(GOOD),
    "chunk of no size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + GOOD,
    "gzip bomb": http(BOMB, PACKED),
    "gzip of gzip": http(gzip.compress(gzip.compress(GOOD)), PACKED),
    "gzip cut off": http(gzip.compress(GOOD)[:-30], PACKED),
    "no gzip at all": http(GOOD, PACKED),
    "two encodings": http(gzip.compress(GOOD), "content-encoding: gzip, br"),
    "invalid UTF-8": http(GOOD.replace(b"fine", b"fi\xffne")),
    "two objects": http(GOOD + GOOD),
    "garbage behind": http(GOOD + b"x"),
    "a cut object": http(GOOD[:-3]),
    "an empty body": http(b""),
    "no content": http(b"", status="204 No Content"),
    "deep": http(b'{"choices": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
    "a line of no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "headers without an end": b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000,
    "a header of a megabyte": http(GOOD, "x-long: " + "y" * 1_000_000),
    "a status of letters": http(GOOD, status="abc OK"),
    "a negative status": http(GOOD, status="-1 OK"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_told_and_the_next_one_is_read(name: str, tmp_path: Path) -> None:
    requests = make_requests(2)
    with raw(BROKEN[name], http(GOOD)) as url:
        asking = teacher(url, tmp_path / "t", max_attempts=1, concurrency=1, timeout_s=2.0)
        answers = list(asking.ask(requests, accept).values())
    bad, good = sorted(answers, key=lambda answer: answer.status != "quarantined")
    assert (bad.status, good.status) == ("quarantined", "ok")
    assert bad.reasons[0].startswith("no answer: ") and bad.reasons[0].isprintable() and len(bad.reasons[0]) < 400
    with Store(tmp_path / "t") as store:
        assert store.ledger()["attempts"] == 2


WELL = {
    "deflate": http(zlib.compress(GOOD), "content-encoding: deflate"),
    "two members": http(gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:]), PACKED),
    "blank lines before": http(b"\n\n  " + GOOD + b"\n"),
    "a byte order mark": http(b"\xef\xbb\xbf" + GOOD),
    "UTF-16": http(json.dumps(completion()).encode("utf-16")),
    "no length": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + GOOD,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
    "continue first": b"HTTP/1.1 100 Continue\r\n\r\n" + http(GOOD),
}


@pytest.mark.parametrize("name", WELL)
def test_an_unusual_response_is_read(name: str, tmp_path: Path) -> None:
    with raw(WELL[name]) as url:
        answers = teacher(url, tmp_path / "t", max_attempts=1).ask(make_requests(1), accept)
    assert [answer.status for answer in answers.values()] == ["ok"]


@pytest.mark.parametrize("told", ["NaN", "Infinity", "-60", "1e999", "60.5", '"60"', "true", "null", "9" * 400, "[]"])
def test_usage_that_is_no_count_is_booked_at_the_most(told: str, tmp_path: Path) -> None:
    heard: list[str] = []
    with raw(http(usage(told))) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=1.0, log=heard.append)
        answers: Any = asking.ask(make_requests(1), accept)
    assert [answer.status for answer in answers.values()] == ["ok"] and 0 < asking.summary.usd < 0.01
    assert sum("no usage that can be believed" in line for line in heard) == 1


@pytest.mark.parametrize(
    ("told", "booked"),
    [
        ({"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80}, (60, 20)),
        (
            {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 300},
            (60, 240),
        ),  # thoughts, in the total alone
        ({"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 1}, (60, 20)),
        ({"prompt_tokens": 60, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 0.0}}, (60, 20)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": 60, "completion_tokens": 0}, None),
        ({"prompt_tokens": 60, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 61}}, None),
        ({"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": -9}, None),
    ],
)
def test_an_answer_never_costs_less_than_its_tokens(
    told: dict[str, Any], booked: tuple[int, int] | None, tmp_path: Path
) -> None:
    with raw(http(json.dumps(completion(usage=told)).encode())) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=1.0)
        asking.ask(make_requests(1), accept)
    summary = asking.summary
    assert (summary.prompt_tokens, summary.completion_tokens) == (booked or (0, 0))
    assert summary.usd >= ((0.15 * 60 + 0.6 * (booked[1] if booked else 400)) / 1e6) * (1 - 1e-9)
