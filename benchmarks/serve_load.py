"""Load on `iot-pipeline serve`: many clients at once, against a plain handler that generates each answer.

One run on loopback, with the student of the present settings (IOT_*): the server under `--clients` connections for
`--seconds`, each of which asks for the class of one flow that nobody asked for before, then a plain FastAPI handler
that writes an answer with `generate` and reads the class in it, under a few clients. Neither has a cache.

    nice -n 10 python benchmarks/serve_load.py --stage 10K --track original --seconds 60 --clients 1000
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from result import save

from iot_pipeline.commands.checkpoint import open_classifier
from iot_pipeline.flows.rows import RowReader
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings, settings

NEW_TOKENS = 512  # as the prior work
PLAIN_CLIENTS = 8
COMPARED = 64  # flows whose probabilities over HTTP are held against those in process
SETTLED = 0.25  # of the time, after which memory must not grow


def main() -> None:
    """Run both servers and write benchmarks/results/serve_load.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="10K")
    parser.add_argument("--track", default="original")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--name", default="serve_load", help="name of the result")
    parser.add_argument("--plain", action="store_true", help="be the plain handler (used by this script)")
    given = parser.parse_args()
    chosen = settings()
    if given.plain:
        plain_server(chosen, given.stage, given.track)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    flows = distinct_flows(chosen)
    command = [sys.executable, "-m", "iot_pipeline", "serve", "--stage", given.stage, "--track", given.track]
    with running([*command, "--port", "0", "--no-cache"]) as (url, process):
        difference = largest_difference(chosen, given.stage, given.track, url, list(itertools.islice(flows, COMPARED)))
        served = asyncio.run(load(f"{url}/v1/classify", flows, given.clients, given.seconds, process))
        batches = batch_sizes(url)
    with running([sys.executable, __file__, "--plain", "--stage", given.stage, "--track", given.track]) as (
        url,
        process,
    ):
        plain = asyncio.run(load(f"{url}/classify", flows, PLAIN_CLIENTS, given.seconds, process))
    save(given.name, {
        "student": f"{chosen.dataset_name} {given.stage} {given.track}, base {chosen.student.base_model}",
        "threads": chosen.run.threads, "load_average": [round(one, 2) for one in psutil.getloadavg()],
        "largest_difference_http_in_process": difference, "served": {**served, "flows_of_a_batch": batches},
        "plain_fastapi_and_generate": {**plain, "new_tokens_at_most": NEW_TOKENS},
        "times_the_throughput": round(served["flows_per_s"] / plain["flows_per_s"], 1),
        "times_the_throughput_by_cpu": round(served["flows_per_cpu_s"] / plain["flows_per_cpu_s"], 1),
    })  # fmt: skip


def distinct_flows(chosen: Settings) -> Iterator[dict[str, float | str]]:
    """Yield flows of the lake, each moved a little, so that no two are alike."""
    table = pq.read_table(Lake(chosen.lake_path).folder(ArtefactId("flows")) / "flows.parquet").to_pandas()
    names = [name for name in table.columns if name not in ("row_id", "label", "flow_group", "occurrence")]
    random = np.random.default_rng(1)
    while True:
        for row in table.sample(1000, random_state=int(random.integers(1 << 30)))[names].to_dict("records"):
            yield {n: v if isinstance(v, str) else float(v) * (1 + 0.01 * random.random()) + 0.002 * random.random()
                   for n, v in row.items()}  # fmt: skip


def largest_difference(chosen: Settings, stage: str, track: str, url: str, flows: list[dict[str, Any]]) -> float:
    """Return the largest difference between a probability over HTTP and the one in process."""
    import httpx2

    classifier = open_classifier(chosen, stage, track)
    frame, faults = RowReader(classifier.spec).read(flows)
    assert not faults
    results = httpx2.post(f"{url}/v1/classify", json={"flows": flows}, timeout=120).json()["results"]
    wanted = [verdict.probabilities for verdict in classifier.classify(frame)]
    classifier.student.close()
    return max(abs(r["probabilities"][name] - w[name]) for r, w in zip(results, wanted, strict=True) for name in w)


async def load(url: str, flows: Iterator[dict[str, Any]], clients: int, seconds: float, process: Any) -> dict[str, Any]:
    """Let clients ask one flow after the other; return answers by status, flows a second, latencies and memory."""
    import aiohttp

    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    memory: list[tuple[float, float]] = []
    started, worked = time.monotonic(), sum(process.cpu_times()[:2])
    until = started + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            body = json.dumps({"flows": [next(flows)]}).encode()
            begun = time.monotonic()
            try:
                async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
                    content = await answer.json()
                    statuses[str(answer.status)] += 1
                    assert answer.status != 200 or content["results"][0]["class"]
            except (aiohttp.ClientError, TimeoutError, AssertionError, KeyError) as error:
                statuses[type(error).__name__] += 1
            latencies.append(time.monotonic() - begun)

    async def watch() -> None:
        while time.monotonic() < until:
            memory.append((time.monotonic() - started, process.memory_info().rss / 2**20))
            await asyncio.sleep(1)

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(watch(), *(client(session) for _ in range(clients)))
    took, worked = time.monotonic() - started, sum(process.cpu_times()[:2]) - worked
    settled = [mib for at, mib in memory if at > SETTLED * seconds] or [memory[-1][1]]
    half = len(settled) // 2
    return {
        "clients": clients, "seconds": round(took, 1), "answers": dict(statuses),
        "errors": sum(n for status, n in statuses.items() if status != "200"),
        "flows_per_s": round(statuses["200"] / took, 2), "flows_per_cpu_s": round(statuses["200"] / worked, 2),
        "cpus_got": round(worked / took, 2),
        "latency_s": {f"p{p}": round(float(np.percentile(latencies, p)), 3) for p in (50, 95, 99)},
        "rss_mib": {"start": round(memory[0][1], 1), "settled_first_half": round(float(np.median(settled[:half])), 1),
                    "settled_second_half": round(float(np.median(settled[half:])), 1), "most": round(max(settled), 1)},
    }  # fmt: skip


def batch_sizes(url: str) -> float:
    """Return the mean number of flows of a batch of classes, as the server counts them."""
    import httpx2

    figures = dict(line.rsplit(" ", 1) for line in httpx2.get(f"{url}/metrics").text.splitlines() if line[:1] != "#")
    total, count = (figures[f'iot_serve_batch_flows_{part}{{lane="classes"}}'] for part in ("sum", "count"))
    return round(float(total) / float(count), 1)


@contextmanager
def running(command: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server that prints its URL, and stop it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        urls = [word for word in server.stdout.readline().split() if word.startswith("http://")]
        if not urls:
            raise SystemExit("the server did not start; what it said is above")
        try:
            yield urls[0], psutil.Process(server.pid)
        finally:
            server.terminate()
            assert server.wait(60) == 0


def plain_server(chosen: Settings, stage: str, track: str) -> None:
    """Serve the student as a first attempt would: FastAPI, one `generate` a request, the class read off the answer.

    It stops at the end of turn, which many a first attempt does not.
    """
    import signal
    import socket

    import torch
    import uvicorn
    from fastapi import FastAPI

    from iot_pipeline.models.tokenizer import end_of_turn, prompt_text

    classifier = open_classifier(chosen, stage, track)
    student, spec = classifier.student, classifier.spec
    reader, reading, app = RowReader(spec), threading.Lock(), FastAPI()
    end = end_of_turn(student.tokenizer)

    @app.post("/classify")
    def classify(body: dict[str, Any]) -> dict[str, Any]:
        with reading:
            frame, faults = reader.read(body["flows"])
        assert not faults
        prompt = prompt_text(student.tokenizer, classifier.writer.texts(frame)[0])
        tokens = student.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(student.device)
        with torch.inference_mode():
            made = student.model.generate(
                **tokens, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=student.pad
            )
        text = student.tokenizer.decode(made[0, tokens["input_ids"].shape[1] :])
        found = [name for name in spec.classes if name in text.split("\n")[0]]
        return {"results": [{"class": found[0] if found else "none"}]}

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
