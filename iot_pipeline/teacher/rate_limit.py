"""Limits a minute: requests and tokens that may be sent, ours and those that a server tells of."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Mapping

KINDS = ("requests", "tokens")
UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Bucket:
    """`limit` units a minute, refilled evenly; a full minute's worth may go at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.per_s, self.left, self.at = limit, limit / 60, float(limit), time.monotonic()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there: 0 = now, infinity = never."""
        self._refill()
        return math.inf if amount > self.limit else max(0.0, (amount - self.left) / self.per_s)

    def told(self, limit: int, left: int, reset_s: float, away: int) -> None:
        """Take over what a server says: how much it gives out, has left, and when it will have it all again.

        away: what was sent and is not answered, which the server may not have seen yet.
        """
        self._refill()
        # A server's seconds may be rounded up, or end a day: it is asked again after a minute's share all the same.
        self.limit, self.per_s = limit, max(limit / 60, (limit - left) / reset_s if reset_s else 0.0)
        self.left = min(self.left, left - away)

    @property
    def reset_s(self) -> float:
        """Seconds until it is full again."""
        return (self.limit - self.left) / self.per_s

    def _refill(self) -> None:
        now = time.monotonic()
        self.left = min(self.limit, self.left + (now - self.at) * self.per_s)
        self.at = now


class Quota:
    """The limits that were set (None = none), and those of a server that tells of its own."""

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self.buckets = {kind: Bucket(limit) for kind, limit in zip(KINDS, (rpm, tpm), strict=True) if limit is not None}
        self.told: dict[str, Bucket] = {}
        self._away = Counter[str]()  # admitted, and not answered yet

    def admit(self, tokens: int) -> float:
        """Take one request of so many tokens on and return 0, or the seconds after which it may come again.

        Infinity for more than a limit that was set; what is more than a server tells of, the server may judge itself.
        """
        amounts = {"requests": 1, "tokens": tokens}
        needed = [(bucket, amounts[kind]) for kind, bucket in self.buckets.items()]
        needed += [(bucket, min(amounts[kind], bucket.limit)) for kind, bucket in self.told.items()]
        wait = max((bucket.wait_s(amount) for bucket, amount in needed), default=0.0)
        if wait == 0:
            for bucket, amount in needed:
                bucket.left -= amount
            self._away.update(amounts)
        return wait

    def answered(self, tokens: int) -> None:
        """A request that was admitted with so many tokens is over."""
        self._away.subtract({"requests": 1, "tokens": tokens})

    def headers(self) -> dict[str, str]:
        """x-ratelimit-* of the limits that were set, as they are at this moment."""
        found = {}
        for kind, bucket in self.buckets.items():
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.left)))
            found[f"x-ratelimit-reset-{kind}"] = duration(bucket.reset_s)
        return found

    def learn(self, headers: Mapping[str, str]) -> list[str]:
        """Keep to the x-ratelimit-* headers of an answer; what is told of for the first time, in words."""
        found = []
        for kind in KINDS:
            limit, left = (whole(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
            if limit is None or left is None or not 0 <= left <= limit or limit == 0:
                continue
            if kind not in self.told:
                self.told[kind] = Bucket(limit)
                found.append(f"{limit:,} {kind}")
            reset_s = seconds_of(headers.get(f"x-ratelimit-reset-{kind}", ""))
            self.told[kind].told(limit, left, reset_s, self._away[kind])
        return found


def duration(seconds: float) -> str:
    """Seconds as the API writes them: `250ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:g}s"


def seconds_of(duration: str) -> float:
    """The seconds of such a text; 0 where it is none."""
    if PIECE.sub("", duration).strip():
        return 0.0
    return sum(float(number) * UNIT_S[unit] for number, unit in PIECE.findall(duration))


def whole(text: str | None) -> int | None:
    """A whole number, or None."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
