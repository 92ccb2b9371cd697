"""Limits of requests and tokens per minute, configured or announced by the server."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

KINDS = ("requests", "tokens")
UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Bucket:
    """Token bucket of `limit` units per minute, refilled evenly; a full minute's worth may be used at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.per_s, self.left, self.at = limit, limit / 60, float(limit), time.monotonic()

    def wait_s(self, amount: float) -> float:
        """Return the seconds until `amount` is available: 0 = now, infinity = never."""
        self._refill()
        return math.inf if amount > self.limit else max(0.0, (amount - self.left) / self.per_s)

    def announce(self, limit: int, left: int, reset_s: float, away: int) -> None:
        """Adopt the limit that a server announces.

        Args:
            limit: units that the server grants.
            left: units that remain.
            reset_s: seconds until all are available again.
            away: units sent but not answered, which the server may not have counted yet.
        """
        self._refill()
        # reset_s may be rounded up, or mean the end of a day: refill at the rate of `limit` per minute at least.
        self.limit, self.per_s = limit, max(limit / 60, (limit - left) / reset_s if reset_s else 0.0)
        self.left = min(self.left, left - away)

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again."""
        return (self.limit - self.left) / self.per_s

    def _refill(self) -> None:
        now = time.monotonic()
        self.left = min(self.limit, self.left + (now - self.at) * self.per_s)
        self.at = now


class Quota:
    """Rate limits that were configured (None = none) and those that the server announces."""

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self.buckets = {kind: Bucket(limit) for kind, limit in zip(KINDS, (rpm, tpm), strict=True) if limit is not None}
        self.announced: dict[str, Bucket] = {}
        self._away = dict.fromkeys(KINDS, 0)  # admitted, not answered yet

    def admit(self, tokens: int) -> float:
        """Admit a request of `tokens` and return 0, or return the seconds after which it may try again.

        Infinity if it exceeds a configured limit; one that exceeds an announced limit is left to the server to judge.
        """
        amounts = {"requests": 1, "tokens": tokens}
        needed = [(bucket, amounts[kind]) for kind, bucket in self.buckets.items()]
        needed += [(bucket, min(amounts[kind], bucket.limit)) for kind, bucket in self.announced.items()]
        wait = max((bucket.wait_s(amount) for bucket, amount in needed), default=0.0)
        if wait == 0:
            for bucket, amount in needed:
                bucket.left -= amount
            self._count(1, tokens)
        return wait

    def answered(self, tokens: int) -> None:
        """Record that an admitted request of `tokens` is over."""
        self._count(-1, -tokens)

    def _count(self, requests: int, tokens: int) -> None:
        self._away["requests"] += requests
        self._away["tokens"] += tokens

    def headers(self) -> dict[str, str]:
        """Return x-ratelimit-* headers for the configured limits at this moment."""
        found = {}
        for kind, bucket in self.buckets.items():
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.left)))
            found[f"x-ratelimit-reset-{kind}"] = duration(bucket.reset_s)
        return found

    def learn(self, headers: Mapping[str, str]) -> list[str]:
        """Adopt limits in the x-ratelimit-* headers of an answer; return descriptions of newly announced ones."""
        found = []
        for kind in KINDS:
            limit, left = (whole(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
            if limit is None or left is None or not 0 <= left <= limit or limit == 0:
                continue
            if kind not in self.announced:
                self.announced[kind] = Bucket(limit)
                found.append(f"{limit:,} {kind}")
            reset_s = seconds_of(headers.get(f"x-ratelimit-reset-{kind}", ""))
            self.announced[kind].announce(limit, left, reset_s, self._away[kind])
        return found


def duration(seconds: float) -> str:
    """Format seconds as the API does: `250ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:g}s"


def seconds_of(duration: str) -> float:
    """Parse a duration of that format into seconds; 0 if it is invalid."""
    if PIECE.sub("", duration).strip():
        return 0.0
    return sum(float(number) * UNIT_S[unit] for number, unit in PIECE.findall(duration))


def whole(text: str | None) -> int | None:
    """Parse a whole number; None if the text is not one."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
