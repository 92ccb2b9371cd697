"""The engine: many requests to one teacher, each answered once, checked, paid once and kept."""

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
    """A teacher behind an OpenAI-compatible URL, with its store.

    `source` marks every answer in store and provenance ("embedded-<edition>", or the server's address): answers of one
    source are never given out for another. `budget_usd` is for the life of the store and never passed; None = no limit.
    `paid` defaults to whether the address is outside this machine and its network; a paid model needs a price.
    `rpm`, `tpm`: requests and tokens a minute that concurrent requests keep to; None = what the server tells of.
    `via`: concurrent requests, or the Batch API (half the price, answers within a day).

    The ledger never passes the cap while each reply bills at most `max_tokens` for its answer and a token a byte for
    its prompt; usage that is missing or contradicts itself is booked at that most. A reply that bills more breaks the
    server's promise: it is booked as billed and the run stops, so that the cap is passed by no more than the excess of
    the replies in flight at that moment (by Batch: of the open batches). Until an answer has shown that the server
    keeps to it, each request sets aside what a reply of the longest size that is read can bill; where the budget has
    no room for that, one request goes alone, and the excess is that of one reply.
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
        self._url = base_url  # with its credentials, if it has any; never shown
        self.base_url, self.source = without_credentials(base_url), without_credentials(source)
        self.store_url = store_url(store)
        self.budget_usd, self.concurrency, self.timeout_s = budget_usd, concurrency, timeout_s
        self.max_attempts, self.backoff_base_s = max_attempts, backoff_base_s
        self.via, self.batch_limits = via, batch_limits or BatchLimits()
        self.paid = paid if paid is not None else not is_embedded(source) and pricing.is_paid(base_url)
        self._api_key, self._log = api_key, log
        self.quota = Quota(rpm, tpm)  # kept before the server has to say no
        self.models: list[str] = []  # of the latest `ask`
        self.form_refused = False  # the server does not know response_format
        self.keeps_limit = False  # an answer of a paid server has shown that it bills no more than max_tokens
        self.usage_doubted = False  # it was said that usage cannot be believed
        self.summary = Summary()

    def __repr__(self) -> str:
        return f"Teacher({self.base_url!r}, source={self.source!r})"

    def ask(
        self, requests: Sequence[Request], check: Check, on_progress: Callable[[Summary], None] | None = None
    ) -> dict[str, Answer]:
        """An answer for each distinct request, by key; `check` gives the reasons against a text, [] if good.

        Stored answers cost nothing and are checked anew, so that a changed check needs no new request; what was
        quarantined for its content stays so until the check accepts it, what got no answer is asked again. A `check`
        with an attribute `version` is not put to an answer that this version has judged already.
        Raises UserError when the budget is used up, the key is refused or most requests fail; what was answered
        until then is stored. `self.summary` tells what was done.
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
        """As `ask`, but requests are drawn as they are needed and each answer is handed to `take` once it is stored, in
        no particular order: memory stays the same however many there are.
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
        """Ask for what is missing; batches that a killed process left behind are read first, they are paid for."""
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
            # Also while we wait for others: they may be killed then.
            await batches.take_over()
            missing = run.missing(parts, again)  # looked up as it is drawn: what the batches brought is not
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
        """What a model costs here; UserError for a paid one without a price."""
        return pricing.price_of(model) if self.paid else pricing.FREE

    def report(self, message: str) -> None:
        """Pass a message on."""
        if self._log is not None:
            self._log(message)
