"""Retries of one request, adaptive concurrency, back-off, and a circuit breaker."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from iot_pipeline.teacher.parameters import without
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.store.store import Attempt

CONTENT_ATTEMPTS = 3  # answers that may be refused or fail their check
CUT_OFF_ATTEMPTS = 2  # the second answer may be twice as long
FORM_ATTEMPTS = 2  # after the first the schema is dropped, so that an error about it is an ordinary refusal
DOUBT_ATTEMPTS = 2  # with a schema, and once without
PARAMETER_ATTEMPTS = 6  # one more than there are parameters to leave out
RATE_LIMIT_ATTEMPTS = 100  # a rate limit says nothing about the request, so it hardly counts
# Added to the seed after a bad answer: a deterministic server would repeat it.
SEED_STEP = 1_000_003
MAX_BACKOFF_S = 30.0
BREAKER_WINDOW = 100
BREAKER_MINIMUM = 20
LOOK_EVERY_S = 1.0  # interval of checks for a stop, while waiting
FRUITLESS_S = 600.0  # longer than any per-minute limit lasts


def attempt_limits(max_failures: int) -> Mapping[str, int]:
    """Return the attempt limit of each retry cause; reaching it ends the request."""
    return {
        "answer": CONTENT_ATTEMPTS, "cut off": CUT_OFF_ATTEMPTS, "doubt": DOUBT_ATTEMPTS, "form": FORM_ATTEMPTS,
        "parameter": PARAMETER_ATTEMPTS,
        "rejected": 1, "rate_limit": RATE_LIMIT_ATTEMPTS, "transport": max_failures,
    }  # fmt: skip


def backoff_s(base_s: float, failures: int, rng: random.Random) -> float:
    """Return the back-off, exponential with jitter, after the n-th failure (1, 2, ...) of one request."""
    return min(base_s * 2.0 ** (failures - 1), MAX_BACKOFF_S) * rng.uniform(0.5, 1.0)


class RetryState:
    """Retry state of one request: attempts so far, parameters of the next one, and when to give up."""

    def __init__(self, request: Request, max_failures: int) -> None:
        self.request, self.limits = request, attempt_limits(max_failures)
        self.usage, self.cost, self.attempts = Usage(), 0.0, 0
        self.causes = Counter[str]()  # retry causes
        self.sent: dict[str, Any] = {}  # the latest body

    @property
    def max_tokens(self) -> int:
        """Longest answer of the next attempt, in tokens."""
        return int(self.request.params["max_tokens"]) * (2 if self.causes["cut off"] else 1)

    @property
    def pauses(self) -> int:
        """Number of failures for the next back-off; rate limits count up to 6."""
        return self.causes["transport"] + min(self.causes["rate_limit"], 6)

    def body(self, refused: Collection[str] = ()) -> dict[str, Any]:
        """Return the request body of the next attempt, without the parameters that the server refused."""
        body = self.request.body() | {"max_tokens": self.max_tokens}
        if (bad := self.causes["answer"]) and "seed" in body:
            body["seed"] = (body["seed"] + bad * SEED_STEP) % 2**31
        body = without(body, refused)
        self.sent = body
        return body

    def count(self, reply: Reply, attempt: Attempt, good: bool) -> bool:
        """Count an attempt; True if it was the last, because the answer is good or a limit is reached."""
        self.attempts += 1
        self.usage += attempt.usage
        self.cost += attempt.cost_usd
        if reply.kind == "doubt":
            self.request = replace(self.request, schema=None)
        cut_off = reply.kind == "answer" and reply.finish_reason == "length"
        return good or self.is_exhausted("cut off" if cut_off else reply.kind)

    def is_exhausted(self, cause: str) -> bool:
        """Count a retry cause; True if its limit is reached."""
        self.causes[cause] += 1
        return self.causes[cause] >= self.limits[cause]


class AdaptiveLimiter:
    """Adaptive limit of requests in flight: halved when the server throttles, raised after successes.

    It grows fast to half of its value before throttling began, and from there by one per round. `async with` waits for
    a slot and for the end of a pause, which a session that has `stopped` does not wait for.
    """

    def __init__(self, most: int, stopped: Callable[[], bool] = lambda: False) -> None:
        self.most, self.stopped = most, stopped
        self.limit = float(most)
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self._fast_until = 0.0
        self._calm = True  # not throttled since the last success
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        while True:
            pause = self._not_before - time.monotonic()
            if pause > 0 and not self.stopped():
                await asyncio.sleep(min(pause, LOOK_EVERY_S))
            elif self.in_flight < max(1, int(self.limit)):
                self.in_flight += 1
                return
            else:
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                await place

    async def __aexit__(self, *error: object) -> None:
        self.in_flight -= 1
        free = max(1, int(self.limit)) - self.in_flight
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1

    def on_success(self) -> None:
        """Raise the limit: by one per full round, or by one per success while it grows fast."""
        self._calm = True
        if self.limit < self.most:
            step = 1.0 if self.limit < self._fast_until else 1.0 / self.limit
            self.limit = min(self.most, self.limit + step)

    def on_throttled(self, pause_s: float | None) -> None:
        """Halve the limit, at most once a second, since one overload refuses many requests; start a pause."""
        now = time.monotonic()
        if now - self._halved_at >= 1.0:
            self._halved_at = now
            if self._calm:  # the first refusal of a burst shows which limit was too high
                self._fast_until, self._calm = self.limit / 2, False
            self.limit = max(1.0, self.limit / 2)
        if pause_s is not None:
            self._not_before = max(self._not_before, now + pause_s)


class Breaker:
    """Circuit breaker for mostly quarantined requests, and for a long time without any answer."""

    def __init__(self) -> None:
        self._latest: deque[str | None] = deque(maxlen=BREAKER_WINDOW)
        self._fruitless: Counter[str] = Counter()
        self._fruitless_since = 0.0

    def tried(self, failure: str | None) -> None:
        """Record one attempt, of a finished request or not; `failure` is None if it brought an answer."""
        if failure is None:
            self._fruitless.clear()
            return
        if not self._fruitless:
            self._fruitless_since = time.monotonic()
        self._fruitless[failure] += 1

    def record(self, reason: str | None) -> None:
        """Record one finished request; `reason` is None if it has an answer."""
        self._latest.append(reason)

    def failing(self) -> str | None:
        """Return the most common failure since the latest answer, None if there is none."""
        return self._fruitless.most_common(1)[0][0] if self._fruitless else None

    def tripped(self) -> str | None:
        """Return the most common reason if it is time to stop, else None."""
        failed = [reason for reason in self._latest if reason is not None]
        if len(self._latest) >= BREAKER_MINIMUM and 2 * len(failed) > len(self._latest):
            return Counter(failed).most_common(1)[0][0]
        waited = time.monotonic() - self._fruitless_since
        if self._fruitless.total() >= BREAKER_MINIMUM and waited >= FRUITLESS_S:
            return f"{self.failing()}, and no answer for {waited / 60:.0f} minutes"
        return None
