"""Adaptive concurrency, back-off, pauses that a server asks for, and a circuit breaker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_PAUSE_S = 300.0
MAX_BACKOFF_S = 30.0
BREAKER_WINDOW = 100
BREAKER_MINIMUM = 20
FRUITLESS_S = 600.0  # longer than any per-minute limit lasts


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait in seconds that a server asks for, at most MAX_PAUSE_S; None if it asks for none.

    Read from `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.
    """
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        elif value.strip().replace(".", "", 1).isdigit():
            seconds = float(value)
        else:
            at = parsedate_to_datetime(value)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None  # not a standard format: the ordinary back-off applies
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_PAUSE_S)


def backoff_s(base_s: float, failures: int, rng: random.Random) -> float:
    """Return the back-off, exponential with jitter, after the n-th failure (1, 2, ...) of one request."""
    return min(base_s * 2.0 ** (failures - 1), MAX_BACKOFF_S) * rng.uniform(0.5, 1.0)


class Gate:
    """Adaptive limit of requests in flight: halved when the server throttles, raised after successes.

    It grows fast to half of its value before throttling began, and from there by one per round.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self._fast_until = 0.0
        self._calm = True  # not throttled since the last success
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a free slot and for the end of a pause."""
        while True:
            pause = self._not_before - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self.in_flight < max(1, int(self.limit)):
                self.in_flight += 1
                return
            else:
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                await place

    def leave(self) -> None:
        """Release the slot."""
        self.in_flight -= 1
        free = max(1, int(self.limit)) - self.in_flight
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1

    def succeeded(self) -> None:
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

    def tripped(self) -> str | None:
        """Return the most common reason if it is time to stop, else None."""
        failed = [reason for reason in self._latest if reason is not None]
        if len(self._latest) >= BREAKER_MINIMUM and 2 * len(failed) > len(self._latest):
            return Counter(failed).most_common(1)[0][0]
        waited = time.monotonic() - self._fruitless_since
        if self._fruitless.total() >= BREAKER_MINIMUM and waited >= FRUITLESS_S:
            return f"{self._fruitless.most_common(1)[0][0]}, and no answer for {waited / 60:.0f} minutes"
        return None
