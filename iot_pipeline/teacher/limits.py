"""How hard a server may be pushed: adaptive concurrency, pauses it asks for, and when to give up altogether.

Belongs here: the gate, back-off, the circuit breaker. Does not belong here: requests and answers (engine.py).
"""

from __future__ import annotations

import asyncio
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


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date."""
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
    except ValueError:
        return None  # not a form the standard knows: the ordinary back-off holds
    return min(max(seconds, 0.0), MAX_PAUSE_S)


def backoff_s(base_s: float, failures: int, rng: random.Random) -> float:
    """Exponential back-off with jitter after the n-th failure (1, 2, ...) of one request."""
    return min(base_s * 2.0 ** (failures - 1), MAX_BACKOFF_S) * rng.uniform(0.5, 1.0)


class Gate:
    """At most `limit` requests in flight; the limit halves when the server pushes back and grows by success."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a free place and for the end of a pause."""
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
        """Give the place back."""
        self.in_flight -= 1
        free = max(1, int(self.limit)) - self.in_flight
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1

    def succeeded(self) -> None:
        """Additive increase: one more place for each full round."""
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + 1.0 / self.limit)

    def pushed_back(self, pause_s: float | None) -> None:
        """Multiplicative decrease, once a second at most: one overload answers many requests at once."""
        now = time.monotonic()
        if now - self._halved_at >= 1.0:
            self._halved_at = now
            self.limit = max(1.0, self.limit / 2)
        if pause_s is not None:
            self._not_before = max(self._not_before, now + pause_s)


class Breaker:
    """Trips when most of the latest requests ended in quarantine."""

    def __init__(self) -> None:
        self._latest: deque[str | None] = deque(maxlen=BREAKER_WINDOW)

    def record(self, reason: str | None) -> None:
        """One finished request: None where it has an answer."""
        self._latest.append(reason)

    def tripped(self) -> str | None:
        """The most common reason where more than half of the latest requests failed, else None."""
        failed = [reason for reason in self._latest if reason is not None]
        if len(self._latest) < BREAKER_MINIMUM or 2 * len(failed) <= len(self._latest):
            return None
        return Counter(failed).most_common(1)[0][0]
