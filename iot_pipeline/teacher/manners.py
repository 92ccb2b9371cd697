"""How the embedded server behaves when it behaves well: how long answers take, how much it takes on a minute.

Belongs here: pace and limits as the real API keeps them. Does not belong here: misbehaviour (faults.py), HTTP
(server.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Manners:
    """Seconds, and limits (None = no limit): requests and tokens a minute, tokens in batches at once.

    hang_seconds: how long the fault `timeout` hangs. json_schema: 0 = answers in the form of a schema are refused, as
    servers do that do not know them.
    """

    answer_seconds: float = 0.0
    hang_seconds: float = 600.0
    batch_seconds: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    enqueued_tokens: int | None = None
    json_schema: int = 1


class Bucket:
    """`limit` units a minute, refilled evenly; a full minute's worth may go at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.left, self.at = limit, float(limit), time.monotonic()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there: 0 = now, infinity = never."""
        now = time.monotonic()
        self.left = min(self.limit, self.left + (now - self.at) * self.limit / 60)
        self.at = now
        if amount > self.limit:
            return math.inf
        return max(0.0, (amount - self.left) * 60 / self.limit)

    @property
    def reset_s(self) -> float:
        """Seconds until it is full again."""
        return (self.limit - self.left) * 60 / self.limit


class Quota:
    """The limits a minute; what has none has no headers either."""

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        given = {"requests": rpm, "tokens": tpm}
        self.buckets = {name: Bucket(limit) for name, limit in given.items() if limit is not None}

    def admit(self, tokens: int) -> float:
        """Take one request of so many tokens on and return 0, or the seconds after which it may come again."""
        needed = {"requests": 1, "tokens": tokens}
        wait = max((bucket.wait_s(needed[name]) for name, bucket in self.buckets.items()), default=0.0)
        if wait == 0:
            for name, bucket in self.buckets.items():
                bucket.left -= needed[name]
        return wait

    def headers(self) -> dict[str, str]:
        """x-ratelimit-* as they are at this moment."""
        found = {}
        for name, bucket in self.buckets.items():
            found[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.left)))
            found[f"x-ratelimit-reset-{name}"] = duration(bucket.reset_s)
        return found


def retry_headers(wait: float) -> Mapping[str, str]:
    """Retry-After in both units; none where waiting does not help."""
    if math.isinf(wait):
        return {}
    return {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}


def duration(seconds: float) -> str:
    """Seconds as the API writes them: `250ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:g}s"
