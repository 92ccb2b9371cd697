"""How many requests a second does the engine ask, against the obvious way, and how much of what a slow server allows?

    .venv/bin/python benchmarks/teacher_speed.py --requests 5000 --repeats 5

One embedded server in its own process, the same requests. At once: the server answers without delay; the obvious way
is 40 threads with the synchronous openai client, the engine does all that it does for a paid server (store, ledger,
budget, claims, checks), and a bare aiohttp client, which keeps nothing, shows what the server can give. Waiting: each
answer takes a second and 500 may be in flight, so 500 a second is the ideal. Ways take turns; medians of the repeats.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from result import save

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Request
from iot_pipeline_tests.teacher.flows import checker, make_requests

THREADS, CONCURRENCY = 40, 64
ANSWER_SECONDS, IN_FLIGHT = 1.0, 500
LONGER = 4
BUDGET_USD = 1000.0
Way = Callable[[str, list[Request]], None]


def main() -> None:
    """Write benchmarks/results/teacher_speed.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="where each answer takes a second")
    parser.add_argument("--print-only", action="store_true", help="write no result")
    chosen = parser.parse_args()
    load, requests = round(os.getloadavg()[0], 1), make_requests(chosen.requests)
    with embedded_server() as url:
        at_once = turns(url, requests, {"threads": threads, "engine": engine, "aiohttp": bare}, chosen.repeats)
    with embedded_server(answer_seconds=ANSWER_SECONDS) as url:
        slow = {"engine": partial(engine, most=chosen.in_flight)}
        waiting = turns(url, requests, slow, chosen.repeats)["engine"]
        longer = turns(url, make_requests(LONGER * chosen.requests), slow, 1)["engine"]
    medians = {way: statistics.median(rates) for way, rates in at_once.items()}
    ideal = chosen.in_flight / ANSWER_SECONDS
    result = {
        "question": "requests a second of the engine, against the obvious way and against what a slow server allows",
        "requests": chosen.requests,
        "load_before": load,
        "scheduling": "ordinary" if os.sched_getscheduler(0) == os.SCHED_OTHER else "real time",
        "at_once": {
            "threads": THREADS, "concurrency": CONCURRENCY, "requests_per_second": at_once, "median": medians,
            "times_threads": round(medians["engine"] / medians["threads"], 2),
            "share_of_aiohttp": round(medians["engine"] / medians["aiohttp"], 2),
        },
        "waiting": {
            "answer_seconds": ANSWER_SECONDS, "in_flight": chosen.in_flight, "requests_per_second": waiting,
            "ideal": ideal, "share_of_ideal": round(statistics.median(waiting) / ideal, 3),
            "longer": {
                "requests": LONGER * chosen.requests, "requests_per_second": longer,
                "share_of_ideal": round(longer[0] / ideal, 3),
            },
        },
    }  # fmt: skip
    save("teacher_speed", result, print_only=chosen.print_only)


def turns(url: str, requests: list[Request], ways: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Requests a second of each way in each repeat; every way warms up on a few requests first."""
    for way in ways.values():
        way(url, requests[: 2 * CONCURRENCY])
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way(url, requests)
            rates[name].append(round(len(requests) / (time.perf_counter() - started), 1))
    return rates


def engine(url: str, requests: list[Request], most: int = CONCURRENCY) -> None:
    """Ours, on an empty store, for a server that is paid."""
    fresh = [Request(r.model, r.messages, r.params, r.schema_version) for r in requests]  # keys are worked out again
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "t.sqlite"
        asking = Teacher(TeacherConfig(url, "none", store, "paid", BUDGET_USD, concurrency=most, paid=True))
        answers = asking.ask(fresh, checker(fresh))
    if len(answers) != len(requests) or any(answer.status != "ok" for answer in answers.values()):
        raise SystemExit("not every request was answered")


def threads(url: str, requests: list[Request]) -> None:
    """The obvious way: answers in a list, nothing checked, nothing kept."""
    import openai

    with openai.OpenAI(base_url=url, api_key="none") as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda request: client.chat.completions.create(**request.body()), requests))
    if not all(answer.choices[0].message.content for answer in answers):
        raise SystemExit("not every request was answered")


def bare(url: str, requests: list[Request]) -> None:
    """What is left without the openai client and without anything kept."""
    asyncio.run(_bare(f"{url}/chat/completions", requests))


async def _bare(url: str, requests: list[Request]) -> None:
    import aiohttp

    feed = iter(requests)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        async def worker() -> None:
            for request in feed:
                async with session.post(url, json=request.body()) as response:
                    json.loads(await response.read())["choices"][0]["message"]["content"]

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


if __name__ == "__main__":
    main()
