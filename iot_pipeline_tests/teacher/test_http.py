"""Chat completions arrive as the official client would send them; proxies, redirects and long bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import openai
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch_api import open_batch_api
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.http import open_chat_client
from iot_pipeline.teacher.reply import Reply
from iot_pipeline_tests.loopback import Handler, listening
from iot_pipeline_tests.teacher.hostile import completion

Seen = list[tuple[str, dict[str, str], bytes]]
BODIES: list[dict[str, Any]] = [
    {"model": "m", "messages": [{"role": "user", "content": text}], "seed": 1} for text in ("a", "größer \u2028", "")
]
MIB = 1024 * 1024


@pytest.fixture
def seen_at() -> Iterator[tuple[str, Seen]]:
    """A server, and a proxy, that records path, headers and body.

    It answers with a gzipped completion; with 429 to a body that says `refuse`; with a redirect below /old, whose own
    body is endless.
    """
    seen: Seen = []

    class Recording(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            moved, refused = "/old" in self.path, b"refuse" in body
            self.send_response(307 if moved else 429 if refused else 200)
            content = {"error": {"code": "slow_down"}} if refused else completion() | {"data": [], "has_more": False}
            packed = gzip.compress(json.dumps(content).encode())
            if moved:
                self.send_header("location", self.path.replace("/old", "/v1"))
            self.send_header("retry-after", "7")
            self.send_header("content-encoding", "identity" if moved else "gzip")
            self.send_header("content-length", str(2000 * MIB if moved else len(packed)))
            self.end_headers()
            try:
                for _ in range(2000 if moved else 0):
                    self.wfile.write(bytes(MIB))
                self.wfile.write(packed)
            except OSError:
                self.close_connection = True  # the client has had enough

        do_GET = do_POST

    with listening(Recording) as host:
        yield f"http://{host}", seen


def send_all(url: str, bodies: list[dict[str, Any]], local: bool = True) -> list[Reply]:
    async def go() -> list[Reply]:
        config = TeacherConfig(url, "sk-1", "t.sqlite", "s", None, concurrency=2, timeout_s=5)
        with mock.patch.object(pricing, "is_paid", lambda _: not local):
            async with open_chat_client(config) as client:
                return [await client.send(body) for body in bodies]

    return asyncio.run(go())


def test_arrives_as_the_official_client_sends_it(seen_at: tuple[str, Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    url, seen = seen_at
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    assert [reply.text for reply in send_all(f"{url}/v1", BODIES)] == ["fine"] * 3
    ours = list(seen)
    seen.clear()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-1", max_retries=0) as client:
        for body in BODIES:
            client.chat.completions.create(**body)
    named = ("authorization", "content-type", "accept", "openai-organization")
    for (path, headers, sent), (official_path, official_headers, officially_sent) in zip(ours, seen, strict=True):
        assert path == official_path == "/v1/chat/completions"
        assert {name: headers[name] for name in named} == {name: official_headers[name] for name in named}
        assert json.loads(sent) == json.loads(officially_sent)


@pytest.mark.parametrize("given", ["/v1", "/v1/", "/v1?api-version=2"])
def test_the_path_is_added_to_the_base_url(given: str, seen_at: tuple[str, Seen]) -> None:
    url, seen = seen_at
    send_all(f"http://me:pa%40ss@{url[7:]}{given}", BODIES[:1])
    assert seen[0][0] == "/v1/chat/completions" + given[3:].strip("/")
    assert seen[0][1]["authorization"] == "Basic bWU6cGFAc3M="


def test_an_error_is_read_with_the_server_s_headers(seen_at: tuple[str, Seen]) -> None:
    refused = {"model": "m", "messages": [{"role": "user", "content": "refuse"}]}
    (reply,) = send_all(f"{seen_at[0]}/v1", [refused])
    assert (reply.kind, reply.retry_after_s) == ("rate_limit", 7.0)


@pytest.mark.parametrize("proxied", [False, True])
def test_a_redirect_is_followed_with_the_body_and_without_reading_its_own(
    proxied: bool, seen_at: tuple[str, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = seen_at
    if proxied:
        monkeypatch.setenv("http_proxy", url)
        url = "http://llm.example.org"
    (reply,) = send_all(f"{url}/old", BODIES[:1], local=not proxied)
    assert reply.text == "fine"
    assert [path.rpartition("/chat")[0].removeprefix(url) for path, _, _ in seen] == ["/old", "/v1"]
    assert json.loads(seen[1][2]) == BODIES[0] and seen[1][1]["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize("proxied", [False, True])
def test_the_official_client_reads_no_more_of_a_redirect_than_of_any_body(
    proxied: bool, seen_at: tuple[str, Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    url, seen = seen_at
    if proxied:
        monkeypatch.setenv("http_proxy", url)
        url = "http://llm.example.org"

    async def find() -> str | None:
        async with open_batch_api(TeacherConfig(f"{url}/old", "sk-1", tmp_path / "t", "s", None)) as api:
            return await api.find("token", 0.0)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert asyncio.run(find()) is None
    assert ["/old/" in path for path, _, _ in seen] == [True, False]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_proxy_of_the_environment_is_used_for_a_server_elsewhere_and_not_for_a_local_one(
    seen_at: tuple[str, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = seen_at
    monkeypatch.setenv("http_proxy", url.replace("//", "//user:secret@"))
    send_all("http://llm.example.org/v1", BODIES[:2], local=False)
    assert [path for path, _, _ in seen] == ["http://llm.example.org/v1/chat/completions"] * 2
    assert seen[0][1]["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert seen[0][1]["authorization"] == "Bearer sk-1"
    seen.clear()
    send_all(f"{url}/v1", BODIES[:2])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    send_all(f"{url}/v1", BODIES[:1], local=False)
    assert [path for path, _, _ in seen] == ["/v1/chat/completions"] * 3
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(UserError, match="no HTTP proxy"):
        send_all("https://llm.example.org/v1", BODIES[:1], local=False)
