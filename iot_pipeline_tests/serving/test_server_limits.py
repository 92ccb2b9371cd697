"""Slow, hostile and too many clients: each gets a 4xx, a 429, 503 or 504, and the others their answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.serving.server.guard import Access
from iot_pipeline.serving.server.pasted import read_flows
from iot_pipeline.serving.server.run import access_of, bind
from iot_pipeline.settings import load_settings, serve_token
from iot_pipeline_tests.serving.served import fake, flow, served, spec_of

HUNG_S = 60
TOKEN = "a-token-of-32-characters-at-least"
BODY = json.dumps({"flows": [flow()]}).encode()
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def exchange(url: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts with pauses between them, and return all that comes back."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        got = b""
        while data := connection.recv(65536):
            got += data
    return got


def wait_until_held(client: httpx2.Client, size: int) -> None:
    """Wait until the server holds so many bytes of bodies: it reads other connections when it gets to them."""
    ended = time.monotonic() + HUNG_S
    while f"iot_serve_body_bytes {float(size)}" not in (told := client.get("/metrics").text).splitlines():
        assert time.monotonic() < ended, told
        time.sleep(0.01)


def test_slow_and_endless_clients_are_cut_off() -> None:
    with served(fake(), body_s=0.4, header_s=0.4, header_bytes=8192, idle_s=1) as url:
        slow_body = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n", b"{")
        assert b" 408 " in slow_body.splitlines()[0]
        assert b" 408 " in exchange(url, HEAD).splitlines()[0]
        assert b" 408 " in exchange(url, b"\r\n").splitlines()[0]
        assert b" 431 " in exchange(url, HEAD + b"X: " + b"x" * 70_000).splitlines()[0]
        whole = HEAD + b"X: " + b"x" * 9_000 + b"\r\nContent-Length: 2\r\n\r\n{}"  # in one piece
        assert b" 431 " in exchange(url, whole).splitlines()[0]
        for target in (b"/", b"/healthz?", b"/#", b"http://"):
            for size in (9_000, 60_000, 66_000):  # uvicorn calls one of more than 65,535 a bad request
                long = b"GET " + target + b"x" * size + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                assert b" 431 " in exchange(url, long).splitlines()[0]
        assert b" 400 " in exchange(url, b"\x16\x03\x01 no http\r\n\r\n").splitlines()[0]
        whole = exchange(url, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY)
        assert b" 200 " in whole.splitlines()[0]


def test_items_behind_a_long_query_do_not_fill_the_memory() -> None:
    body = {"query": "x" * 1_000_000, "items": ["y"] * 200, "labels": ["Normal"]}
    with served(fake()) as url, httpx2.Client(base_url=url, timeout=HUNG_S) as client:
        tracemalloc.start()
        try:
            answer = client.post("/v1/score", json=body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "items[0]"
    assert peak < 50_000_000  # 200 texts of a million characters have four times as much


def test_a_full_queue_and_a_late_answer_are_told() -> None:
    slow = fake(label_seconds=0.4)
    with served(slow, queue_flows=2, batch_tokens=1, answer_s=0.9) as url, httpx2.Client(base_url=url) as client:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/classify", content=BODY, headers=JSON), range(6)))
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        number = sum(answer.status_code == 429 for answer in answers)
        assert f'iot_serve_refused_total{{status="429"}} {number}.0' in client.get("/metrics").text
        late = client.post("/v1/classify", json={"flows": [flow(n) for n in range(2)] * 2})
        assert late.status_code == 504
        time.sleep(0.5)
        assert client.post("/v1/classify", content=BODY, headers=JSON).status_code == 200


JSON = {"content-type": "application/json"}


def test_an_explanation_delays_classes_by_a_token_and_stops_where_nobody_waits() -> None:
    writer = fake(token_seconds=0.03, tokens=40)
    with served(writer) as url, httpx2.Client(base_url=url, timeout=20) as client, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(client.post, "/v1/explain", content=BODY, headers=JSON)
        time.sleep(0.3)
        assert client.post("/v1/classify", content=BODY, headers=JSON).status_code == 200
        assert not writing.done()
        assert writing.result().status_code == 200
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{url}/v1/explain", content=BODY, headers=JSON, timeout=0.3)
        assert client.post("/v1/explain", content=BODY, headers=JSON).status_code == 200
    assert len(writer.written) == 3 and writer.written[0] == writer.written[2] == 40 > writer.written[1]


def test_one_request_that_breaks_the_student_breaks_no_other() -> None:
    breaking = fake(label_seconds=0.1)
    known = breaking.scores

    def scores(texts, log=None):  # type: ignore[no-untyped-def]
        if any("666.000" in text for text in texts):
            raise RuntimeError("secret 666")
        return known(texts)

    breaking.scores = scores  # type: ignore[method-assign]
    with served(breaking) as url, httpx2.Client(base_url=url, timeout=20) as client, ThreadPoolExecutor(8) as pool:
        bodies = [{"flows": [flow(666 if number == 3 else number)]} for number in range(8)]
        answers = list(pool.map(lambda body: client.post("/v1/classify", json=body), bodies))
    assert [answer.status_code for answer in answers] == [500 if number == 3 else 200 for number in range(8)]
    assert "secret" not in answers[3].text


def test_hosts_origins_and_tokens() -> None:
    with served(fake(), Access(TOKEN)) as url, httpx2.Client(base_url=url) as client:
        port = urlsplit(url).port
        own = {"authorization": f"Bearer {TOKEN}"}
        for headers, status in (
            ({}, 401), ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401), ({"authorization": "Bearer \udcff"}, 401),
            ({"authorization": f"Basic {TOKEN}"}, 401), (own, 200), ({"authorization": f"bearer {TOKEN}"}, 200),
            ({**own, "host": "evil.example"}, 403), ({**own, "host": f"evil.example:{port}"}, 403),
            ({**own, "host": f"evil.example@127.0.0.1:{port}"}, 403), ({**own, "host": "127.0.0.1/evil.example"}, 403),
            ({**own, "host": "127.0.0.1#.evil.example"}, 403), ({**own, "host": "[::1]:80"}, 200),
            ({**own, "host": f"localhost:{port}"}, 200), ({**own, "host": "127.0.0.1.evil.example"}, 403),
            ({**own, "origin": "https://evil.example"}, 403), ({**own, "origin": "null"}, 403),
            ({**own, "origin": "http://["}, 403),
            ({**own, "origin": url}, 200), ({**own, "content-encoding": "gzip"}, 415),
        ):  # fmt: skip
            sent = {name: value.encode("latin-1", "surrogateescape") for name, value in headers.items()}
            answer = client.post("/v1/classify", content=BODY, headers={**JSON, **sent})
            assert answer.status_code == status, (headers, answer.text)
            assert TOKEN not in answer.text
            assert "access-control-allow-origin" not in answer.headers
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 401
        for path in ("/", "/page.js", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        preflight = client.options("/v1/classify", headers={"origin": "https://evil.example"})
        assert preflight.status_code == 403


def test_an_address_of_the_network_needs_a_strong_token() -> None:
    assert access_of("127.0.0.1", None, []) == Access(None, frozenset())
    assert access_of("::1", None, ["Proxy.example"]) == Access(None, frozenset({"proxy.example"}))
    assert access_of("localhost", None, ["proxy.example:8080"]) == Access(None, frozenset({"proxy.example"}))
    for name in ("https://proxy.example", "proxy.example/path", "*.example", ""):
        with pytest.raises(UserError, match="give the name of a host alone"):
            access_of("127.0.0.1", None, [name])
    assert access_of("0.0.0.0", TOKEN, []) == Access(TOKEN, None)
    with pytest.raises(UserError, match="IOT_SERVE_TOKEN"):
        access_of("0.0.0.0", None, [])
    with pytest.raises(UserError, match="at least 16"):
        access_of("127.0.0.1", "short", [])
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="choose one with --port"):
            bind("127.0.0.1", taken.getsockname()[1])


def test_the_token_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_SERVE_TOKEN", TOKEN)
    token = serve_token()
    assert token is not None and token.get_secret_value() == TOKEN
    assert TOKEN not in f"{load_settings().describe()} {token!r} {token}"


SCRIPT = """
import sys
from iot_pipeline.serving.server.guard import Access
from iot_pipeline.serving.server.run import bind, serve, url_of
from iot_pipeline.serving.server.service import Service
from iot_pipeline_tests.serving.served import WordTokens, fake
with bind("127.0.0.1", 0) as listener:
    service = Service(fake(label_seconds=1.0), WordTokens())
    sys.exit(serve(service, Access(), listener, lambda: print(url_of(listener), flush=True)))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_running_requests_end(number: int, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(httpx2.post, f"{url}/v1/classify", content=BODY, headers=JSON, timeout=20)
            time.sleep(0.5)
            server.send_signal(number)
            assert running.result().status_code == 200
        assert server.wait(20) == code
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/healthz")


@pytest.mark.parametrize(
    "text",
    ["orig_pkts: 1" + " " * 300_000 + "x", "a" * 900_000, "{" * 900_000, '{"a": "' * 120_000, "[" * 300 + "1" * 500_000,
     "a,b\n" * 50_000, "orig_pkts" + ":" * 500_000, "- " * 400_000, "a 1 " * 200_000, "\n".join(["a: 1 p9"] * 30_000)],
    ids=range(10),
)  # fmt: skip
def test_text_of_a_client_is_read_in_linear_time(text: str) -> None:
    assert read_flows(text, spec_of("farm_flow")) in ([], [{"orig_pkts": "1"}])  # minutes, if it were quadratic


def test_texts_bodies_and_rows_have_limits() -> None:
    limits = {"text_characters": 1000, "bodies_bytes": 30_000, "body_s": float(HUNG_S)}
    with served(fake(), **limits) as url, httpx2.Client(base_url=url, timeout=20) as client:
        assert client.post("/v1/classify", json={"text": "x" * 1001}).status_code == 413
        wide = {**flow(), **{f"x{number}": 1 for number in range(2000)}}
        answer = client.post("/v1/classify", json={"flows": [wide]})
        assert answer.status_code == 400 and "2,029 columns" in answer.text
        address = urlsplit(url)
        wait_until_held(client, 0)  # an answer may arrive before the server lets go of its request's body
        with socket.create_connection((address.hostname or "", address.port or 0)) as slow:
            slow.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 29_900)
            wait_until_held(client, 29_900)
            busy = client.post("/v1/classify", content=BODY, headers=JSON)
            assert busy.status_code == 503 and busy.headers["retry-after"] == "1"
            slow.sendall(b" " * 60_100)  # it passes the limit itself: what it holds is let go, and it is told
            assert b" 503 " in slow.recv(65536).splitlines()[0]
            assert client.post("/v1/classify", content=BODY, headers=JSON).status_code == 200
        wait_until_held(client, 0)
        with socket.create_connection((address.hostname or "", address.port or 0)) as leaving:
            leaving.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 29_900)
            wait_until_held(client, 29_900)
        wait_until_held(client, 0)


def test_a_flow_within_an_event_is_found_beside_words_that_columns_have_too() -> None:
    row = flow(1, "rt_iot2022_categories")
    event = {"proto": "udp", "service": "dns", "unmapped": {"zeek": [row]}}
    assert read_flows(json.dumps(event), spec_of("rt_iot2022_categories")) == [row]
    assert read_flows(json.dumps({"event": {"proto": "udp"}}), spec_of("rt_iot2022_categories")) == [{"proto": "udp"}]
