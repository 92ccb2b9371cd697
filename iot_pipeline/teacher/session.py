"""One call of `Teacher.ask`: what is stored, what is ours to ask, what it cost, what came of each request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.replies import Reply
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.retry import Breaker
from iot_pipeline.teacher.retry_state import RetryState
from iot_pipeline.teacher.store.requests import RequestTable
from iot_pipeline.teacher.store.store import NO_ANSWER, UNCHECKED, Attempt, Store, is_verdict

if TYPE_CHECKING:
    from iot_pipeline.teacher.client import Teacher

Check = Callable[[Request, str], list[str]]
SAVE_EVERY_S = 0.05
PROGRESS_EVERY_S = 2.0
PART = 1000  # requests that are looked up at once
CLAIM_BATCH = 32
FIRST_OTHERS_GAP_S, MAX_OTHERS_GAP_S = 0.2, 10.0  # another process may be waiting for a batch, for hours


@dataclass
class Summary:
    """What one call of `ask` did. Tokens and dollars are of the attempts made now, failed ones included."""

    requests: int = 0
    cached: int = 0
    asked: int = 0
    attempts: int = 0
    batches: int = 0
    ok: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    reference_usd: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data; `reference_usd` is what pricing.REFERENCE_MODEL would have cost, not a bill."""
        return asdict(self) | {"reference_model": pricing.REFERENCE_MODEL}

    def failed(self) -> int:
        """Attempts that brought no whole answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "answered")

    def line(self, elapsed_s: float, expected: int = 0) -> str:
        """How far it is, in one line, `elapsed_s` after the first request was sent; `expected` requests at least."""
        known = max(self.requests, expected)
        done = self.ok + sum(self.quarantined.values())
        fresh = done - self.cached
        parts = [
            f"teacher: {done:,} of {known:,} done ({self.cached:,} cached)",
            f"{self.failed():,} attempts failed",
            f"{sum(self.quarantined.values()):,} quarantined",
            f"{self.prompt_tokens + self.completion_tokens:,} tokens",
            f"${self.usd:.4f}",
        ]
        if fresh > 0 and elapsed_s > 0:
            rate = fresh / elapsed_s
            parts += [f"{rate:.1f}/s", f"{(known - done) / rate:,.0f} s left"]
        return ", ".join(parts)


def stored_answers(store: Store, source: str, requests: Mapping[str, Request], check: Check) -> dict[str, Answer]:
    """What need not be asked: stored answers of `source` to `requests` (by key) under today's check. Writes nothing."""
    found = (reuse_stored(stored, requests[stored.key], check) for stored in store.lookup(list(requests), source))
    return {answer.key: answer for answer in found if answer is not None}


def reuse_stored(stored: Answer, request: Request, check: Check) -> Answer | None:
    """A stored answer under today's check; None where the request is to be asked (again)."""
    if not is_verdict(stored):
        return None
    if stored.reasons[:1] in (("refused",), ("cut off",)):
        return stored  # no full text: it stays what it is
    if (version := version_of(check)) and stored.checked == version:
        return stored
    reasons = check(request, stored.text)
    if reasons and stored.reasons == (UNCHECKED,):
        return None  # nobody has asked for a better one yet
    return replace(stored, status="quarantined" if reasons else "ok", reasons=tuple(reasons))


def version_of(check: Check) -> str:
    """The version that a check knows of itself, empty where it knows none."""
    return str(getattr(check, "version", ""))


class Run:
    """The state of one `ask`."""

    def __init__(
        self,
        teacher: Teacher,
        store: Store,
        check: Check,
        take: Callable[[Answer], None],
        on_progress: Callable[[Summary], None] | None,
        expected: int = 0,
    ) -> None:
        self.teacher, self.store, self.check, self.take = teacher, store, check, take
        self.on_progress, self.expected = on_progress, expected
        self.summary = teacher.summary
        self.breaker = Breaker()
        self.rng = random.Random()  # jitter only: no content depends on it
        self.reserved = 0  # reservations of this run that are not settled in the store
        self.stop: Exception | None = None
        self.check_version = version_of(check)
        self.asked = RequestTable(store)
        self._attempts: list[Attempt] = []
        self._finished: list[Answer] = []
        self._unasked: list[Answer] = []
        self._others: list[Request] = []  # asked by another process just now
        self._others_gap_s = FIRST_OTHERS_GAP_S
        self._quarantined: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()

    # -- what is there -------------------------------------------------------------------------------------

    def parts(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Distinct requests, some at a time, so that a run of any length holds few of them."""
        seen: set[bytes] = set()
        feed = iter(requests)
        while some := list(islice(feed, PART)):
            part = []
            for request in some:
                digest = bytes.fromhex(request.key)
                if digest not in seen:
                    seen.add(digest)
                    part.append(request)
            self.teacher.models = sorted({*self.teacher.models, *(request.model for request in part)})
            self.summary.requests += len(part)
            self.expected -= len(some) - len(part)
            yield part

    def from_store(self, part: list[Request]) -> list[Request]:
        """Give out the answers that are there; returns the requests that have to be sent. UserError for one of a paid
        model without a price.
        """
        requests = {request.key: request for request in part}
        self.asked.keep(part)
        found = stored_answers(self.store, self.teacher.source, requests, self.check)
        if self.check_version:
            stale = [answer for answer in found.values() if answer.checked != self.check_version]
            found |= {answer.key: replace(answer, checked=self.check_version) for answer in stale}
            if stale:
                self.store.judged([found[answer.key] for answer in stale])
        self.summary.cached += len(found)
        for answer in found.values():
            self.give(answer)
        left = [request for key, request in requests.items() if key not in found]
        for model in {request.model for request in left}:
            self.teacher.price(model)
        return left

    def missing(self, parts: Iterable[list[Request]], again: bool = False) -> Iterator[Request | None]:
        """What of `parts` has to be sent; None after a part of which nothing has, so that others get their turn.

        again: they were missing before, and are counted as asked already.
        """
        for part in parts:
            left = self.from_store(part)
            self.summary.asked += len(left) - (len(part) if again else 0)
            if not left:
                yield None
            yield from left

    def ours(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        """Those that no other process asks; claimed in small batches, so that two processes share the work."""
        feed = iter(requests)
        while some := list(islice(feed, CLAIM_BATCH)):
            part = [request for request in some if request is not None]
            ours = self.store.claim([request.key for request in part], self.teacher.source) if part else set()
            self._others += [request for request in part if request.key not in ours]
            if not ours:
                yield None
            yield from (request for request in part if request.key in ours)

    async def wait_for_peers(self) -> list[Request]:
        """What was left to other processes, after a moment: it may be answered by then, or free to be asked by us."""
        left, self._others = self._others, []
        if left:
            await asyncio.sleep(self._others_gap_s)
            self._others_gap_s = min(1.5 * self._others_gap_s, MAX_OTHERS_GAP_S)
        return left

    # -- what came of an attempt -----------------------------------------------------------------------------

    def account(self, attempt: Attempt) -> None:
        """Add an attempt to the ledger and the summary."""
        self._attempts.append(attempt)
        self._outcomes[attempt.outcome] += 1
        summary, usage = self.summary, attempt.usage
        summary.attempts += 1
        summary.prompt_tokens += usage.prompt
        summary.cached_tokens += usage.cached
        summary.completion_tokens += usage.completion
        summary.usd += attempt.cost_usd

    def attempt_of(
        self,
        key: str,
        model: str,
        reply: Reply,
        price: pricing.Price,
        worst: float,
        reservation: int | None,
        seconds: float,
    ) -> Attempt:
        """The ledger's line for a reply. What may have been billed without our knowing is counted at its worst; what
        was billed beyond that is counted as it was, and ends the run.
        """
        usage, unknown, outcome = reply.usage or Usage(), reply.billed_unknown, reply.outcome
        cost = worst if unknown else price.cost(usage)
        if reply.kind == "answer":
            outcome = "refused" if reply.refusal else "cut off" if reply.finish_reason == "length" else "answered"
        if price != pricing.FREE:
            cost = self._watch(reply, price, worst, cost)
        return Attempt(
            key, self.teacher.source, model, outcome, usage, cost, unknown and cost > 0, seconds, reservation
        )

    def _watch(self, reply: Reply, price: pricing.Price, worst: float, cost: float) -> float:
        """Return the cost of a paid server's reply; the run stops where that is more than it was allowed to be.

        Args:
            reply: what came.
            price: of the model.
            worst: dollars that the request may cost at most.
            cost: dollars by its usage, or `worst` where that is not known.
        """
        teacher, told = self.teacher, ""
        if reply.usage_fault and not teacher.usage_doubted:
            teacher.usage_doubted = True
            teacher.report(
                f"{teacher.base_url} gives no usage that can be believed ({reply.usage_fault}): such answers are "
                "booked at the most they may cost"
            )
        if reply.too_long:
            cost = worst + price.cost(Usage(completion=reply.too_long))
            told = f"a reply of more than {reply.too_long:,} bytes"
        elif cost > worst * (1 + 1e-9):
            told = f"${cost:.4f} billed for a request that may cost ${worst:.4f}"
        elif reply.kind == "answer" and reply.usage is not None and reply.usage.completion:
            teacher.keeps_limit = True
        if told:
            self.stop = self.stop or UserError(
                f"the teacher at {teacher.base_url} does not keep to max_tokens ({told}), so IOT_TEACHER_BUDGET_USD "
                "could not hold and it was stopped. Answers so far are kept; use a server that keeps to it."
            )
        return cost

    def judge(self, tries: RetryState, reply: Reply, attempt: Attempt) -> bool:
        """Account a try and, where it was the last one, finish the request; True where it is finished."""
        self.account(attempt)
        reasons = self._reasons(tries.request, reply)
        last = tries.made(reply, attempt.usage, attempt.cost_usd, not reasons, self.teacher.max_attempts)
        if reply.kind == "form":
            self.without_form()
            tries.request = self.shaped(tries.request)
        if not last:
            return False
        self._finish(
            Answer(
                tries.request.key,
                "quarantined" if reasons else "ok",
                reply.text,
                reply.finish_reason,
                reply.model,
                self.teacher.source,
                tries.usage,
                tries.cost,
                tries.attempts,
                tuple(reasons),
                checked=self.check_version,
            )
        )
        return True

    def without_form(self) -> None:
        """From now on ask without a schema: the prompt says the form in words as well."""
        if not self.teacher.form_refused:
            self.teacher.form_refused = True
            self.teacher.report(
                f"{self.teacher.base_url} takes no response_format of type json_schema: it is asked without, the form "
                "of answers is only said in the prompt"
            )

    def shaped(self, request: Request) -> Request:
        """The request as this server takes it: without its schema where that was refused. The key stays."""
        return replace(request, schema=None) if self.teacher.form_refused and request.schema is not None else request

    def _reasons(self, request: Request, reply: Reply) -> list[str]:
        """The reasons against a reply; those of one that says nothing of the content begin with NO_ANSWER."""
        if reply.kind != "answer":
            return [NO_ANSWER + reply.told]
        if reply.refusal:
            return ["refused"]
        if not reply.text.strip():
            return [NO_ANSWER + ("cut off before any text" if reply.finish_reason == "length" else "no text")]
        if reply.finish_reason == "length":
            return ["cut off"]
        return self.check(request, reply.text)

    def _finish(self, answer: Answer) -> None:
        self._finished.append(answer)
        self.breaker.record(answer.reasons[0] if answer.reasons else None)
        self._stop_if_tripped()

    def tried(self, reply: Reply) -> None:
        """Note an attempt for the breaker, which also stops what is refused again and again without an end."""
        failed = reply.kind in ("rate_limit", "transport")
        self.breaker.tried(reply.told if failed else None)
        if failed:
            self._stop_if_tripped()

    def _stop_if_tripped(self) -> None:
        reason = self.breaker.tripped()
        if reason is not None and self.stop is None:
            self.stop = UserError(
                f"most requests to the teacher at {self.teacher.base_url} fail, so it was stopped; the most "
                f"common reason: {reason.removeprefix(NO_ANSWER).rstrip('.')}. Answers so far are kept; mend the cause "
                "and start again."
            )

    def keep_unchecked(self, attempt: Attempt, reply: Reply) -> None:
        """Account a try that nobody asked for in this call; its text is kept, and checked when somebody asks."""
        self.account(attempt)
        if reply.kind == "answer" and reply.text and not reply.refusal and reply.finish_reason != "length":
            self._unasked.append(
                Answer(
                    attempt.key,
                    "quarantined",
                    reply.text,
                    reply.finish_reason,
                    reply.model,
                    attempt.source,
                    attempt.usage,
                    attempt.cost_usd,
                    1,
                    (UNCHECKED,),
                )
            )

    # -- saving ----------------------------------------------------------------------------------------------

    async def saver(self) -> None:
        """Save in small batches and report, until cancelled."""
        begun = reported = time.monotonic()
        said = (-1, -1)
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                self.save()
                if renewing := time.monotonic() - reported >= PROGRESS_EVERY_S:
                    self.store.renew()
            except Exception as error:  # what cannot be kept, or taken, must not be asked for
                self.stop = self.stop or error
                continue
            if renewing:
                reported = time.monotonic()
                s = self.summary
                if said == (s.attempts, s.cached):
                    continue  # a batch may take hours: nothing to tell
                said = (s.attempts, s.cached)
                self.teacher.report(s.line(reported - begun, self.expected))
                if self.on_progress is not None:
                    self.on_progress(s)

    def save(self) -> None:
        """Write what is finished to the store."""
        if not self._attempts and not self._finished:
            return
        self.store.save(self._attempts, [*self._finished, *self._unasked])
        finished = self._finished
        self.reserved -= sum(attempt.reservation is not None for attempt in self._attempts)
        self._attempts, self._finished, self._unasked = [], [], []
        for answer in finished:
            self.give(answer)
        self.summary.outcomes = dict(sorted(self._outcomes.items()))

    def give(self, answer: Answer) -> None:
        """Hand a final answer out, and count it."""
        self.take(answer)
        self.summary.ok += answer.status == "ok"
        if answer.reasons:
            self._quarantined[answer.reasons[0].split(":")[0]] += 1
            self.summary.quarantined = dict(sorted(self._quarantined.items()))

    def budget_error(self, worst: float) -> UserError:
        """What to raise where the budget has no room for a request that may cost `worst`."""
        return UserError(
            f"IOT_TEACHER_BUDGET_USD={self.teacher.budget_usd} is used up: ${self.store.spent_usd():.4f} spent, and "
            f"the rest is less than the ${worst:.4f} that the next request may cost (or set aside by another process). "
            "All answers so far are kept; raise the budget to go on."
        )
