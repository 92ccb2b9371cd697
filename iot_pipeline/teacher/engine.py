"""The request engine: asks each distinct request once, retries what can be retried, keeps every answer and every cent.

Belongs here: concurrency, limits, retries, budget, the order of keeping and sending. Does not belong here: what is
asked and whether an answer is good (the caller's `check`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.gate import Gate
from iot_pipeline.teacher.ledger import FREE, Price, is_paid, price_of, worst_case
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.store import Attempt, Store

Check = Callable[[Request, str], list[str]]
# A batch of answers is committed at least this often: what a kill can lose is asked again, and was free or cheap.
FLUSH_SECONDS, FLUSH_ANSWERS = 0.1, 100
# Most of the last attempts failing means that the server is down, not that requests are bad.
BREAKER_WINDOW, BREAKER_SHARE = 60, 0.85
SEED_STRIDE = 1_000_003


@dataclass
class Summary:
    """What one call of `ask` did; `usage` and `usd` are of attempts made now."""

    requests: int = 0
    cached: int = 0
    asked: int = 0
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    usd: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self) | {"usage": asdict(self.usage), "outcomes": dict(self.outcomes)}


class Teacher:
    """A teacher behind an OpenAI-compatible `base_url`, with its store. `source` marks whose answers they are.

    Costs are counted by prices.yaml for servers outside this machine and private networks; `budget_usd` caps
    what the store has ever recorded as spent.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        store: Path,
        source: str,
        budget_usd: float | None = None,
        concurrency: int = 64,
        timeout_s: float = 60.0,
        max_attempts: int = 5,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.base_url, self.source = base_url, source
        self.budget_usd, self.concurrency = budget_usd, concurrency
        self.timeout_s, self.max_attempts = timeout_s, max_attempts
        self._api_key, self._store, self._log = api_key, store, log
        self.summary = Summary()

    def ask(
        self, requests: Sequence[Request], check: Check, on_progress: Callable[[Summary], None] | None = None
    ) -> dict[str, Answer]:
        """An answer for each distinct key: from the store, or asked for now, or quarantined with its reasons.

        Stored answers are checked again, so a changed parser costs nothing. Raises UserError where the key is
        refused, the budget is used up or most requests fail; every answer got so far is kept.
        """
        begin = time.monotonic()
        unique = {request.key: request for request in requests}
        self.summary = Summary(requests=len(unique))
        with Store(self._store) as store:
            answers = {a.key: self._judged(a, unique[a.key], check) for a in store.lookup(list(unique), self.source)}
            self.summary.cached = len(answers)
            missing = [request for key, request in unique.items() if key not in answers]
            if missing:
                run = _Run(self, store, check, on_progress)
                answers |= asyncio.run(run.all(missing))
        self.summary.seconds = time.monotonic() - begin
        return {key: answers[key] for key in unique}

    def _judged(self, answer: Answer, request: Request, check: Check) -> Answer:
        """A stored answer under today's check; what the server itself refused or cut off stays as it is."""
        if answer.finish_reason != "stop":
            return answer
        reasons = tuple(check(request, answer.text))
        return replace(answer, status="quarantined" if reasons else "ok", reasons=reasons)

    def price(self, model: str) -> Price:
        """Price of a model at this server; nothing on this machine costs."""
        return price_of(model) if is_paid(self.base_url) else FREE

    def say(self, text: str) -> None:
        """Progress to whoever listens."""
        if self._log:
            self._log(text)


class _Run:
    """One event loop's worth of asking."""

    def __init__(
        self, teacher: Teacher, store: Store, check: Check, on_progress: Callable[[Summary], None] | None
    ) -> None:
        self.teacher, self.store, self.check, self.on_progress = teacher, store, check, on_progress
        self.summary = teacher.summary
        self.gate = Gate(teacher.concurrency)
        self.answers: dict[str, Answer] = {}
        self.attempts: list[Attempt] = []
        self.fresh: list[Answer] = []
        self.recent: deque[bool] = deque(maxlen=BREAKER_WINDOW)
        self.last_error = ""
        self.flushed = self.said = time.monotonic()
        self.begin = self.flushed

    async def all(self, requests: Sequence[Request]) -> dict[str, Answer]:
        """Ask every request; a fixed number of workers take from one iterator, so memory does not grow with it."""
        from openai import AsyncOpenAI, DefaultAioHttpClient

        todo = iter(requests)
        async with AsyncOpenAI(
            base_url=self.teacher.base_url, api_key=self.teacher._api_key, max_retries=0,
            timeout=self.teacher.timeout_s, http_client=DefaultAioHttpClient(timeout=self.teacher.timeout_s),
        ) as self.client:
            workers = [
                asyncio.create_task(self._work(todo, len(requests)))
                for _ in range(min(self.teacher.concurrency, len(requests)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._flush()
        return self.answers

    async def _work(self, todo: Iterator[Request], total: int) -> None:
        for request in todo:
            answer = await self._one(request)
            self.answers[answer.key] = answer
            self.summary.asked += 1
            self.summary.outcomes[answer.reasons[0] if answer.status == "quarantined" else "ok"] += 1
            self._maybe_flush()
            self._progress(total)

    async def _one(self, request: Request) -> Answer:
        """Attempts until an answer passes, cannot pass, or attempts run out."""
        teacher, price = self.teacher, self.teacher.price(request.model)
        limit = int(request.params["max_tokens"])
        usage, cost, raised = Usage(), 0.0, False
        answer = Answer(request.key, "quarantined", "", "none", request.model, teacher.source)
        for number in range(1, teacher.max_attempts + 1):
            await self.gate.enter()
            try:
                outcome, reply, wait, spent, used = await self._attempt(request, price, limit, number)
            finally:
                self.gate.leave()
            usage, cost = usage + used, cost + spent
            if reply is None:
                answer = replace(answer, reasons=(f"no answer: {outcome}",), attempts=number)
                await asyncio.sleep(wait)
                continue
            text, finish, refusal, model = reply
            reasons = self._verdict(request, text, finish, refusal)
            answer = Answer(
                request.key, "quarantined" if reasons else "ok", text, finish, model, teacher.source, usage, cost,
                number, tuple(reasons),
            )
            if not reasons:
                break
            if finish == "length":
                if raised:
                    break  # a higher limit did not help; asking a third time would only cost
                limit, raised = limit * 2, True
        if answer.finish_reason != "none":
            self.fresh.append(answer)  # a server that never answered is asked again by the next run
        return answer

    def _verdict(self, request: Request, text: str, finish: str, refusal: str | None) -> list[str]:
        if refusal:
            return [f"refused: {refusal[:80]}"]
        if finish == "length":
            return ["cut off at the token limit"]
        return self.check(request, text)

    async def _attempt(
        self, request: Request, price: Price, limit: int, number: int
    ) -> tuple[str, tuple[str, str, str | None, str] | None, float, float, Usage]:
        """One request on the wire: (outcome, reply or None, seconds to wait, dollars, usage); all in the ledger."""
        import openai

        reservation = self._reserve(request, price, limit)
        body = request.body() | {"max_tokens": limit}
        if number > 1 and "seed" in body:
            body["seed"] += SEED_STRIDE * (number - 1)  # the same seed would get the same bad answer
        begin, wait, reply, usage = time.monotonic(), 0.0, None, Usage()
        assumed = 0.0
        try:
            done = await self.client.chat.completions.create(**body)
            choice = done.choices[0]
            usage = _usage(done.usage)
            text, finish = choice.message.content or "", choice.finish_reason or "none"
            reply, outcome = (text, finish, choice.message.refusal, done.model), "ok"
            self.gate.succeeded()
        except openai.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise UserError("the teacher's account has no quota left; add credit, then run again") from None
            wait = _retry_after(error.response.headers) or _backoff(number)
            self.gate.throttled(wait)
            outcome = "rate limited"
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(f"{self.teacher.base_url} refused the key (HTTP {error.status_code}); check OPENAI_API_KEY") from None
        except openai.APITimeoutError:
            # The server may have worked, and billed, all the same.
            outcome, wait, assumed = "time-out", _backoff(number), worst_case(price, request, limit)
        except openai.APIConnectionError:
            outcome, wait, assumed = "connection lost", _backoff(number), worst_case(price, request, limit)
        except openai.InternalServerError as error:
            outcome, wait = f"server error {error.status_code}", _backoff(number)
        except openai.APIStatusError as error:
            raise UserError(f"{self.teacher.base_url} refused a request: {error.message[:200]}") from None
        except ValueError as error:
            outcome, wait, assumed = f"malformed reply ({type(error).__name__})", _backoff(number), worst_case(price, request, limit)
        cost = price.cost(usage) if reply else assumed
        self.attempts.append(
            Attempt(request.key, self.teacher.source, request.model, outcome, usage, cost, bool(assumed),
                    time.monotonic() - begin, reservation)
        )
        self.summary.attempts += 1
        self.summary.usage += usage
        self.summary.usd += cost
        self._breaker(outcome)
        return outcome, reply, wait, cost, usage

    def _reserve(self, request: Request, price: Price, limit: int) -> int | None:
        """Set the worst case aside; stops everything where the cap could be passed."""
        if price == FREE:
            return None
        worst = worst_case(price, request, limit)
        reservation = self.store.reserve(
            request.key, self.teacher.source, request.model, worst, self.teacher.budget_usd
        )
        if reservation is None:
            raise UserError(
                f"the budget of ${self.teacher.budget_usd:.2f} is used up (${self.store.spent_usd():.4f} spent, the "
                f"next request may cost ${worst:.4f}); raise IOT_TEACHER_BUDGET_USD to go on, nothing is asked twice"
            )
        return reservation

    def _breaker(self, outcome: str) -> None:
        failed = outcome not in ("ok", "rate limited")
        self.recent.append(failed)
        if failed:
            self.last_error = outcome
        if len(self.recent) == BREAKER_WINDOW and sum(self.recent) > BREAKER_SHARE * BREAKER_WINDOW:
            raise UserError(
                f"{sum(self.recent)} of the last {BREAKER_WINDOW} requests to {self.teacher.base_url} failed "
                f"({self.last_error}); see to the server and run again, nothing is asked twice"
            )

    def _maybe_flush(self) -> None:
        if len(self.fresh) >= FLUSH_ANSWERS or time.monotonic() - self.flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self.store.save(self.attempts, self.fresh)
        self.attempts, self.fresh, self.flushed = [], [], time.monotonic()

    def _progress(self, total: int) -> None:
        now = time.monotonic()
        if now - self.said < 2 and self.summary.asked < total:
            return
        self.said = now
        rate = self.summary.asked / max(now - self.begin, 1e-9)
        left = (total - self.summary.asked) / max(rate, 1e-9)
        bad = self.summary.asked - self.summary.outcomes["ok"]
        self.teacher.say(
            f"{self.summary.asked:,} of {total:,} asked ({self.summary.cached:,} in the store, {bad} quarantined), "
            f"${self.summary.usd:.4f}, {rate:,.0f}/s, {left:.0f} s left"
        )
        if self.on_progress:
            self.on_progress(self.summary)


def _usage(usage: Any) -> Usage:
    """Tokens of a reply; a server that reports none counts as none."""
    if usage is None:
        return Usage()
    details = getattr(usage, "prompt_tokens_details", None)
    cached = (getattr(details, "cached_tokens", 0) or 0) if details else 0
    return Usage(usage.prompt_tokens, cached, usage.completion_tokens)


def _retry_after(headers: Any) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms (seconds, or a date)."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _backoff(number: int) -> float:
    """Exponential with full jitter: at most 0.5, 1, 2, 4, ... 30 s."""
    return random.uniform(0, min(30.0, 0.5 * 2 ** (number - 1)))
