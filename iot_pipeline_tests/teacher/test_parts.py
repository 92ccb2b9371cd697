"""Parts of the engine by themselves: keys, prices, waits, limiter, breaker, faults, server options, its process."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from iot_pipeline.embedded_teacher.faults import FAULTS, FaultPlan, parse_faults
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError
from iot_pipeline.teacher.pricing import Price, is_paid, price_of, price_table, worst_case
from iot_pipeline.teacher.refusals import retry_after_s
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.retry import AdaptiveLimiter, Breaker
from iot_pipeline_tests.teacher.flows import make_requests


def test_key_depends_on_content_alone() -> None:
    first = Request("m", ({"role": "user", "content": "a"},), {"temperature": 0.7, "max_tokens": 5}, "1")
    same = Request("m", ({"content": "a", "role": "user"},), {"max_tokens": 5, "temperature": 0.7}, "1")
    assert first.key == same.key and len(first.key) == 64
    others = [
        Request("n", first.messages, first.params, "1"),
        Request("m", first.messages, first.params, "2"),
        Request("m", first.messages, {**first.params, "seed": 1}, "1"),
        Request("m", ({"role": "user", "content": "b"},), first.params, "1"),
    ]
    assert len({first.key, *(other.key for other in others)}) == 5


def test_prices() -> None:
    price = price_of("gpt-4o-mini-2024-07-18")
    assert price.cost(Usage(1_000_000, 0, 0)) == pytest.approx(0.15)
    assert price.cost(Usage(1_000_000, 1_000_000, 1_000_000)) == pytest.approx(0.675)
    # The longer name wins; what our table lacks comes from the package.
    assert price_of("gpt-4o-2024-08-06").completion == 10.0 and price_of("gpt-4.1-mini").cached == 0.1
    assert "gpt-3.5-turbo" not in price_table()
    assert price_of("gpt-3.5-turbo") == Price(0.5, 0.5, 1.5)
    with pytest.raises(UserError, match="no price is known for the model 'gpt-9'"):
        price_of("gpt-9")
    request = make_requests(1)[0]
    assert worst_case(price, request, 400) > price.cost(Usage(len(request.messages[0]["content"]), 0, 400))


@pytest.mark.parametrize(
    ("url", "paid"),
    [
        ("https://api.openai.com/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost:11434/v1", False),
        ("http://192.168.1.7/v1", False),
        ("http://gpu-box:8000/v1", False),
        ("http://8.8.8.8/v1", True),
        ("http://[::1]:8000/v1", False),
        ("http://vllm.local/v1", False),
    ],
)
def test_which_servers_cost_money(url: str, paid: bool) -> None:
    assert is_paid(url) is paid


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "2"}) == 2.0
    assert retry_after_s({"retry-after-ms": "50", "retry-after": "1"}) == 0.05
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after_s({"retry-after": later}) or 0) <= 30
    assert retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    assert retry_after_s({"retry-after": "soon"}) is None and retry_after_s({}) is None


def test_limiter_never_lets_more_in_than_its_limit() -> None:
    async def run() -> int:
        limiter, most = AdaptiveLimiter(4), 0

        async def visit() -> None:
            nonlocal most
            async with limiter:
                most = max(most, limiter.in_flight)
                await asyncio.sleep(0.001)

        await asyncio.wait_for(asyncio.gather(*(visit() for _ in range(50))), 5)
        return most

    assert asyncio.run(run()) == 4


def test_limiter_halves_once_a_second_and_grows_by_success() -> None:
    limiter = AdaptiveLimiter(8)
    limiter.on_throttled(None)
    limiter.on_throttled(None)
    assert limiter.limit == 4
    for _ in range(4):
        limiter.on_success()
    assert 4.8 < limiter.limit < 5.1


def test_limiter_grows_fast_to_half_of_what_was_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, now = AdaptiveLimiter(64), time.monotonic()
    for second in range(2, 6):
        monkeypatch.setattr(time, "monotonic", lambda second=second: now + second)
        limiter.on_throttled(None)
    assert limiter.limit == 4
    for _ in range(28):
        limiter.on_success()
    assert limiter.limit == 32
    for _ in range(32):
        limiter.on_success()
    assert 32.9 < limiter.limit < 33.1


def test_a_pause_that_a_server_asks_for_ends_with_the_session() -> None:
    stopped = False

    async def wait() -> float:
        nonlocal stopped
        limiter, begun = AdaptiveLimiter(4, lambda: stopped), time.monotonic()
        limiter.on_throttled(300.0)
        task = asyncio.create_task(limiter.__aenter__())
        await asyncio.sleep(0.1)
        assert not task.done()
        stopped = True
        await asyncio.wait_for(task, 5.0)
        return time.monotonic() - begun

    assert asyncio.run(wait()) < 5.0


def test_breaker_trips_where_nothing_is_ever_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker, now = Breaker(), time.monotonic()
    for _ in range(50):
        breaker.tried("rate limited")
    breaker.tried("server error 500")
    assert breaker.tripped() is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 660)
    assert breaker.tripped() == "rate limited, and no answer for 11 minutes"
    breaker.tried(None)
    assert breaker.tripped() is None


def test_breaker_needs_many_and_most() -> None:
    breaker = Breaker()
    for _ in range(19):
        breaker.record("refused")
    assert breaker.tripped() is None
    breaker.record("cut off")
    assert breaker.tripped() == "refused"
    for _ in range(20):
        breaker.record(None)
    assert breaker.tripped() is None


def test_faults_are_seeded_and_checked() -> None:
    plan, same = (FaultPlan({"drop": 0.3, "timeout": 0.2}, seed=3) for _ in range(2))
    bodies = [f"body {n}".encode() for n in range(2000)]
    drawn = [plan.draw(body, FAULTS) for body in bodies]
    assert drawn == [same.draw(body, FAULTS) for body in bodies]
    assert 500 < drawn.count("drop") < 700 and 320 < drawn.count("timeout") < 480
    with pytest.raises(UserError, match="unknown fault 'rain'"):
        parse_faults("rain=0.5")
    with pytest.raises(UserError, match="1 at most together"):
        parse_faults("drop=0.7,timeout=0.7")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


def post(url: str, body: object, **headers: str) -> tuple[int, dict[str, object], dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/chat/completions", data, headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def test_server_speaks_like_the_real_api(url: str) -> None:
    body = make_requests(1)[0].body()
    status, answer, headers = post(url, body)
    assert status == 200 and answer["object"] == "chat.completion" and answer["model"] == "embedded-analyst"
    assert str(answer["id"]).startswith("chatcmpl-") and answer["system_fingerprint"]
    usage = answer["usage"]
    assert isinstance(usage, dict) and usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert headers["x-request-id"].startswith("req_")
    assert post(url, body)[1]["choices"] == answer["choices"]
    _, short, _ = post(url, body | {"max_tokens": 5})
    assert short["choices"][0]["finish_reason"] == "length"  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "cat", "content": "x"}]}, "messages[0].role"),
        ({"model": ""}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ],
)
def test_server_names_the_bad_field(url: str, change: dict[str, object], param: str) -> None:
    status, answer, _ = post(url, make_requests(1)[0].body() | change)
    assert status == 400 and answer["error"]["param"] == param  # type: ignore[index]


def test_server_refuses_what_is_not_json_and_misbehaves_on_request(url: str) -> None:
    assert post(url, b"{no")[0] == 400 and post(url, b"\xff\xfe")[0] == 400 and post(url, [1])[0] == 400
    body = make_requests(1)[0].body()
    status, _, headers = post(url, body, **{"x-iot-fault": "rate_limit"})
    assert status == 429 and headers["retry-after"] == "1"
    assert post(url, body, **{"x-iot-fault": "server_error"})[0] == 500
    assert post(url, body, **{"x-iot-fault": "rain"})[0] == 400


def test_server_ends_with_its_parent() -> None:
    script = (
        "import os, signal\nfrom iot_pipeline.embedded_teacher.process import embedded_server\n"
        "with embedded_server() as url:\n    print(url, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    client = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60
    )
    url = client.stdout.strip()
    assert url.startswith("http://127.0.0.1:")
    for _ in range(100):
        try:
            post(url, {})
        except (urllib.error.URLError, ConnectionError):
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its parent by 10 s")
