"""How hard a server may be pushed: adaptive concurrency, pauses it asks for, and when to give up altogether."""

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
FRUITLESS_S = 600.0  # longer than any limit a minute lasts


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
    except (ValueError, TypeError, OverflowError):
        return None  # not a form the standard knows: the ordinary back-off holds
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_PAUSE_S)


def backoff_s(base_s: float, failures: int, rng: random.Random) -> float:
    """Exponential back-off with jitter after the n-th failure (1, 2, ...) of one request."""
    return min(base_s * 2.0 ** (failures - 1), MAX_BACKOFF_S) * rng.uniform(0.5, 1.0)


class Gate:
    """At most `limit` requests in flight; the limit halves when the server pushes back and grows by success.

    It grows fast to half of what it was before the server pushed back, and from there one by one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self._fast_until = 0.0
        self._calm = True  # no push since the last success
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
        """Additive increase: one more place for each full round; for each success while it grows fast."""
        self._calm = True
        if self.limit < self.most:
            step = 1.0 if self.limit < self._fast_until else 1.0 / self.limit
            self.limit = min(self.most, self.limit + step)

    def on_throttled(self, pause_s: float | None) -> None:
        """Multiplicative decrease, once a second at most: one overload answers many requests at once."""
        now = time.monotonic()
        if now - self._halved_at >= 1.0:
            self._halved_at = now
            if self._calm:  # the first of a burst of refusals says how much was too much
                self._fast_until, self._calm = self.limit / 2, False
            self.limit = max(1.0, self.limit / 2)
        if pause_s is not None:
            self._not_before = max(self._not_before, now + pause_s)


class Breaker:
    """Trips when most of the latest requests ended in quarantine, or when for long no attempt brought an answer."""

    def __init__(self) -> None:
        self._latest: deque[str | None] = deque(maxlen=BREAKER_WINDOW)
        self._fruitless: Counter[str] = Counter()
        self._fruitless_since = 0.0

    def tried(self, failure: str | None) -> None:
        """One attempt, whether or not the request is finished by it: None where it brought an answer."""
        if failure is None:
            self._fruitless.clear()
            return
        if not self._fruitless:
            self._fruitless_since = time.monotonic()
        self._fruitless[failure] += 1

    def record(self, reason: str | None) -> None:
        """One finished request: None where it has an answer."""
        self._latest.append(reason)

    def tripped(self) -> str | None:
        """Why it is time to stop, or None: the most common reason."""
        failed = [reason for reason in self._latest if reason is not None]
        if len(self._latest) >= BREAKER_MINIMUM and 2 * len(failed) > len(self._latest):
            return Counter(failed).most_common(1)[0][0]
        waited = time.monotonic() - self._fruitless_since
        if self._fruitless.total() >= BREAKER_MINIMUM and waited >= FRUITLESS_S:
            return f"{self._fruitless.most_common(1)[0][0]}, and no answer for {waited / 60:.0f} minutes"
        return None
