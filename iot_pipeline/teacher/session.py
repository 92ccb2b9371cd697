"""One call of `Teacher.stream`: stored answers, claims, costs, and the outcome of each request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from iot_pipeline.errors import BudgetReached, UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.parameters import INSTEAD
from iot_pipeline.teacher.rate_limit import Quota
from iot_pipeline.teacher.redaction import shown_words
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.request import Answer, Request, Status, Usage
from iot_pipeline.teacher.retry import Breaker, RetryState
from iot_pipeline.teacher.store.requests import keep_requests
from iot_pipeline.teacher.store.store import NO_ANSWER, UNCHECKED, Attempt, Reservation, Store, is_verdict
from iot_pipeline.teacher.summary import Summary

Check = Callable[[Request, str], list[str]]
T = TypeVar("T")
SAVE_EVERY_S = 0.05
PROGRESS_EVERY_S = 2.0
LOOK_UP_AT_ONCE = 1000
CLAIM_AT_ONCE = 32  # few, so that processes share the work
FIRST_PEERS_GAP_S, MAX_PEERS_GAP_S = 0.2, 10.0  # another process may be waiting for a batch, for hours


@dataclass
class ServerState:
    """Knowledge of a server from its replies, which later sessions use as well.

    form_refused: it does not support response_format. refused: parameters that it does not take. keeps_limit: an answer
    of a paid server has shown that it bills no more than max_tokens. usage_doubted: a report said that its usage is not
    credible.
    """

    quota: Quota
    form_refused: bool = False
    refused: set[str] = field(default_factory=set)
    keeps_limit: bool = False
    usage_doubted: bool = False


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split items into lists of `size`, drawn as they are needed."""
    feed = iter(items)
    while part := list(islice(feed, size)):
        yield part


def stored_answers(store: Store, source: str, requests: Mapping[str, Request], check: Check) -> dict[str, Answer]:
    """Return stored answers under today's check. Writes nothing.

    Args:
        store: The store of answers.
        source: Source of the answers.
        requests: Requests by key.
        check: Check of an answer's text.
    """
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


@dataclass
class Session:
    """State of one call of `Teacher.stream`, shared by the requests in progress.

    `stop` is the error that ends the call: nothing new is sent once it is set.
    """

    config: TeacherConfig
    server: ServerState
    store: Store
    check: Check  # returns the reasons against a text, [] if good
    on_answer: Callable[[Answer], None]  # receives each answer once it is stored
    on_progress: Callable[[Summary], None] | None = None
    expected: int = 0  # requests, as far as their number is known

    def __post_init__(self) -> None:
        self.check_version = version_of(self.check)
        self.summary, self.models = Summary(), set[str]()
        self.breaker = Breaker()
        self.rng = random.Random()  # jitter only: no content depends on it
        self.reserved = 0  # reservations of this session not yet settled in the store
        self.stop: Exception | None = None
        self._attempts: list[Attempt] = []
        self._finished: list[Answer] = []
        self._peers: list[Request] = []  # claimed by other processes
        self._peers_gap_s = FIRST_PEERS_GAP_S
        self._quarantined: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()

    # -- which requests to send ----------------------------------------------------------------------------

    def distinct(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield each request once; of earlier ones only digests (32 bytes each) stay in memory."""
        seen: set[bytes] = set()
        for request in requests:
            digest = bytes.fromhex(request.key)
            if digest in seen:
                self.expected -= 1
                continue
            seen.add(digest)
            self.models.add(request.model)
            self.summary.requests += 1
            yield request

    def look_up(self, part: Sequence[Request]) -> list[Request]:
        """Give out stored answers; return the requests to send. UserError for a paid model without a price."""
        requests = {request.key: request for request in part}
        keep_requests(self.store, part)
        found: dict[str, Answer] = {}
        judged: list[Answer] = []
        for stored in self.store.lookup(list(requests), self.config.source):
            answer = reuse_stored(stored, requests[stored.key], self.check)
            if answer is None:
                continue
            if stored.reasons == (UNCHECKED,) or (self.check_version and stored.checked != self.check_version):
                answer = replace(answer, checked=self.check_version)
                judged.append(answer)
            found[answer.key] = answer
        if judged:
            self.store.judged(judged)
        for answer in found.values():
            self.give(answer)
        self.summary.asked = self.summary.requests - self.summary.cached
        missing = [request for key, request in requests.items() if key not in found]
        for model in {request.model for request in missing}:
            self.config.price(model)
        return missing

    def claim(self, requests: Sequence[Request]) -> list[Request]:
        """Claim requests for this process; those that others hold are returned by `wait_for_peers`."""
        claimed = self.store.claim([r.key for r in requests], self.config.source) if requests else set()
        self._peers += [request for request in requests if request.key not in claimed]
        return [request for request in requests if request.key in claimed]

    async def wait_for_peers(self) -> list[Request]:
        """Return requests claimed by other processes, after a pause: they may be answered or free by then."""
        peers, self._peers = self._peers, []
        if peers:
            await asyncio.sleep(self._peers_gap_s)
            self._peers_gap_s = min(1.5 * self._peers_gap_s, MAX_PEERS_GAP_S)
        return peers

    def shaped(self, request: Request) -> Request:
        """Return the request as this server accepts it, without a schema if that was refused. The key stays."""
        if self.server.form_refused and request.schema is not None:
            return replace(request, schema=None)
        return request

    # -- attempts ------------------------------------------------------------------------------------------

    def book(self, held: Reservation, reply: Reply, price: pricing.Price, seconds: float = 0.0) -> Attempt:
        """Add an attempt to ledger and summary; a paid reply that breaks a promise stops the session.

        If it may have been billed without our knowledge, its cost is the most it may cost, `held.usd`. A higher cost is
        booked as billed.

        Args:
            held: reservation of the attempt; its id is None on a free server.
            reply: outcome of the attempt.
            price: price of the model.
            seconds: duration of a single request, 0 in a batch.
        """
        usage, outcome, cost = reply.usage or Usage(), reply.outcome, self._cost(held, reply, price)
        if reply.kind == "answer":
            outcome = "refused" if reply.refusal else "cut off" if reply.finish_reason == "length" else "answered"
        self.learn(reply)
        assumed = reply.billed_unknown and cost > 0
        attempt = Attempt(
            held.key, self.config.source, held.model, outcome, usage, cost, assumed, seconds, reservation=held.id
        )
        self._attempts.append(attempt)
        self._outcomes[outcome] += 1
        summary = self.summary
        summary.attempts += 1
        summary.prompt_tokens += usage.prompt
        summary.cached_tokens += usage.cached
        summary.completion_tokens += usage.completion
        summary.usd += cost
        return attempt

    def learn(self, reply: Reply) -> bool:
        """Learn from a refusal what the server does not take, and say so once; True if that was news."""
        server, base_url, news = self.server, self.config.base_url, False
        if reply.kind == "form" and not server.form_refused:
            server.form_refused = news = True  # further requests go without: the prompt describes the format as well
            self.config.report(
                f"{base_url} takes no response_format of type json_schema: it is asked without, the form of answers "
                "is only said in the prompt"
            )
        if reply.parameter and reply.parameter not in server.refused:
            server.refused.add(reply.parameter)
            news, instead = True, INSTEAD.get(reply.parameter, "without it, whatever the prompt settings say")
            self.config.report(f"{base_url} does not take {reply.parameter}: it is asked {instead}")
        return news

    def _cost(self, held: Reservation, reply: Reply, price: pricing.Price) -> float:
        """Return the cost of a reply; a paid one that is too long or above `held.usd` stops the session."""
        server, base_url, broken = self.server, self.config.base_url, ""
        cost = held.usd if reply.billed_unknown else price.cost(reply.usage or Usage())
        if price == pricing.FREE:
            return cost
        if reply.usage_fault and not server.usage_doubted:
            server.usage_doubted = True
            self.config.report(
                f"{base_url} gives no usage that can be believed ({reply.usage_fault}): such answers are booked at the "
                "most they may cost"
            )
        if reply.too_long:
            cost = held.usd + price.cost(Usage(completion=reply.too_long))
            broken = f"a reply of more than {reply.too_long:,} bytes"
        elif cost > held.usd * (1 + 1e-9):
            broken = f"${cost:.4f} billed for a request that may cost ${held.usd:.4f}"
        elif reply.kind == "answer" and reply.usage is not None and reply.usage.completion:
            server.keeps_limit = True
        if broken:
            self.stop = self.stop or UserError(
                f"the teacher at {base_url} does not keep to max_tokens ({broken}), so IOT_TEACHER_BUDGET_USD could "
                "not hold and it was stopped. Answers so far are kept; use a server that keeps to it."
            )
        return cost

    def judge(self, state: RetryState, reply: Reply, attempt: Attempt) -> bool:
        """Judge a reply and, if it was the last attempt, finish the request; True if it is finished."""
        reasons = self._reasons(state.request, reply)
        if reply.kind == "answer" and state.causes["doubt"]:  # the same request, but for the schema
            self.learn(Reply("form", "form of a schema refused"))
        if not state.count(reply, attempt, not reasons):
            return False
        status: Status = "quarantined" if reasons else "ok"
        self._finished.append(
            Answer(
                state.request.key, status, reply.text, reply.finish_reason, reply.model, self.config.source,
                state.usage, state.cost, state.attempts, tuple(reasons), checked=self.check_version,
            )
        )  # fmt: skip
        self.breaker.record(reasons[0] if reasons else None)
        self.stop_if_tripped()
        return True

    def _reasons(self, request: Request, reply: Reply) -> list[str]:
        """Return the reasons against a reply; NO_ANSWER begins those that say nothing of the content."""
        if reply.kind != "answer":
            return [NO_ANSWER + reply.reason]
        if reply.refusal:
            return ["refused"]
        if not reply.text.strip():
            nothing = "cut off before any text" if reply.finish_reason == "length" else "no text"
            return [NO_ANSWER + nothing + (f": {reply.detail}" if reply.detail else "")]
        if reply.finish_reason == "length":
            return ["cut off"]
        return self.check(request, reply.text)

    def keep_unchecked(self, reply: Reply, attempt: Attempt) -> None:
        """Store the text of a reply that this call did not request; it is checked once it is requested."""
        if reply.kind == "answer" and reply.text and not reply.refusal and reply.finish_reason != "length":
            self._finished.append(
                Answer(
                    attempt.key, "quarantined", reply.text, reply.finish_reason, reply.model, attempt.source,
                    attempt.usage, attempt.cost_usd, 1, (UNCHECKED,),
                )
            )  # fmt: skip

    def stop_if_tripped(self) -> None:
        """Stop the session if the breaker has tripped."""
        reason = self.breaker.tripped()
        if reason is not None and self.stop is None:
            told, verdict = shown_words(reason.removeprefix(NO_ANSWER)).rstrip("."), not reason.startswith(NO_ANSWER)
            again = "withdraw the verdicts (`iot-pipeline teacher retry`) and start again" if verdict else "start again"
            self.stop = UserError(
                f"most requests to the teacher at {self.config.base_url} fail, so it was stopped; the most common "
                f"reason: {told}. Answers so far are kept; mend the cause, {again}."
            )

    def stop_for_budget(self, worst: float) -> None:
        """Stop the session: the budget has no room for a request that may cost `worst` dollars."""
        self.stop = BudgetReached(
            f"IOT_TEACHER_BUDGET_USD={self.config.budget_usd} is used up: ${self.store.spent_usd():.4f} spent, and the "
            f"rest is less than the ${worst:.4f} that the next request may cost (or set aside by another process). All "
            "answers so far are kept; raise the budget to go on."
        )

    # -- saving --------------------------------------------------------------------------------------------

    async def save_often(self) -> None:
        """Save in small batches and report progress, until cancelled."""
        begun = reported = time.monotonic()
        before = (-1, -1)
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                self.save()
                if time.monotonic() - reported < PROGRESS_EVERY_S:
                    continue
                self.store.renew()
            except Exception as error:  # an answer that cannot be stored or taken must not be requested
                self.stop = self.stop or error
                continue
            reported, summary = time.monotonic(), self.summary
            if before == (summary.attempts, summary.cached):
                continue  # nothing new: a batch may take hours
            before = summary.attempts, summary.cached
            line = summary.line(reported - begun, self.expected)
            failing = self.breaker.failing()
            self.config.report(f"{line}, no answer: {shown_words(failing)}" if failing else line)
            if self.on_progress is not None:
                self.on_progress(summary)

    def save(self) -> None:
        """Save finished attempts and answers in one transaction, then give the answers out."""
        if not self._attempts:
            return
        self.store.save(self._attempts, finished := self._finished)
        self.reserved -= sum(attempt.reservation is not None for attempt in self._attempts)
        self._attempts, self._finished = [], []
        for answer in finished:
            if answer.reasons != (UNCHECKED,):  # this call asked for it
                self.give(answer)
        self.summary.outcomes = dict(sorted(self._outcomes.items()))

    def give(self, answer: Answer) -> None:
        """Give a final answer out and count it."""
        self.on_answer(answer)
        self.summary.ok += answer.status == "ok"
        self.summary.cached += answer.from_cache
        if answer.reasons:
            self._quarantined[answer.reasons[0].split(":")[0]] += 1
            self.summary.quarantined = dict(sorted(self._quarantined.items()))
