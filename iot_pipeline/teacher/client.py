"""Teacher client: many requests to one server, each answered once, checked, paid once and stored."""

from __future__ import annotations

import asyncio
import gc
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from iot_pipeline.teacher import batch, online, pricing
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.rate_limit import Quota
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.session import LOOK_UP_AT_ONCE, Check, ServerState, Session, in_parts
from iot_pipeline.teacher.signals import run_until_stopped
from iot_pipeline.teacher.store.store import Store
from iot_pipeline.teacher.summary import Summary

# Python collects after 700 new objects, fewer than a burst of answers creates; a collection takes 10 to 70 ms, during
# which answers and the requests after them have to wait.
COLLECT_AFTER = 20_000


class Teacher:
    """Client of a teacher behind an OpenAI-compatible URL, with its answer store.

    The ledger stays within the budget as long as each reply bills at most `max_tokens` for its answer and one token per
    byte of its prompt; missing or contradictory usage is booked at that maximum. A reply that bills more is booked as
    billed and stops the run, so that the budget is exceeded by no more than the excess of the replies in flight (Batch
    API: of the open batches). Until an answer has shown that the server respects max_tokens, each request reserves the
    cost of the longest reply that is read; if the budget has no room for that, one request is sent alone, and the
    excess is that of one reply.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config, self.source, self.via = config, config.source, config.via
        self.server = ServerState(Quota(config.rpm, config.tpm))
        self.summary = Summary()
        self.models: list[str] = []  # requested in the latest `ask`

    @property
    def form_refused(self) -> bool:
        """True if the server does not support response_format."""
        return self.server.form_refused

    @property
    def refused(self) -> list[str]:
        """Names of the request parameters that the server does not take."""
        return sorted(self.server.refused)

    def __repr__(self) -> str:
        return f"Teacher({self.config.base_url!r}, source={self.source!r})"

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
        started, expected = time.monotonic(), operator.length_hint(requests)
        with Store(self.config.store) as store:
            session = Session(self.config, self.server, store, check, take, on_progress, expected)
            self.summary = summary = session.summary
            distinct = session.distinct(requests)
            try:
                first = next(
                    (left for part in in_parts(distinct, LOOK_UP_AT_ONCE) if (left := session.look_up(part))), None
                )
                if first:
                    self._run(session, chain(first, distinct))
            finally:
                self.models = sorted(session.models)
                summary.seconds = time.monotonic() - started
                usage = Usage(summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens)
                summary.reference_usd = pricing.reference_usd(usage)
        if on_progress is not None:
            on_progress(summary)

    def _run(self, session: Session, requests: Iterable[Request]) -> None:
        """Send the requests without a stored answer, in an event loop of their own."""
        usual = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, *usual[1:])
        try:
            run_until_stopped(self._ask(session, requests))
        finally:
            gc.set_threshold(*usual)
            gc.unfreeze()

    async def _ask(self, session: Session, requests: Iterable[Request]) -> None:
        saver = asyncio.create_task(session.save_often())
        try:
            while requests and session.stop is None:
                # In every round: batches of killed processes are read first, because they are paid for.
                await batch.run(session, requests if self.via == "batch" else ())
                if self.via == "requests":
                    await online.run(session, requests)
                session.save()
                requests = await session.wait_for_peers()
        finally:
            saver.cancel()
            await asyncio.gather(saver, return_exceptions=True)
            session.save()
        if session.stop is not None:
            raise session.stop
