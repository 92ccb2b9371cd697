"""The one rule of how often a request is asked: a limit for each cause of trying again, and no cause without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from iot_pipeline.teacher.replies import Reply
from iot_pipeline.teacher.request import Request, Usage

CONTENT_ATTEMPTS = 3  # times an answer may be refused or fail its check
CUT_OFF_ATTEMPTS = 2  # the second one may be twice as long
FORM_ATTEMPTS = 2  # after the first the schema is dropped, so that an error about it is an ordinary refusal
RATE_LIMIT_ATTEMPTS = 100  # a rate limit says nothing about the request, so it hardly counts
# Added to the seed when an answer was bad: a deterministic server would say the same again.
SEED_STEP = 1_000_003


def attempt_limits(max_failures: int) -> Mapping[str, int]:
    """Return the attempt limit of each cause of trying again: the last of so many ends the request."""
    return {
        "answer": CONTENT_ATTEMPTS, "cut off": CUT_OFF_ATTEMPTS, "form": FORM_ATTEMPTS, "rejected": 1,
        "rate_limit": RATE_LIMIT_ATTEMPTS, "transport": max_failures,
    }  # fmt: skip


def most_attempts(max_failures: int) -> int:
    """Return the most attempts that a request ever gets in one run, whatever the server answers in whatever order."""
    return 1 + sum(limit - 1 for limit in attempt_limits(max_failures).values())


class RetryState:
    """How often one request was tried, what the next try says, and when enough is enough."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.usage, self.cost, self.attempts = Usage(), 0.0, 0
        self.causes = Counter[str]()  # of trying again

    @property
    def max_tokens(self) -> int:
        """Longest answer of the next try, tokens."""
        return int(self.request.params["max_tokens"]) * (2 if self.causes["cut off"] else 1)

    @property
    def pauses(self) -> int:
        """Count the failures that the next pause stands for; of rate limits, which say little, up to 6."""
        return self.causes["transport"] + min(self.causes["rate_limit"], 6)

    def body(self) -> dict[str, Any]:
        """The request as the next try sends it."""
        body = self.request.body() | {"max_tokens": self.max_tokens}
        if (bad := self.causes["answer"]) and "seed" in body:
            body["seed"] = (body["seed"] + bad * SEED_STEP) % 2**31
        return body

    def made(self, reply: Reply, usage: Usage, cost: float, good: bool, max_failures: int) -> bool:
        """Count a try; True where it was the last one, because the answer is good or a limit is reached.

        Args:
            reply: what came of it.
            usage: tokens that it took.
            cost: dollars that it took.
            good: True for an answer that nothing speaks against.
            max_failures: times that the server or the network may fail.
        """
        self.attempts, self.usage, self.cost = self.attempts + 1, self.usage + usage, self.cost + cost
        return good or self.again(cause_of(reply), max_failures)

    def again(self, cause: str, max_failures: int) -> bool:
        """Count a cause of trying again; True where its limit is reached."""
        self.causes[cause] += 1
        return self.causes[cause] >= attempt_limits(max_failures)[cause]


def cause_of(reply: Reply) -> str:
    """Return the cause, and so the limit, under which a reply counts that does not end its request."""
    return "cut off" if reply.kind == "answer" and reply.finish_reason == "length" else reply.kind
