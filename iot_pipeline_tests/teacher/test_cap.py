"""Servers that charge or send more than they may: the cap holds, or the run stops; nothing is read without an end."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import online, session
from iot_pipeline.teacher.http import ChatClient
from iot_pipeline.teacher.pricing import price_of, worst_case
from iot_pipeline.teacher.replies import read_completion, reply_bytes
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.request import Usage
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import SLOW, accept, batch_server, completion, result, said, serving, teacher

# -- size ----------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """2 MB that open to 2 GiB: a block that is flushed can be repeated."""
    packer, block = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 20)
    first, more = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + 2047 * more


@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_that_opens_to_two_gigabytes_is_given_up(status: int, tmp_path: Path) -> None:
    import resource

    packed = bomb()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(lambda *_: (status, packed, {"content_encoding": "gzip"})) as url:
        answers = teacher(url, tmp_path / "t").ask(make_requests(2), accept)
    expected = "reply too long: it was given up after" if status == 200 else "rejected by the server (HTTP 400)"
    assert all(expected in a.reasons[0] for a in answers.values())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_reply_without_an_end_is_given_up(tmp_path: Path) -> None:
    written = [0]

    def endless() -> Iterator[bytes]:
        while written[0] < 3_000_000_000:
            written[0] += 1 << 16
            yield b" " * (1 << 16)

    with serving(lambda *_: (200, endless(), {})) as url:
        answers = teacher(url, tmp_path / "t").ask(make_requests(1), accept)
    assert all("reply too long" in a.reasons[0] and a.attempts == 2 for a in answers.values())
    assert written[0] < 100_000_000


def test_packed_replies_are_read(tmp_path: Path) -> None:
    content = json.dumps(completion()).encode()
    packed = iter([gzip.compress(content[:50]) + gzip.compress(content[50:]), zlib.compress(content)])
    kinds = iter(["gzip", "deflate"])
    with serving(lambda *_: (200, next(packed), {"content_encoding": next(kinds)})) as url:
        answers = teacher(url, tmp_path / "t", concurrency=1).ask(make_requests(2), accept)
    assert {a.status for a in answers.values()} == {"ok"}


# -- the budget ----------------------------------------------------------------------------------------------

COUNT = st.one_of(st.integers(0, 400), st.sampled_from([-5, 2000, 10**5, 10**7, 10**40]), st.none())
USAGES = st.one_of(st.none(), st.tuples(COUNT, COUNT, COUNT))
PRICE = price_of("gpt-4o")


@SLOW
@given(usages=st.lists(USAGES, min_size=1, max_size=12), share=st.floats(0.1, 8), concurrency=st.integers(1, 4))
def test_the_ledger_passes_the_cap_by_replies_that_break_a_promise_alone(
    usages: list[tuple[Any, Any, Any] | None], share: float, concurrency: int
) -> None:
    requests, sent = make_requests(12, "gpt-4o"), list[float]()
    worst = max(worst_case(PRICE, request, 400) for request in requests)
    cap = share * worst

    async def send(client: object, body: dict[str, Any]) -> Reply:
        said = usages[len(sent) % len(usages)]
        usage = (
            said
            if said is None
            else {
                "prompt_tokens": said[0],
                "completion_tokens": said[1],
                "prompt_tokens_details": {"cached_tokens": said[2]},
            }
        )
        reply = read_completion(completion(usage=usage))
        sent.append(PRICE.cost(reply.usage) if reply.usage is not None else 0.0)
        return reply

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatClient, "send", send)
        patch.setattr(online, "SAVE_EVERY_S", 0.001)
        patch.setattr(online, "RESERVE_EVERY_S", 0)
        patch.setattr(session, "SAVE_EVERY_S", 0.001)
        asking = teacher("https://paid.example/v1", f"{folder}/t", paid=True, budget_usd=cap, concurrency=concurrency)
        ended = ""
        try:
            asking.ask(requests, accept)
        except UserError as error:
            ended = str(error)
        with Store(f"{folder}/t") as store:
            spent, rows = store.spent_usd(), store.read("SELECT cost_usd FROM attempts")
    least = min(worst_case(PRICE, request, 400) for request in requests)
    excess = sorted((cost - least for cost in sent if cost > least), reverse=True)
    assert all(cost >= 0 for (cost,) in rows) and spent == pytest.approx(sum(cost for (cost,) in rows))
    assert spent <= cap * (1 + 1e-9) + sum(excess[:concurrency])
    assert len(excess) <= concurrency or max(excess) <= worst - least + 1e-12
    if any(cost > worst for cost in sent):
        assert "does not keep to max_tokens" in ended or "is used up" in ended


def test_usage_that_contradicts_itself_is_booked_at_its_worst_and_said_once(tmp_path: Path) -> None:
    apart = {"prompt_tokens": 60, "completion_tokens": 120, "prompt_tokens_details": {"cached_tokens": 2000}}
    heard: list[str] = []
    requests = make_requests(400)
    with serving(lambda *_: said(completion(usage=apart))) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=0.01, log=heard.append)
        with pytest.raises(UserError, match=r"IOT_TEACHER_BUDGET_USD=0\.01 is used up"):
            asking.ask(requests, accept)
    worst = worst_case(price_of("gpt-4o-mini"), requests[0], 400)
    with Store(tmp_path / "t") as store:
        assert 0.01 - 2 * worst < store.spent_usd() <= 0.01
    assert sum("no usage that can be believed (2,000 cached of 60 prompt tokens)" in line for line in heard) == 1


def test_a_paid_server_that_ignores_max_tokens_is_asked_once(tmp_path: Path) -> None:
    dear = completion(usage={"prompt_tokens": 60, "completion_tokens": 1_000_000})
    with serving(lambda *_: said(dear)) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=0.01, concurrency=64)
        with pytest.raises(UserError, match="does not keep to max_tokens"):
            asking.ask(make_requests(100), accept)
    with Store(tmp_path / "t") as store:
        assert store.ledger()["attempts"] == 1
        assert store.spent_usd() == pytest.approx(price_of("gpt-4o-mini").cost(Usage(60, 0, 1_000_000)))


def test_a_batch_that_bills_more_than_it_may_stops_and_costs_no_less_than_nothing(tmp_path: Path) -> None:
    usages = [
        {"prompt_tokens": 60, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 10**7}},
        {"prompt_tokens": 60, "completion_tokens": 10**6},
    ]

    def results(lines: list[dict[str, Any]]) -> bytes:
        return b"".join(result(line, completion(usage=usages[n % 2])) for n, line in enumerate(lines))

    requests = make_requests(4)
    with serving(batch_server(results)) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=1.0, via="batch")
        with pytest.raises(UserError, match="does not keep to max_tokens"):
            asking.ask(requests, accept)
    price = price_of("gpt-4o-mini").in_batch()
    assert asking.summary.usd == pytest.approx(
        sum(worst_case(price, r, 400) for r in requests[::2]) + 2 * price.cost(Usage(60, 0, 10**6))
    )
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


def test_a_reply_that_is_too_long_is_booked_at_what_may_have_come(tmp_path: Path) -> None:
    long = completion("x" * (reply_bytes(400) + 1))
    with serving(lambda *_: said(long)) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=1.0, concurrency=1)
        with pytest.raises(UserError, match="does not keep to max_tokens"):
            asking.ask(make_requests(3), accept)
    assert asking.summary.attempts == 1 and asking.summary.usd > price_of("gpt-4o-mini").cost(Usage(0, 0, 60_000))
