"""The engine: many requests to one teacher, each answered once, checked, paid once and kept.

Belongs here: cache, retries, budget, quarantine, concurrency. Does not belong here: transport, storage, prices.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import ledger
from iot_pipeline.teacher.client import Reply, open_client, send
from iot_pipeline.teacher.limits import Breaker, Gate, backoff_s
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.store import NO_ANSWER, Attempt, Store

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Check = Callable[[Request, str], list[str]]
CONTENT_ATTEMPTS = 3  # times an answer may be refused or fail its check
RATE_LIMIT_ATTEMPTS = 100  # a rate limit says nothing about the request, so it hardly counts
SAVE_EVERY_S = 0.05
PROGRESS_EVERY_S = 2.0
CLAIM_BATCH = 32
OTHERS_EVERY_S = 0.2
# Added to the seed when an answer was bad: a deterministic server would say the same again.
SEED_STEP = 1_000_003


@dataclass
class Summary:
    """What one call of `ask` did. Tokens and dollars are of the attempts made now, failed ones included."""

    requests: int = 0
    cached: int = 0
    asked: int = 0
    attempts: int = 0
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
        """Plain data; `reference_usd` is what ledger.REFERENCE_MODEL would have cost, not a bill."""
        return asdict(self) | {"reference_model": ledger.REFERENCE_MODEL}


class Teacher:
    """A teacher behind an OpenAI-compatible URL, with its store.

    `source` marks every answer in store and provenance ("embedded", or the server's address): answers of one source
    are never given out for another. `budget_usd` is for the life of the store and never passed; None = no limit.
    `paid` defaults to whether the address is outside this machine and its network; a paid model needs a price.
    """

    def __init__(
        self, base_url: str, api_key: str, store: Path, source: str, budget_usd: float | None,
        concurrency: int = 64, timeout_s: float = 60.0, max_attempts: int = 5,
        log: Callable[[str], None] | None = None, paid: bool | None = None, backoff_base_s: float = 0.5,
    ) -> None:
        self.base_url, self.source, self.store_path = base_url, source, store
        self.budget_usd, self.concurrency, self.timeout_s = budget_usd, concurrency, timeout_s
        self.max_attempts, self.backoff_base_s = max_attempts, backoff_base_s
        self.paid = paid if paid is not None else source != "embedded" and ledger.is_paid(base_url)
        self._api_key, self._log = api_key, log
        self.summary = Summary()

    def __repr__(self) -> str:
        return f"Teacher({self.base_url!r}, source={self.source!r})"

    def ask(
        self, requests: Sequence[Request], check: Check, on_progress: Callable[[Summary], None] | None = None,
    ) -> dict[str, Answer]:
        """An answer for each distinct request, by key; `check` gives the reasons against a text, [] if good.

        Stored answers cost nothing and are checked anew, so that a changed check needs no new request; what was
        quarantined for its content stays so until the check accepts it, what got no answer is asked again. A `check`
        with an attribute `version` is not put to an answer that this version has judged already.
        Raises UserError when the budget is used up, the key is refused or most requests fail; what was answered
        until then is stored. `self.summary` tells what was done.
        """
        started = time.monotonic()
        self.summary = summary = Summary()
        with Store(self.store_path) as store:
            run = _Run(self, store, check, on_progress)
            answers, missing = run.from_store({request.key: request for request in requests})
            try:
                if missing:
                    asyncio.run(run.ask(missing, self._api_key, answers))
            finally:
                summary.seconds = time.monotonic() - started
                usage = Usage(summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens)
                summary.reference_usd = ledger.reference_usd(usage)
        if on_progress is not None:
            on_progress(summary)
        return answers

    def report(self, message: str) -> None:
        """Pass a message on."""
        if self._log is not None:
            self._log(message)


class _Run:
    """The state of one `ask`."""

    def __init__(
        self, teacher: Teacher, store: Store, check: Check, on_progress: Callable[[Summary], None] | None
    ) -> None:
        self.teacher, self.store, self.check, self.on_progress = teacher, store, check, on_progress
        self.summary = teacher.summary
        self.gate, self.breaker = Gate(teacher.concurrency), Breaker()
        self.rng = random.Random()  # jitter only: no content depends on it
        self.attempts: list[Attempt] = []
        self.finished: list[Answer] = []
        self.reserved = 0  # reservations of this run that are not settled in the store
        self.stop: UserError | None = None
        self.others: dict[str, Request] = {}  # asked by another process just now
        self.check_version = str(getattr(check, "version", ""))
        self.quarantined: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def from_store(self, requests: dict[str, Request]) -> tuple[dict[str, Answer], list[Request]]:
        """Answers that are there, and the requests that have to be sent."""
        answers: dict[str, Answer] = {}
        for stored in self.store.lookup(list(requests), self.teacher.source):
            if stored.reasons and stored.reasons[0].startswith(NO_ANSWER):
                continue
            answers[stored.key] = self._judged(stored, requests[stored.key])
        if self.check_version:
            stale = [answer for answer in answers.values() if answer.checked != self.check_version]
            answers |= {answer.key: replace(answer, checked=self.check_version) for answer in stale}
            self.store.judged([answers[answer.key] for answer in stale])
        self.summary.requests, self.summary.cached = len(requests), len(answers)
        for answer in answers.values():
            self._count(answer)
        return answers, [request for key, request in requests.items() if key not in answers]

    def _judged(self, stored: Answer, request: Request) -> Answer:
        """A stored answer under today's check; one that is no full text (refused, cut off) stays what it is."""
        if not stored.text or stored.reasons[:1] in (("refused",), ("cut off",)):
            return stored
        if self.check_version and stored.checked == self.check_version:
            return stored
        reasons = self.check(request, stored.text)
        return replace(stored, status="quarantined" if reasons else "ok", reasons=tuple(reasons))

    async def ask(self, requests: list[Request], api_key: str, answers: dict[str, Answer]) -> None:
        """Send `requests` with a fixed number of workers, save in small batches, fill `answers`."""
        teacher = self.teacher
        self.summary.asked = len(requests)
        if teacher.paid:
            for model in sorted({request.model for request in requests}):
                ledger.price_of(model)
        most = min(teacher.concurrency, len(requests))
        client = open_client(
            teacher.base_url, api_key, teacher.timeout_s, most, local=not ledger.is_paid(teacher.base_url)
        )
        async with client:
            saver = asyncio.create_task(self._saver(answers))
            try:
                while requests and self.stop is None:
                    feed = self._ours(requests)
                    await self._all([self._worker(client, feed) for _ in range(most)])
                    self._save(answers)
                    requests = await self._not_answered_by_others(answers)
            finally:
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                self._save(answers)
        if self.stop is not None:
            raise self.stop

    @staticmethod
    async def _all(workers: list[Coroutine[Any, Any, None]]) -> None:
        """Run them to their end; where one fails, the others are stopped and its error is raised."""
        tasks = [asyncio.create_task(worker) for worker in workers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ours(self, requests: list[Request]) -> Iterator[Request]:
        """Those that no other process asks; claimed in small batches, so that two processes share the work."""
        for start in range(0, len(requests), CLAIM_BATCH):
            part = requests[start : start + CLAIM_BATCH]
            ours = self.store.claim([request.key for request in part], self.teacher.source)
            self.others.update({request.key: request for request in part if request.key not in ours})
            yield from (request for request in part if request.key in ours)

    async def _not_answered_by_others(self, answers: dict[str, Answer]) -> list[Request]:
        """Take over what other processes have answered; returns what is free to be asked by us, after a moment."""
        if not self.others:
            return []
        await asyncio.sleep(OTHERS_EVERY_S)
        for stored in list(self.store.lookup(list(self.others), self.teacher.source)):
            if not (stored.reasons and stored.reasons[0].startswith(NO_ANSWER)):
                answers[stored.key] = self._judged(stored, self.others.pop(stored.key))
                self.summary.cached += 1
                self.summary.asked -= 1
                self._count(answers[stored.key])
        left, self.others = list(self.others.values()), {}
        return left

    async def _worker(self, client: AsyncOpenAI, feed: Iterator[Request]) -> None:
        for request in feed:
            if self.stop is not None:
                return
            try:
                answer = await self._one(client, request)
            except UserError as error:
                self.stop = self.stop or error
                return
            if answer is None:
                return
            self.finished.append(answer)
            self.breaker.record(answer.reasons[0] if answer.reasons else None)
            reason = self.breaker.tripped()
            if reason is not None and self.stop is None:
                self.stop = UserError(
                    f"most requests to the teacher at {self.teacher.base_url} fail, so it was stopped; the most "
                    f"common reason: {reason}. Answers so far are kept; mend the cause and start again."
                )

    async def _one(self, client: AsyncOpenAI, request: Request) -> Answer | None:
        """Ask until there is a good answer or the limits are reached; None where the run was stopped before."""
        body, max_tokens = request.body(), int(request.params["max_tokens"])
        price = ledger.price_of(request.model) if self.teacher.paid else ledger.FREE
        usage, cost, attempts = Usage(), 0.0, 0
        bad_answers = failures = limited = 0
        raised = False
        while True:
            sent = await self._attempt(client, request, body, price, max_tokens)
            if sent is None:
                return None
            reply, attempt = sent
            attempts, usage, cost = attempts + 1, usage + attempt.usage, cost + attempt.cost_usd
            reasons = self._reasons(request, reply)
            done = Answer(
                request.key, "quarantined" if reasons else "ok", reply.text, reply.finish_reason, reply.model,
                self.teacher.source, usage, cost, attempts, tuple(reasons), checked=self.check_version,
            )
            if not reasons or reply.kind == "rejected":
                return done
            if reply.kind == "answer" and reply.finish_reason == "length":
                if raised:
                    return done
                raised, max_tokens = True, 2 * max_tokens
                body = body | {"max_tokens": max_tokens}
            elif reply.kind == "answer":
                bad_answers += 1
                if bad_answers >= CONTENT_ATTEMPTS:
                    return done
                if "seed" in body:
                    body = body | {"seed": (body["seed"] + SEED_STEP) % 2**31}
            else:
                failures, limited = failures + (reply.kind == "transport"), limited + (reply.kind == "rate_limit")
                if failures >= self.teacher.max_attempts or limited >= RATE_LIMIT_ATTEMPTS:
                    return done
                if reply.retry_after_s is None:
                    await asyncio.sleep(
                        backoff_s(self.teacher.backoff_base_s, failures + min(limited, 6), self.rng)
                    )
            if self.stop is not None:
                return None

    def _reasons(self, request: Request, reply: Reply) -> list[str]:
        if reply.kind == "rejected":
            return [reply.outcome]
        if reply.kind != "answer":
            return [NO_ANSWER + reply.outcome]
        if reply.refusal:
            return ["refused"]
        if reply.finish_reason == "length":
            return ["cut off"]
        return self.check(request, reply.text)

    async def _attempt(
        self, client: AsyncOpenAI, request: Request, body: dict[str, Any], price: ledger.Price, max_tokens: int
    ) -> tuple[Reply, Attempt] | None:
        """Reserve, send, account; None where the run stops before sending."""
        await self.gate.enter()
        started = time.monotonic()
        try:
            if self.stop is not None:
                return None
            worst, reservation = 0.0, None
            if price != ledger.FREE:
                worst = ledger.worst_case(price, request, max_tokens)
                reservation = await self._reserve(request, worst)
                if reservation is None:
                    return None
            # Also when the key is refused or sending is cancelled: what was reserved must be settled.
            reply = Reply("transport", "stopped", billed_unknown=True)
            try:
                reply = await send(client, body)
            except UserError:
                reply = Reply("rejected", "refused by the server")
                raise
            finally:
                attempt = self._account(request, reply, price, worst, reservation, time.monotonic() - started)
        finally:
            self.gate.leave()
        if reply.kind == "answer":
            self.gate.succeeded()
        elif reply.kind in ("rate_limit", "transport"):
            self.gate.pushed_back(reply.retry_after_s)
        return reply, attempt

    async def _reserve(self, request: Request, worst: float) -> int | None:
        """Set `worst` dollars aside; None, and the run stops, where the budget has no room for it."""
        while self.stop is None:
            cap = self.teacher.budget_usd
            reservation = self.store.reserve(request.key, self.teacher.source, request.model, worst, cap)
            if reservation is not None:
                self.reserved += 1
                return reservation
            if self.reserved == 0:
                self.stop = self._budget_error(worst)
                break
            # Requests in flight mostly cost less than was set aside for them: wait for what they give back.
            await asyncio.sleep(SAVE_EVERY_S)
        return None

    def _account(
        self, request: Request, reply: Reply, price: ledger.Price, worst: float, reservation: int | None,
        seconds: float,
    ) -> Attempt:
        usage, unknown, outcome = reply.usage or Usage(), reply.billed_unknown, reply.outcome
        # What may have been billed without our knowing is counted at its worst: the cap must hold.
        cost = worst if unknown else price.cost(usage)
        if reply.kind == "answer":
            outcome = "refused" if reply.refusal else "cut off" if reply.finish_reason == "length" else "answered"
        attempt = Attempt(
            request.key, self.teacher.source, request.model, outcome, usage, cost, unknown and cost > 0, seconds,
            reservation,
        )
        self.attempts.append(attempt)
        self.outcomes[outcome] += 1
        self.summary.attempts += 1
        self.summary.prompt_tokens += usage.prompt
        self.summary.cached_tokens += usage.cached
        self.summary.completion_tokens += usage.completion
        self.summary.usd += cost
        return attempt

    async def _saver(self, answers: dict[str, Answer]) -> None:
        reported = time.monotonic()
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            self._save(answers)
            if time.monotonic() - reported >= PROGRESS_EVERY_S:
                reported = time.monotonic()
                self.store.renew()
                s = self.summary
                self.teacher.report(
                    f"teacher: {s.ok:,} of {s.requests:,} answered ({s.cached:,} stored before), "
                    f"{sum(s.quarantined.values()):,} quarantined, ${s.usd:.4f}"
                )
                if self.on_progress is not None:
                    self.on_progress(s)

    def _save(self, answers: dict[str, Answer]) -> None:
        if not self.attempts and not self.finished:
            return
        self.store.save(self.attempts, self.finished)
        for answer in self.finished:
            answers[answer.key] = answer
            self._count(answer)
        self.reserved -= sum(attempt.reservation is not None for attempt in self.attempts)
        self.attempts, self.finished = [], []
        self.summary.outcomes = dict(sorted(self.outcomes.items()))

    def _count(self, answer: Answer) -> None:
        self.summary.ok += answer.status == "ok"
        if answer.reasons:
            self.quarantined[answer.reasons[0].split(":")[0]] += 1
            self.summary.quarantined = dict(sorted(self.quarantined.items()))

    def _budget_error(self, worst: float) -> UserError:
        return UserError(
            f"IOT_TEACHER_BUDGET_USD={self.teacher.budget_usd} is used up: ${self.store.spent_usd():.4f} spent, and "
            f"the rest is less than the ${worst:.4f} that the next request may cost (or set aside by another process). "
            "All answers so far are kept; raise the budget to go on."
        )
