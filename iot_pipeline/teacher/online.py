"""Concurrent requests: workers behind an adaptive concurrency limit, each attempt reserved before it is sent."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.chat import send
from iot_pipeline.teacher.replies import Reply, reply_bytes
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.retry import Gate, backoff_s
from iot_pipeline.teacher.retry_state import RetryState
from iot_pipeline.teacher.session import SAVE_EVERY_S, Run
from iot_pipeline.teacher.store.store import Attempt
from iot_pipeline.teacher.tokens import safe_tokens

if TYPE_CHECKING:
    from iot_pipeline.teacher.http import ChatClient
QUIET_S = 0.001  # time without a reply that counts as quiet
LOOK_EVERY_S = 1.0  # interval of checks for a stop, while waiting
START_TOGETHER = 16  # workers; 2 took 0.40 s to open 500 connections, 16 take 0.19 s


class Pool:
    """Workers that share one concurrency limit."""

    def __init__(self, run: Run, client: ChatClient) -> None:
        self.run, self.client, self.teacher = run, client, run.teacher
        self.gate = Gate(run.teacher.concurrency)
        self.till = BudgetReserver(run)
        self.bench = Bench(run)
        self.probing = False  # budget is being reserved for a request that is sent alone

    async def ask(self, feed: Iterator[Request | None]) -> None:
        """Send the requests of `feed` (None: nothing yet); return when all are finished or the run stops."""
        # More than may be in flight: a slot is reused while its former reply is checked or a back-off lasts.
        tasks: list[asyncio.Task[None]] = []
        try:
            # Hundreds of connections opened at once keep a server from answering any of them.
            new: list[asyncio.Task[None]] = []
            while len(tasks) < 2 * self.teacher.concurrency and not any(task.done() for task in new):
                new = [asyncio.create_task(self._worker(feed)) for _ in range(START_TOGETHER)]
                tasks += new
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)
        finally:  # if one fails, stop the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _worker(self, feed: Iterator[Request | None]) -> None:
        try:
            for request in feed:
                if self.run.stop is not None:
                    return
                await (self._one(request) if request is not None else asyncio.sleep(0))
        except UserError as error:
            self.run.stop = self.run.stop or error

    async def _one(self, request: Request) -> None:
        """Send a request until it has a good answer, its limits are reached, or the run stops."""
        tries, price = RetryState(request), self.teacher.price(request.model)
        while True:
            sent = await self._attempt(tries, price)
            if sent is None:
                return
            reply, attempt = sent
            if await self.bench.judge(tries, reply, attempt):
                return
            # Back off even if the server asks for no wait: 100 refusals must not come in one second.
            if reply.kind in ("rate_limit", "transport") and not reply.retry_after_s:
                await asyncio.sleep(backoff_s(self.teacher.backoff_base_s, tries.pauses, self.run.rng))
            if self.run.stop is not None:
                return

    async def _attempt(self, tries: RetryState, price: pricing.Price) -> tuple[Reply, Attempt] | None:
        """Reserve the cost, send, return reply and ledger entry; None if the run stops."""
        await self.gate.enter()
        tokens = 0
        try:
            tokens = await self._in_turn(tries)
            if self.run.stop is not None:
                return None
            # Only now: response_format may have been refused to others while this one waited for its turn.
            tries.request = self.run.shaped(tries.request)
            worst, reservation = 0.0, None
            if price != pricing.FREE:
                worst = pricing.worst_case(price, tries.request, tries.max_tokens)
                reservation = await self._reserve(tries, price, worst)
                if reservation is None:
                    return None
            reply, attempt = await self._exchange(tries, price, worst, reservation)
        finally:
            self.gate.leave()
            if tokens:
                self.teacher.quota.answered(tokens)
        self._learn(reply)
        if reply.fatal:
            self.run.account(attempt)
            self.run.stop = self.run.stop or UserError(reply.fatal)
            return None
        self.run.tried(reply)
        if reply.kind == "answer":
            self.gate.succeeded()
        elif reply.kind in ("rate_limit", "transport"):
            self.gate.on_throttled(reply.retry_after_s)
        return reply, attempt

    async def _exchange(
        self, tries: RetryState, price: pricing.Price, worst: float, reservation: int | None
    ) -> tuple[Reply, Attempt]:
        """Send a request; its reservation is settled even if the key is refused or sending is cancelled."""
        request, started = tries.request, time.monotonic()

        def attempt(reply: Reply) -> Attempt:
            seconds = time.monotonic() - started
            return self.run.attempt_of(request.key, request.model, reply, price, worst, reservation, seconds)

        try:
            reply = await send(self.client, tries.body())
        except UserError:
            self.run.account(attempt(Reply("rejected", "refused by the server")))
            raise
        except BaseException:
            self.run.account(attempt(Reply("transport", "stopped", billed_unknown=True)))
            raise
        if reply.kind == "form":  # before the next request takes this slot
            self.run.without_form()
        return reply, attempt(reply)

    async def _in_turn(self, tries: RetryState) -> int:
        """Wait for the rate limits to admit an attempt; return its tokens, or 0 if the run stops first."""
        tokens = safe_tokens(tries.request) + tries.max_tokens
        while wait := self.teacher.quota.admit(tokens):
            if math.isinf(wait):
                self.run.stop = self.run.stop or UserError(
                    f"a request of {tokens:,} tokens can never be sent within IOT_TEACHER_TPM; raise it."
                )
            if self.run.stop is not None:
                return 0
            await asyncio.sleep(min(wait, LOOK_EVERY_S))
        return tokens

    def _learn(self, reply: Reply) -> None:
        if told := self.teacher.quota.learn(reply.headers):
            self.teacher.report(f"{self.teacher.base_url} tells of its limits, which are kept to: {', '.join(told)}")

    async def _reserve(self, tries: RetryState, price: pricing.Price, worst: float) -> int | None:
        """Reserve budget for an attempt; None, and the run stops, if there is no room for `worst` dollars.

        Until the server has shown that it respects max_tokens, the reservation covers the longest reply that is read: a
        token is at least one byte. If the budget has no room for that, one request is sent alone.
        """
        run, request = self.run, tries.request
        while run.stop is None:
            most = worst
            if not self.teacher.keeps_limit:
                most = pricing.worst_case(price, request, reply_bytes(tries.max_tokens))
            reservation = await self.till.reserve(request, most)
            if reservation is not None:
                return reservation
            if run.reserved == 0 and not self.probing:
                self.probing = True
                try:
                    reservation = await self.till.reserve(request, worst)
                finally:
                    self.probing = False
                if reservation is not None:
                    return reservation
                run.stop = run.budget_error(worst)
                break
            # Requests in flight mostly cost less than was reserved for them: wait for what they release.
            await asyncio.sleep(SAVE_EVERY_S)
        return None


class Bench:
    """Queue of replies to check, one at a time, the oldest first, while no others arrive.

    Each of many simultaneous replies makes room for a next request, and sending those (0.4 ms each) has priority over
    checking (0.2 ms). At most half of the maximum concurrency may wait, since a kill would lose them: beyond that, each
    new reply triggers the check of the oldest.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting: deque[tuple[RetryState, Reply, Attempt, asyncio.Future[bool]]] = deque()
        self._came = self._came_before = 0
        self._looking = False

    async def judge(self, tries: RetryState, reply: Reply, attempt: Attempt) -> bool:
        """Return True if this reply, checked in its turn, finishes the request."""
        loop = asyncio.get_running_loop()
        one = tries, reply, attempt, loop.create_future()
        self._waiting.append(one)
        self._came += 1
        if len(self._waiting) > self.run.teacher.concurrency // 2:
            self._next()
        elif not self._looking:
            self._looking = True
            loop.call_soon(self._look)
        try:
            return await one[3]
        except asyncio.CancelledError:
            if one in self._waiting:  # it is paid for, so it is not dropped
                self._waiting.remove(one)
                self.run.judge(tries, reply, attempt)
            raise

    def _look(self) -> None:
        """Check one reply if no new ones have arrived; look again while there are some."""
        self._looking = bool(self._waiting)
        if not self._looking:
            return
        quiet = self._came == self._came_before
        self._came_before = self._came
        if quiet:
            self._next()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._look) if quiet else loop.call_later(QUIET_S, self._look)

    def _next(self) -> None:
        tries, reply, attempt, judged = self._waiting.popleft()
        try:
            finished = self.run.judge(tries, reply, attempt)
        except Exception as error:
            if not judged.cancelled():
                judged.set_exception(error)
        else:
            if not judged.cancelled():
                judged.set_result(finished)


class BudgetReserver:
    """Reservation of budget, in one transaction for all requests that are sent at the same moment."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting: list[tuple[Request, float, asyncio.Future[int | None]]] = []

    async def reserve(self, request: Request, worst: float) -> int | None:
        """Return the id of a stored reservation; None if the budget has no room for it."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[int | None] = loop.create_future()
        self._waiting.append((request, worst, written))
        if len(self._waiting) == 1:
            loop.call_soon(self._write)  # after all tasks that are about to send now
        try:
            return await written
        except asyncio.CancelledError:
            # Cancelled between reserving and sending: nothing was sent.
            if written.done() and not written.cancelled() and written.exception() is None and written.result():
                source, model, reservation = self.run.teacher.source, request.model, written.result()
                self.run.account(Attempt(request.key, source, model, "not sent", Usage(), 0.0, False, 0.0, reservation))
            raise

    def _write(self) -> None:
        waiting = [one for one in self._waiting if not one[2].done()]
        self._waiting = []
        if not waiting:
            return
        teacher = self.run.teacher
        lines = [(request.key, request.model, worst) for request, worst, _ in waiting]
        try:
            ids = self.run.store.reserve(lines, teacher.source, teacher.budget_usd)
        except UserError as error:
            for _, _, written in waiting:
                written.set_exception(error)
            return
        for (_, _, written), reservation in zip(waiting, ids, strict=True):
            self.run.reserved += reservation is not None
            written.set_result(reservation)
