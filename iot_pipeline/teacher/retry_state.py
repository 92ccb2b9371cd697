"""Retry policy of a request: every cause of a retry has an attempt limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from iot_pipeline.teacher.replies import Reply
from iot_pipeline.teacher.request import Request, Usage

CONTENT_ATTEMPTS = 3  # answers that may be refused or fail their check
CUT_OFF_ATTEMPTS = 2  # the second answer may be twice as long
FORM_ATTEMPTS = 2  # after the first the schema is dropped, so that an error about it is an ordinary refusal
RATE_LIMIT_ATTEMPTS = 100  # a rate limit says nothing about the request, so it hardly counts
# Added to the seed after a bad answer: a deterministic server would repeat it.
SEED_STEP = 1_000_003


def attempt_limits(max_failures: int) -> Mapping[str, int]:
    """Return the attempt limit of each retry cause; reaching it ends the request."""
    return {
        "answer": CONTENT_ATTEMPTS, "cut off": CUT_OFF_ATTEMPTS, "form": FORM_ATTEMPTS, "rejected": 1,
        "rate_limit": RATE_LIMIT_ATTEMPTS, "transport": max_failures,
    }  # fmt: skip


def most_attempts(max_failures: int) -> int:
    """Return the most attempts that a request can get in one run, whatever the server answers."""
    return 1 + sum(limit - 1 for limit in attempt_limits(max_failures).values())


class RetryState:
    """Retry state of one request: attempts so far, parameters of the next one, and when to give up."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.usage, self.cost, self.attempts = Usage(), 0.0, 0
        self.causes = Counter[str]()  # retry causes

    @property
    def max_tokens(self) -> int:
        """Longest answer of the next attempt, in tokens."""
        return int(self.request.params["max_tokens"]) * (2 if self.causes["cut off"] else 1)

    @property
    def pauses(self) -> int:
        """Number of failures for the next back-off; rate limits count up to 6."""
        return self.causes["transport"] + min(self.causes["rate_limit"], 6)

    def body(self) -> dict[str, Any]:
        """Return the request body of the next attempt."""
        body = self.request.body() | {"max_tokens": self.max_tokens}
        if (bad := self.causes["answer"]) and "seed" in body:
            body["seed"] = (body["seed"] + bad * SEED_STEP) % 2**31
        return body

    def made(self, reply: Reply, usage: Usage, cost: float, good: bool, max_failures: int) -> bool:
        """Count an attempt; True if it was the last, because the answer is good or a limit is reached.

        Args:
            reply: its outcome.
            usage: its tokens.
            cost: its dollars.
            good: True if nothing speaks against the answer.
            max_failures: limit of failures of server or network.
        """
        self.attempts, self.usage, self.cost = self.attempts + 1, self.usage + usage, self.cost + cost
        return good or self.again(cause_of(reply), max_failures)

    def again(self, cause: str, max_failures: int) -> bool:
        """Count a retry cause; True if its limit is reached."""
        self.causes[cause] += 1
        return self.causes[cause] >= attempt_limits(max_failures)[cause]


def cause_of(reply: Reply) -> str:
    """Return the retry cause of a reply, which selects its limit."""
    return "cut off" if reply.kind == "answer" and reply.finish_reason == "length" else reply.kind
