"""State of one `Teacher.ask`: stored answers, claims, costs and the outcome of each request."""

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
PART = 1000  # requests looked up at once
CLAIM_BATCH = 32
FIRST_OTHERS_GAP_S, MAX_OTHERS_GAP_S = 0.2, 10.0  # another process may be waiting for a batch, for hours


@dataclass
class Summary:
    """Summary of one call of `ask`. Tokens and dollars are of the attempts made now, failed ones included."""

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
        """Return plain data; `reference_usd` is what pricing.REFERENCE_MODEL would have cost, not a bill."""
        return asdict(self) | {"reference_model": pricing.REFERENCE_MODEL}

    def failed(self) -> int:
        """Count attempts that brought no complete answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "answered")

    def line(self, elapsed_s: float, expected: int = 0) -> str:
        """Format the progress in one line, `elapsed_s` after the first request; `expected` requests at least."""
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
    """Return stored answers of `source` to `requests` (by key) under today's check. Writes nothing."""
    found = (reuse_stored(stored, requests[stored.key], check) for stored in store.lookup(list(requests), source))
    return {answer.key: answer for answer in found if answer is not None}


def reuse_stored(stored: Answer, request: Request, check: Check) -> Answer | None:
    """Return a stored answer under today's check; None if the request has to be sent (again)."""
    if not is_verdict(stored):
        return None
    if stored.reasons[:1] in (("refused",), ("cut off",)):
        return stored  # no full text to check
    if (version := version_of(check)) and stored.checked == version:
        return stored
    reasons = check(request, stored.text)
    if reasons and stored.reasons == (UNCHECKED,):
        return None  # no better one has been requested yet
    return replace(stored, status="quarantined" if reasons else "ok", reasons=tuple(reasons))


def version_of(check: Check) -> str:
    """Return the version of a check, empty if it has none."""
    return str(getattr(check, "version", ""))


class Run:
    """State of one call of `ask`."""

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
        self.reserved = 0  # reservations of this run not yet settled in the store
        self.stop: Exception | None = None
        self.check_version = version_of(check)
        self.asked = RequestTable(store)
        self._attempts: list[Attempt] = []
        self._finished: list[Answer] = []
        self._unasked: list[Answer] = []
        self._others: list[Request] = []  # claimed by other processes
        self._others_gap_s = FIRST_OTHERS_GAP_S
        self._quarantined: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()

    def parts(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Yield distinct requests in parts of PART, so that a run of any length holds few of them."""
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
        """Give out stored answers; return the requests to send. UserError for a paid model without a price."""
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
        """Yield requests of `parts` that have to be sent; None after a part without any, so that others get a turn.

        again: they were missing before, and are already counted.
        """
        for part in parts:
            left = self.from_store(part)
            self.summary.asked += len(left) - (len(part) if again else 0)
            if not left:
                yield None
            yield from left

    def ours(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        """Yield requests that this process claims, in small batches to share the work; None if a batch has none."""
        feed = iter(requests)
        while some := list(islice(feed, CLAIM_BATCH)):
            part = [request for request in some if request is not None]
            ours = self.store.claim([request.key for request in part], self.teacher.source) if part else set()
            self._others += [request for request in part if request.key not in ours]
            if not ours:
                yield None
            yield from (request for request in part if request.key in ours)

    async def wait_for_peers(self) -> list[Request]:
        """Return requests claimed by other processes, after a pause: they may be answered or free by then."""
        left, self._others = self._others, []
        if left:
            await asyncio.sleep(self._others_gap_s)
            self._others_gap_s = min(1.5 * self._others_gap_s, MAX_OTHERS_GAP_S)
        return left

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
        """Return the ledger entry of a reply that took `seconds`.

        If it may have been billed without our knowledge, the cost is `worst` dollars. A higher cost is booked as
        billed, and stops the run.
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
        """Return the cost of a paid reply; stop the run if it is too long or costs more than `worst` dollars."""
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
        """Account an attempt and, if it was the last, finish the request; True if it is finished."""
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
        """Drop the schema from further requests: the prompt describes the format as well."""
        if not self.teacher.form_refused:
            self.teacher.form_refused = True
            self.teacher.report(
                f"{self.teacher.base_url} takes no response_format of type json_schema: it is asked without, the form "
                "of answers is only said in the prompt"
            )

    def shaped(self, request: Request) -> Request:
        """Return the request as this server accepts it, without a schema if that was refused. The key stays."""
        return replace(request, schema=None) if self.teacher.form_refused and request.schema is not None else request

    def _reasons(self, request: Request, reply: Reply) -> list[str]:
        """Return the reasons against a reply; NO_ANSWER begins those that say nothing of the content."""
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
        """Record an attempt for the breaker, which also stops endless refusals."""
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
        """Account an attempt not requested by this call; its text is stored and checked once requested."""
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

    async def saver(self) -> None:
        """Save in small batches and report progress, until cancelled."""
        begun = reported = time.monotonic()
        said = (-1, -1)
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                self.save()
                if renewing := time.monotonic() - reported >= PROGRESS_EVERY_S:
                    self.store.renew()
            except Exception as error:  # an answer that cannot be stored or taken must not be requested
                self.stop = self.stop or error
                continue
            if renewing:
                reported = time.monotonic()
                s = self.summary
                if said == (s.attempts, s.cached):
                    continue  # nothing new: a batch may take hours
                said = (s.attempts, s.cached)
                self.teacher.report(s.line(reported - begun, self.expected))
                if self.on_progress is not None:
                    self.on_progress(s)

    def save(self) -> None:
        """Save finished attempts and answers, then give the answers out."""
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
        """Give a final answer out and count it."""
        self.take(answer)
        self.summary.ok += answer.status == "ok"
        if answer.reasons:
            self._quarantined[answer.reasons[0].split(":")[0]] += 1
            self.summary.quarantined = dict(sorted(self._quarantined.items()))

    def budget_error(self, worst: float) -> UserError:
        """Return the error for a budget without room for a request that may cost `worst` dollars."""
        return UserError(
            f"IOT_TEACHER_BUDGET_USD={self.teacher.budget_usd} is used up: ${self.store.spent_usd():.4f} spent, and "
            f"the rest is less than the ${worst:.4f} that the next request may cost (or set aside by another process). "
            "All answers so far are kept; raise the budget to go on."
        )
