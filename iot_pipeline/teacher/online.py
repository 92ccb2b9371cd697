"""Asking by concurrent requests: workers behind an adaptive gate, each attempt reserved before it is sent."""

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
QUIET_S = 0.001  # no reply for so long
LOOK_EVERY_S = 1.0  # for a stop, while waiting
START_TOGETHER = 16  # workers; 2 took 0.40 s to open 500 connections, 16 take 0.19 s


class Pool:
    """Workers that share one gate."""

    def __init__(self, run: Run, client: ChatClient) -> None:
        self.run, self.client, self.teacher = run, client, run.teacher
        self.gate = Gate(run.teacher.concurrency)
        self.till = BudgetReserver(run)
        self.bench = Bench(run)
        self.probing = False  # money is being set aside for a request that goes alone

    async def ask(self, feed: Iterator[Request | None]) -> None:
        """Ask what comes (None: nothing yet); returns when all of it is finished or the run stops."""
        # More than may be in flight: a place is taken again while the answer that left it is judged or a pause lasts.
        tasks: list[asyncio.Task[None]] = []
        try:
            # Hundreds of connections opened at one moment keep a server from answering any of them.
            new: list[asyncio.Task[None]] = []
            while len(tasks) < 2 * self.teacher.concurrency and not any(task.done() for task in new):
                new = [asyncio.create_task(self._worker(feed)) for _ in range(START_TOGETHER)]
                tasks += new
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)
        finally:  # where one fails, the others are stopped
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
        """Ask until there is a good answer or the limits are reached, or the run is stopped."""
        tries, price = RetryState(request), self.teacher.price(request.model)
        while True:
            sent = await self._attempt(tries, price)
            if sent is None:
                return
            reply, attempt = sent
            if await self.bench.judge(tries, reply, attempt):
                return
            # A server that asks for no wait at all gets one all the same: 100 refusals must not come in one second.
            if reply.kind in ("rate_limit", "transport") and not reply.retry_after_s:
                await asyncio.sleep(backoff_s(self.teacher.backoff_base_s, tries.pauses, self.run.rng))
            if self.run.stop is not None:
                return

    async def _attempt(self, tries: RetryState, price: pricing.Price) -> tuple[Reply, Attempt] | None:
        """Reserve, send, say what it cost; None where the run stops before sending."""
        await self.gate.enter()
        tokens = 0
        try:
            tokens = await self._in_turn(tries)
            if self.run.stop is not None:
                return None
            # Only now: the form may have been refused to others while this one waited for its turn.
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
        """Send; what was reserved is settled also where the key is refused or sending is cancelled."""
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
        if reply.kind == "form":  # before the next one takes this place
            self.run.without_form()
        return reply, attempt(reply)

    async def _in_turn(self, tries: RetryState) -> int:
        """Wait until the limits a minute have room for a try; its tokens, or 0 where the run stops before."""
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
        """Set money aside; None, and the run stops, where the budget has no room for `worst` dollars.

        Until the server has shown that it keeps to max_tokens, as much as the longest reply that is read can bill: a
        token is at least one byte. Where the budget has no room for that, one request goes alone.
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
            # Requests in flight mostly cost less than was set aside for them: wait for what they give back.
            await asyncio.sleep(SAVE_EVERY_S)
        return None


class Bench:
    """Judges one reply at a time, the oldest first, when no others come in.

    Of many that come together each makes room for a next request, and sending those (0.4 ms each) goes before judging
    (0.2 ms). No more than half of what may be in flight have to wait, for a kill would lose them: beyond that, each one
    that comes lets the oldest be judged.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting: deque[tuple[RetryState, Reply, Attempt, asyncio.Future[bool]]] = deque()
        self._came = self._came_before = 0
        self._looking = False

    async def judge(self, tries: RetryState, reply: Reply, attempt: Attempt) -> bool:
        """True where the request is finished by this reply."""
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
            if one in self._waiting:  # it is paid for
                self._waiting.remove(one)
                self.run.judge(tries, reply, attempt)
            raise

    def _look(self) -> None:
        """Judge one if it is quiet; look again while there are some."""
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
    """Sets money aside for all requests that are about to be sent at one moment, in one transaction."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting: list[tuple[Request, float, asyncio.Future[int | None]]] = []

    async def reserve(self, request: Request, worst: float) -> int | None:
        """Id of the reservation, which is in the store by then; None where the budget has no room for it."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[int | None] = loop.create_future()
        self._waiting.append((request, worst, written))
        if len(self._waiting) == 1:
            loop.call_soon(self._write)  # after everybody who is about to send at this moment
        try:
            return await written
        except asyncio.CancelledError:
            # Between the reservation and the sending: nothing went out.
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
