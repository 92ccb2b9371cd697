"""The budget: whatever things cost and whatever happens, a server's invoice never passes the cap."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.errors import UserError
from iot_pipeline.teacher import client, online, pricing, session
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.pricing import Price, price_of, worst_case
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests
from iot_pipeline_tests.teacher.test_batch import fetch_invoice, invoice_usd

COMBINATIONS, ABREAST = 1000, 10


class Lot:
    """A server that answers, fails and bills by lot: for an answer, and half of those that get lost, anything up to all
    that it may. It bills in dollars at the price of the hour."""

    def __init__(self, rng: random.Random, price: Price) -> None:
        self.rng, self.price, self.usd, self.sent = rng, price, 0.0, 0
        self.stop_after = rng.choice([None, None, None, rng.randrange(1, 12)])
        self.failing = rng.choice([0.0, 0.1, 0.5])
        self.dear = rng.random() < 0.5  # answers mostly cost what they may

    async def __aenter__(self) -> Lot:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def send(self, body: Mapping[str, Any]) -> Reply:
        self.sent += 1
        if self.sent == self.stop_after:
            raise self.rng.choice([UserError("the key is refused"), RuntimeError("a bug")])
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        rng = self.rng
        if rng.random() < self.failing:
            if rng.random() < 0.3:
                return Reply("rate_limit", "rate limited", retry_after_s=0.0)
            if rng.random() < 0.5:
                self._bill(body)
            return Reply("transport", "timeout", billed_unknown=True, retry_after_s=0.0)
        usage = self._bill(body)
        said = rng.random()
        if said < 0.1:
            return Reply("answer", "ok", "cut", "length", usage=usage)
        if said < 0.2:
            return Reply("answer", "ok", "", "stop", refusal=True, usage=usage)
        if said < 0.3:
            return Reply(
                "answer",
                "ok",
                "bad" if said < 0.25 else "no usage",
                "stop",
                usage=usage if said < 0.25 else None,
                billed_unknown=said >= 0.25,
            )
        return Reply("answer", "ok", "good", "stop", usage=usage)

    def _bill(self, body: Mapping[str, Any]) -> Usage:
        most = sum(len(message["content"].encode()) + 16 for message in body["messages"])
        share = 1.0 if self.dear and self.rng.random() < 0.8 else self.rng.random()
        prompt = int(share * most)
        usage = Usage(prompt, self.rng.randint(0, prompt), int(share * int(body["max_tokens"])))
        self.usd += self.price.cost(usage)
        return usage


def some_requests(rng: random.Random, url: str, name: str) -> list[Request]:
    return [
        Request(
            url,
            ({"role": "user", "content": f"{name} {n} " + "ü7" * rng.randrange(1, 400)},),
            {"max_tokens": rng.choice([16, 200, 2000]), "seed": 1},
            "1",
        )
        for n in range(rng.randrange(1, 13))
    ]


def test_a_thousand_costs_and_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "SAVE_EVERY_S", 0.001)
    monkeypatch.setattr(online, "RESERVE_EVERY_S", 0)
    monkeypatch.setattr(session, "SAVE_EVERY_S", 0.001)
    monkeypatch.setattr(online, "open_chat_client", lambda config: servers[config.url])
    monkeypatch.setattr(
        pricing, "price_of", lambda model: servers[model].price if model in servers else price_of(model)
    )
    # Opening a store takes longer than what these few requests do in it, so those who ask alone share one.
    monkeypatch.setattr(
        client,
        "Store",
        lambda where: Store(where) if threading.current_thread() is not main else contextlib.nullcontext(store),
    )
    main, servers = threading.current_thread(), dict[str, Lot]()
    seen: Counter[str] = Counter()
    rng, path = random.Random(11), tmp_path / "t.sqlite"
    with Store(path) as store:
        for number in range(COMBINATIONS):
            before = store.spent_usd()
            room = 10 ** rng.uniform(-3, 0)
            price = Price(rng.uniform(0, 20), 0.0, 10 ** rng.uniform(-1, 2))
            server = servers[f"https://{number}.example/v1"] = Lot(rng, price)
            seen.update(asked_abreast(server, path, before + room, 1 if number % ABREAST else 2, rng, number))
            spent = store.spent_usd() - before
            assert store.read("SELECT count(*) FROM reservations") == [(0,)]
            assert server.usd <= spent * (1 + 1e-9) + 1e-9, f"combination {number}: the ledger is below the invoice"
            assert spent <= room * (1 + 1e-9) + 1e-9, f"combination {number}: the ledger passes the cap"
            seen["over half of the cap billed"] += server.usd > room / 2
        assert store.spent_usd() == pytest.approx(store.ledger()["usd"])
    # The lot has tried what matters: budgets that bind and that do not, runs that end in the middle, two at once.
    assert min(seen[part] for part in ("budget", "done", "stopped", "over half of the cap billed")) > 50, seen


def asked_abreast(server: Lot, path: Path, cap: float, processes: int, rng: random.Random, number: int) -> list[str]:
    """How each of the processes (threads here, each with its own connection) ended."""
    ends: list[str] = []
    url = f"https://{number}.example/v1"  # also the name of the model, which has a price of its own

    def ask(requests: list[Request], concurrency: int) -> None:
        teacher = Teacher(
            TeacherConfig(
                f"https://{number}.example/v1",
                "sk-x",
                path,
                "lot",
                cap,
                concurrency=concurrency,
                max_attempts=2,
                backoff_base_s=0.0,
            )
        )
        try:
            teacher.ask(requests, lambda request, text: [] if text == "good" else ["bad"])
            ends.append("done")
        except UserError as error:
            ends.append("budget" if "IOT_TEACHER_BUDGET_USD" in str(error) else "stopped")
        except RuntimeError:
            ends.append("stopped")

    work = [(some_requests(rng, url, f"{number}.{n}"), rng.choice([1, 3, 50])) for n in range(processes)]
    if processes == 1:
        ask(*work[0])
    else:
        threads = [threading.Thread(target=ask, args=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return ends


def test_whatever_keeps_the_store_from_reserving_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Store, "reserve", broken)
    config = TeacherConfig("http://127.0.0.1:9/v1", "sk-x", tmp_path / "t.sqlite", "paid", 1.0, paid=True)
    with pytest.raises(RuntimeError, match="a bug"):
        Teacher(config).ask(make_requests(3), lambda request, text: [])


FAULTS = {"rate_limit": 0.05, "server_error": 0.05, "drop": 0.05, "truncate": 0.05, "refusal": 0.05, "unreadable": 0.05}
LIMITS = BatchLimits(requests=13, first_poll_s=0.02, poll_s=0.05, orphan_grace_s=0.0)


@pytest.mark.parametrize("via", ["requests", "batch"])
def test_some_dozens_over_the_real_server(via: str, tmp_path: Path) -> None:
    rng, ends = random.Random(5), Counter[str]()
    with embedded_server(FAULTS, seed=1) as url:
        for number in range(20 if via == "requests" else 10):
            model = rng.choice(["gpt-4o-mini", "gpt-4o", "gpt-4.1-nano"])
            requests = make_requests(30, model, max_tokens=rng.choice([150, 400, 1000]))
            price = price_of(model)
            whole = sum(worst_case(price if via == "requests" else price.in_batch(), r, 400) for r in requests)
            cap, before = whole * rng.uniform(0.05, 1.0), fetch_invoice(url)
            teacher = Teacher(
                TeacherConfig(
                    url,
                    "sk-x",
                    tmp_path / f"{number}.sqlite",
                    "paid",
                    cap,
                    rng.choice([1, 4, 64]),
                    paid=True,
                    via=via,
                    backoff_base_s=0.005,
                    batch_limits=LIMITS,
                )
            )
            try:
                teacher.ask(requests, checker(requests))
                ends["done"] += 1
            except UserError as error:
                assert "IOT_TEACHER_BUDGET_USD" in str(error)
                ends["budget"] += 1
            after = fetch_invoice(url)
            billed = invoice_usd(
                {
                    way: {name: count - before[way][name] for name, count in after[way].items()}
                    for way in ("requests", "batch")
                },
                model,
            )
            assert billed <= teacher.summary.usd + 1e-9 and teacher.summary.usd <= cap + 1e-9
    assert min(ends["done"], ends["budget"]) >= 3, ends
