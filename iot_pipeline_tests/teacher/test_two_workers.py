"""Two workers on one store in PostgreSQL, with one budget: no request is asked twice, and the cap is never passed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import online, pricing, session
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.pricing import Price, price_of
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.postgres import cluster
from iot_pipeline_tests.teacher.test_budget import Lot, some_requests


class Watched(Lot):
    """A server by lot that sees which requests come twice: while they are in flight, or after their answer."""

    def __init__(self, rng: random.Random, price: Price) -> None:
        super().__init__(rng, price)
        self.stop_after = rng.choice([None, None, rng.randrange(1, 5)])
        self.guard, self.in_flight, self.answered = threading.Lock(), Counter[str](), set[str]()
        self.at_once: list[str] = []
        self.again: list[str] = []

    async def send(self, body: Mapping[str, Any]) -> Reply:
        text = str(body["messages"][0]["content"])
        with self.guard:
            if self.in_flight[text]:
                self.at_once.append(text)
            if text in self.answered:
                self.again.append(text)
            self.in_flight[text] += 1
        try:
            reply = await super().send(body)
        finally:
            with self.guard:
                self.in_flight[text] -= 1
        if reply.kind == "answer" and reply.text == "good" and reply.finish_reason == "stop":
            with self.guard:
                self.answered.add(text)
        return reply


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with cluster() as made:
        yield made()


@pytest.mark.parametrize("schedules", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_schedules_of_two_workers(database: str, monkeypatch: pytest.MonkeyPatch, schedules: int) -> None:
    """In each, two workers with connections of their own ask overlapping requests of one source, in different orders.

    The lot draws prices, caps that bind and that do not, faults, answers that are refused, and workers that stop in the
    middle by an error: what such a one had in flight may be asked again, and nothing else.
    """
    servers: dict[str, Watched] = {}
    for module, name, value in (
        (online, "SAVE_EVERY_S", 0.005), (online, "RESERVE_EVERY_S", 0), (session, "SAVE_EVERY_S", 0.005),
        (session, "FIRST_PEERS_GAP_S", 0.005), (session, "MAX_PEERS_GAP_S", 0.02),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(online, "open_chat_client", lambda config: servers[config.url])
    monkeypatch.setattr(
        pricing, "price_of", lambda model: servers[model].price if model in servers else price_of(model)
    )
    rng, seen = random.Random(schedules), Counter[str]()
    with Store(database) as store:
        for number in range(schedules):
            url, before, room = f"https://{number}.example/v1", store.spent_usd(), 10 ** rng.uniform(-3, 0)
            server = servers[url] = Watched(rng, Price(rng.uniform(0, 20), 0.0, 10 ** rng.uniform(-1, 2)))
            ends = [end for end, _ in asked_by_two(server, url, database, before + room, rng, number)]
            seen.update(ends)
            spent = store.spent_usd() - before
            assert store.read("SELECT count(*) FROM reservations") == [(0,)]
            assert store.read("SELECT count(*) FROM claims") == [(0,)]
            assert server.usd <= spent * (1 + 1e-9) + 1e-9, f"schedule {number}: the ledger is below the invoice"
            assert spent <= room * (1 + 1e-9) + 1e-9, f"schedule {number}: the ledger passes the cap"
            assert not server.at_once, f"schedule {number}: asked by two at once"
            assert not server.again or "stopped" in ends, f"schedule {number}: asked again after its answer"
            seen["shared"] += len(server.answered)
    assert min(seen[part] for part in ("budget", "done", "stopped")) > schedules / 20 and seen["shared"] > schedules, (
        seen
    )


def asked_by_two(
    server: Watched, url: str, database: str, cap: float, rng: random.Random, number: int
) -> list[tuple[str, int]]:
    """How each of two workers (threads here, each with a store of its own) ended, and how many requests it was given.

    Args:
        server: The server that answers.
        url: Its address, which is also the name of the model.
        database: URL of the store.
        cap: Dollars that the ledger must not pass.
        rng: The lot.
        number: Number of the schedule.
    """
    common = some_requests(rng, url, str(number))
    ends: list[tuple[str, int]] = []

    def ask(order: list[int], concurrency: int) -> None:
        config = TeacherConfig(
            url, "sk-x", database, "lot", cap, concurrency=concurrency, max_attempts=2, backoff_base_s=0.0
        )
        try:
            Teacher(config).ask([common[place] for place in order], lambda _, text: [] if text == "good" else ["bad"])
            ends.append(("done", len(order)))
        except UserError as error:
            ends.append(("budget" if "IOT_TEACHER_BUDGET_USD" in str(error) else "stopped", len(order)))
        except RuntimeError:
            ends.append(("stopped", len(order)))

    threads = []
    for _ in range(2):
        order = rng.sample(range(len(common)), rng.randint(1, len(common)))
        threads.append(threading.Thread(target=ask, args=(order, rng.choice([1, 3, 50]))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends
