"""The short way through the openai client sends what the client itself would send, and tells errors alike."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import openai
import pytest

from iot_pipeline.teacher.chat import encode, open_client, send
from iot_pipeline.teacher.http import HEADERS

Seen = list[tuple[str, dict[str, str], bytes]]
PATH = "/chat/completions"
BODIES: list[dict[str, Any]] = [
    {"model": "m", "messages": [{"role": "user", "content": text}], "seed": 1} for text in ("a", "größer \u2028", "")
]


@pytest.fixture
def seen_at() -> Iterator[tuple[str, Seen]]:
    """A server that records path, headers and body, and answers 429 to `status`, else a zipped body; a redirect."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            moved = self.path.startswith("/old")
            refused = b"refuse" in body
            self.send_response(307 if moved else 429 if refused else 200)
            said = gzip.compress(json.dumps({"error": {"code": "slow_down"}} if refused else {"said": "ok"}).encode())
            if moved:
                self.send_header("location", self.path.replace("/old", "/v1"))
            self.send_header("content-encoding", "gzip")
            self.send_header("retry-after", "7")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def run(url: str, bodies: list[dict[str, Any]], base: str = "/v1") -> list[Any]:
    async def go() -> list[Any]:
        async with open_client(url + base, "sk-1", 5, 2, local=True) as client:
            return [(await client.post_bytes(PATH, encode(body))).json() for body in bodies]

    return asyncio.run(go())


def test_sends_what_the_client_itself_sends(seen_at: tuple[str, Seen]) -> None:
    url, seen = seen_at

    async def plainly() -> None:
        transport = openai.DefaultAioHttpClient()
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="sk-1", timeout=5, max_retries=0, http_client=transport
        ) as client:
            for body in BODIES:
                await client.post(PATH, cast_to=httpx2.Response, body=body)

    assert run(url, BODIES) == [{"said": "ok"}] * 3
    ours = list(seen)
    seen.clear()
    asyncio.run(plainly())
    assert ours == seen
    assert [json.loads(body) for _, _, body in ours] == BODIES
    assert ours[0][1]["authorization"] == "Bearer sk-1" and ours[0][0] == "/v1/chat/completions"


def test_an_error_is_the_client_s_own_with_the_server_s_headers(seen_at: tuple[str, Seen]) -> None:
    async def go() -> Any:
        async with open_client(seen_at[0] + "/v1", "sk-1", 5, 2, local=True) as client:
            await send(client, BODIES[0])
            return await send(client, {"model": "m", "messages": [{"role": "user", "content": "refuse"}]})

    reply = asyncio.run(go())
    assert (reply.kind, reply.retry_after_s) == ("rate_limit", 7.0)


def test_a_redirect_is_followed_with_its_body(seen_at: tuple[str, Seen]) -> None:
    url, seen = seen_at
    assert run(url, BODIES[:1], base="/old") == [{"said": "ok"}]
    assert [path for path, _, _ in seen] == ["/old/chat/completions", "/v1/chat/completions"]
    assert json.loads(seen[1][2]) == BODIES[0]


def test_a_proxy_of_the_environment_is_used_for_a_server_elsewhere_and_not_for_a_local_one(
    seen_at: tuple[str, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = seen_at
    monkeypatch.setenv("http_proxy", url)

    async def go(base: str, local: bool) -> None:
        async with open_client(base, "sk-1", 5, 2, local) as client:
            for body in BODIES[:2]:
                await client.post_bytes(PATH, encode(body))

    asyncio.run(go("http://llm.example.org/v1", local=False))
    assert [path for path, _, _ in seen] == ["http://llm.example.org/v1/chat/completions"] * 2
    seen.clear()
    asyncio.run(go(f"{url}/v1", local=True))
    assert [path for path, _, _ in seen] == ["/v1/chat/completions"] * 2


def test_the_short_way_is_taken(seen_at: tuple[str, Seen]) -> None:
    """A release of the client that no longer asks us how to build a request would only be slower: this one asks."""

    async def go() -> httpx2.Request:
        async with open_client(seen_at[0] + "/v1", "sk-1", 5, 2, local=True) as client:
            await client.post_bytes(PATH, encode(BODIES[0]))
            return (await client.post_bytes(PATH, encode(BODIES[1]))).request

    assert HEADERS in asyncio.run(go()).extensions
