"""The fault trial: a client killed again and again, a server that misbehaves, and the books of both compared."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

import sqlalchemy as sa

from iot_pipeline.embedded_teacher.billing import prompt_id
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.pricing import price_of
from iot_pipeline.teacher.request import Usage
from iot_pipeline.teacher.store.schema import attempts
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests

ANSWERS = {"truncate": 0.02, "refusal": 0.02, "wrong_label": 0.02, "ungrounded": 0.02}
FAULTS = {
    "requests": ANSWERS
    | {
        "rate_limit": 0.028,
        "rate_limit_date": 0.002,
        "rate_limit_no_header": 0.02,
        "server_error": 0.03,
        "timeout": 0.01,
        "drop": 0.01,
        "drop_early": 0.01,
        "unreadable": 0.01,
    },
    "batch": ANSWERS
    | {
        "rate_limit": 0.03,
        "server_error": 0.03,
        "line_missing": 0.05,
        "line_doubled": 0.05,
        "line_garbled": 0.03,
        "batch_failed": 0.1,
        "batch_expired": 0.1,
        "batch_cancelled": 0.1,
        "batch_queue_full": 0.1,
    },
}
ARRIVED = ("ok", "line_doubled")


def client(url: str, store: str, count: int, via: str) -> Teacher:
    """The teacher as the trial's client uses it: a paid one, quick to try again."""
    limits = BatchLimits(requests=max(40, count // 20), first_poll_s=0.05, poll_s=0.2, orphan_grace_s=0.0)
    return Teacher(
        TeacherConfig(
            url,
            "none",
            store,
            "paid",
            1000.0,
            paid=True,
            timeout_s=2.0,
            max_attempts=30,
            backoff_base_s=0.05,
            via=via,
            batch_limits=limits,  # type: ignore[arg-type]
        )
    )


def trial(count: int, kills: int, via: str, seed: int, store: str) -> dict[str, Any]:
    """Ask `count` requests while the client is killed `kills` times: what was lost, misplaced, billed twice."""
    rng, killed = random.Random(seed), 0
    with embedded_server(FAULTS[via], seed=seed, hang_seconds=5) as url:
        for moment in sorted(rng.uniform(0, 0.9) for _ in range(kills)):
            killed += _run(url, store, count, via, int(moment * count), rng.uniform(0, 0.3))
        _run(url, store, count, via, None, 0)
        with urllib.request.urlopen(f"{url}/embedded/bill?by=prompt") as response:
            invoice = json.load(response)
    return {"requests": count, "via": via, "kills": killed, "faults": FAULTS[via], **books(store, count, via, invoice)}


def _run(url: str, store: str, count: int, via: str, until: int | None, then_s: float) -> bool:
    """One life of the client, ended by SIGKILL `then_s` after `until` attempts; True where it was killed."""
    program = [sys.executable, "-m", "iot_pipeline_tests.teacher.fault_trial", url, store, str(count), via]
    process = subprocess.Popen(program, cwd=PROJECT_ROOT)
    while until is not None and process.poll() is None and _attempts(store) < until:
        time.sleep(0.02)
    if until is None:
        if process.wait():
            raise RuntimeError("the client failed")
        return False
    time.sleep(then_s)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _attempts(place: str) -> int:
    try:
        with Store(place, read_only=True) as store:
            return int(store.ledger()["attempts"])
    except UserError:  # not made yet
        return -1


def books(place: str, count: int, via: str, invoice: dict[str, Any]) -> dict[str, Any]:
    """Answers against requests, the ledger against the invoice."""
    requests = make_requests(count)
    check, price, c = checker(requests), price_of(requests[0].model), attempts.c
    price = price.in_batch() if via == "batch" else price
    with Store(place) as store:
        answers = {answer.key: answer for answer in store.lookup([r.key for r in requests], "paid")}
        ledger = store.ledger()
        open_reservations = store.read("SELECT count(*) FROM reservations")[0][0]
        booked = Counter(
            row[0] for row in store.read(sa.select(c.key).where((c.completion_tokens > 0) | (c.cost_assumed > 0)))
        )
        killed = Counter(row[0] for row in store.read(sa.select(c.key).where(c.outcome == "in flight at a kill")))
    good = [r for r in requests if r.key in answers and answers[r.key].status == "ok"]
    bad = [answer for answer in answers.values() if answer.status != "ok"]
    billed = sum(price.cost(Usage(*line[1:4])) for lines in invoice["by_prompt"].values() for line in lines)
    twice = {
        r.key: extra
        for r in requests
        if (extra := sum(line[4] in ARRIVED for line in invoice["by_prompt"].get(prompt_id(r.messages), ())) - 1) > 0
    }
    known = ledger["usd"] - ledger["usd_assumed"]
    # By request: each answer that was billed is an attempt with its tokens, or one that is assumed to be billed.
    unbooked = sum(max(0, len(invoice["by_prompt"].get(prompt_id(r.messages), ())) - booked[r.key]) for r in requests)
    return {
        "billed_without_an_attempt": unbooked,
        "answered": len(good),
        "lost": count - len(answers),
        "misaligned": sum(bool(check(r, answers[r.key].text)) for r in good),
        "quarantined": dict(Counter(answer.reasons[0].split(":")[0] for answer in bad if answer.reasons)),
        "quarantined_without_reason": sum(not answer.reasons for answer in bad),
        "billed_twice_in_flight_at_a_kill": sum(min(extra, killed[key]) for key, extra in twice.items()),
        "billed_twice_otherwise": sum(max(0, extra - killed[key]) for key, extra in twice.items()),
        "in_flight_at_a_kill": sum(killed.values()),
        "open_reservations": open_reservations,
        "usd": {
            "billed": billed,
            "known": known,
            "assumed": ledger["usd_assumed"],
            "billed_beyond_known": billed - known,
        },
        "attempts": ledger["attempts"],
        "outcomes": ledger["outcomes"],
    }


def failures(result: dict[str, Any]) -> list[str]:
    """What the trial must not find. What was billed and is not known must be covered by what was assumed."""
    found = [
        name
        for name in (
            "lost",
            "misaligned",
            "quarantined_without_reason",
            "billed_twice_otherwise",
            "open_reservations",
            "billed_without_an_attempt",
        )
        if result[name]
    ]
    usd = result["usd"]
    covered = -1e-9 <= usd["billed_beyond_known"] <= usd["assumed"] + 1e-9
    return found if covered else [*found, "usd"]


if __name__ == "__main__":
    url, store, count, via = sys.argv[1:]
    asked = make_requests(int(count))
    client(url, store, int(count), via).ask(asked, checker(asked))
