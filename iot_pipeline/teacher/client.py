"""Teacher client: many requests to one server, each answered once, checked, paid once and stored."""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal

from iot_pipeline.flows.download import without_credentials
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch import Batches, BatchLimits
from iot_pipeline.teacher.chat import open_client
from iot_pipeline.teacher.garbage import rarely_interrupted
from iot_pipeline.teacher.online import Pool
from iot_pipeline.teacher.rate_limit import Quota
from iot_pipeline.teacher.request import Answer, Request, Usage, is_embedded
from iot_pipeline.teacher.session import Check, Run, Summary
from iot_pipeline.teacher.signals import run_until_told
from iot_pipeline.teacher.store.database import Location, store_url
from iot_pipeline.teacher.store.store import Store

if TYPE_CHECKING:
    from iot_pipeline.teacher.http import ChatClient

Via = Literal["requests", "batch"]


class Teacher:
    """Client of a teacher behind an OpenAI-compatible URL, with its answer store.

    The ledger stays within the budget as long as each reply bills at most `max_tokens` for its answer and one token per
    byte of its prompt; missing or contradictory usage is booked at that maximum. A reply that bills more is booked as
    billed and stops the run, so that the budget is exceeded by no more than the excess of the replies in flight (Batch
    API: of the open batches). Until an answer has shown that the server respects max_tokens, each request reserves the
    cost of the longest reply that is read; if the budget has no room for that, one request is sent alone, and the
    excess is that of one reply.

    Args:
        base_url: the server's URL, which may contain credentials.
        api_key: key for the server.
        store: location of the answer store.
        source: marks answers in store and provenance (`embedded-<edition>`, or the server's address); answers of one
            source are never given out for another.
        budget_usd: budget for the life of the store; None = no limit.
        concurrency: maximum number of requests in flight.
        timeout_s: time limit of a request.
        max_attempts: failed attempts (server or network) after which a request is given up.
        log: receives progress messages.
        paid: defaults to True for an address outside this machine and its network; a paid model needs a price.
        backoff_base_s: first back-off.
        via: concurrent requests, or the Batch API (half the price, answers within a day).
        batch_limits: limits of the Batch API.
        rpm: requests per minute of concurrent requests; None = only as the server announces.
        tpm: tokens per minute, likewise.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        store: Location,
        source: str,
        budget_usd: float | None,
        concurrency: int = 64,
        timeout_s: float = 60.0,
        max_attempts: int = 5,
        log: Callable[[str], None] | None = None,
        paid: bool | None = None,
        backoff_base_s: float = 0.5,
        via: Via = "requests",
        batch_limits: BatchLimits | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
    ) -> None:
        self._url = base_url  # may contain credentials; never shown
        self.base_url, self.source = without_credentials(base_url), without_credentials(source)
        self.store_url = store_url(store)
        self.budget_usd, self.concurrency, self.timeout_s = budget_usd, concurrency, timeout_s
        self.max_attempts, self.backoff_base_s = max_attempts, backoff_base_s
        self.via, self.batch_limits = via, batch_limits or BatchLimits()
        self.paid = paid if paid is not None else not is_embedded(source) and pricing.is_paid(base_url)
        self._api_key, self._log = api_key, log
        self.quota = Quota(rpm, tpm)  # respected before the server has to refuse
        self.models: list[str] = []  # requested in the latest `ask`
        self.form_refused = False  # the server does not support response_format
        self.keeps_limit = False  # an answer of a paid server has shown that it bills no more than max_tokens
        self.usage_doubted = False  # a report said that the server's usage is not credible
        self.summary = Summary()

    def __repr__(self) -> str:
        return f"Teacher({self.base_url!r}, source={self.source!r})"

    def ask(
        self, requests: Sequence[Request], check: Check, on_progress: Callable[[Summary], None] | None = None
    ) -> dict[str, Answer]:
        """Return the answer to each distinct request, by key; `check` returns the reasons against a text, [] if good.

        Stored answers cost nothing and are checked again, so that a changed check needs no new request. Answers
        quarantined for their content stay so until the check accepts them; requests without an answer are sent again.
        If `check` has an attribute `version`, answers that this version has judged are not checked again.

        Raises UserError if the budget is used up, the key is refused or most requests fail; the answers received until
        then are stored. `self.summary` reports the call.
        """
        answers: dict[str, Answer] = {}
        self.stream(requests, check, lambda answer: answers.update({answer.key: answer}), on_progress)
        return answers

    def stream(
        self,
        requests: Iterable[Request],
        check: Check,
        take: Callable[[Answer], None],
        on_progress: Callable[[Summary], None] | None = None,
    ) -> None:
        """Stream the answers of `ask` in any order, drawing requests as they are needed.

        Of finished requests, only their digests (32 bytes each) stay in memory.

        Args:
            requests: the requests; duplicates are answered once.
            check: returns the reasons against a text, [] if good.
            take: receives each answer once it is stored.
            on_progress: receives the summary from time to time and at the end.
        """
        started = time.monotonic()
        self.summary = summary = Summary()
        self.models = []
        with Store(self.store_url) as store:
            run = Run(self, store, check, take, on_progress, operator.length_hint(requests))
            parts = run.parts(requests)
            try:
                first = next((left for part in parts if (left := run.from_store(part))), None)
                if first:
                    with rarely_interrupted():
                        run_until_told(self._send(run, chain([first], parts)))
            finally:
                summary.seconds = time.monotonic() - started
                usage = Usage(summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens)
                summary.reference_usd = pricing.reference_usd(usage)
        if on_progress is not None:
            on_progress(summary)

    async def _send(self, run: Run, parts: Iterable[list[Request]]) -> None:
        """Send the missing requests, after reading batches of killed processes: those are paid for."""
        client = open_client(
            self._url, self._api_key, self.timeout_s, self.concurrency, local=not pricing.is_paid(self.base_url)
        )
        async with client:
            saver = asyncio.create_task(run.saver())
            try:
                await self._ask(run, client, parts)
            finally:
                saver.cancel()
                await asyncio.gather(saver, return_exceptions=True)
                run.save()
        if run.stop is not None:
            raise run.stop

    async def _ask(self, run: Run, client: ChatClient, parts: Iterable[list[Request]]) -> None:
        batches, pool, again = Batches(run, client), Pool(run, client), False
        while parts and run.stop is None:
            # In every round: a process that we wait for may be killed.
            await batches.take_over()
            missing = run.missing(parts, again)  # looked up lazily: answers from batches are not missing
            if self.via == "batch":
                await batches.ask(missing)
            else:
                await batches.drain()
                run.save()
                await pool.ask(run.ours(missing))
            run.save()
            left, again = await run.wait_for_peers(), True
            parts = [left] if left else []

    def price(self, model: str) -> pricing.Price:
        """Return the price of a model, FREE on an unpaid server; UserError for a paid model without a price."""
        return pricing.price_of(model) if self.paid else pricing.FREE

    def report(self, message: str) -> None:
        """Pass a message to the log, if there is one."""
        if self._log is not None:
            self._log(message)
