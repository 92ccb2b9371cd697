"""Concurrent requests: each is claimed, reserved, sent and judged, as many at a time as the server allows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.http import ChatClient, open_chat_client
from iot_pipeline.teacher.replies import reply_bytes
from iot_pipeline.teacher.reply import Reply
from iot_pipeline.teacher.request import Request
from iot_pipeline.teacher.retry import LOOK_EVERY_S, AdaptiveLimiter, RetryState, backoff_s
from iot_pipeline.teacher.session import CLAIM_AT_ONCE, LOOK_UP_AT_ONCE, SAVE_EVERY_S, Session, in_parts
from iot_pipeline.teacher.store.store import Attempt, Reservation
from iot_pipeline.teacher.tokens import safe_tokens

# A transaction takes 0.4 ms: at 500 requests a second, one for each would take a fifth of a core.
RESERVE_EVERY_S = 0.004


async def run(session: Session, requests: Iterable[Request]) -> None:
    """Look up, claim and ask `requests`; return when all are finished or the session stops."""
    async with open_chat_client(session.config) as client:
        sender = Sender(session, client)
        try:
            await sender.start(requests)
            while sender.tasks:
                await asyncio.wait(sender.tasks)
        finally:
            for task in sender.tasks:
                task.cancel()
            await asyncio.gather(*sender.tasks, return_exceptions=True)


class Sender:
    """Requests in progress that share a connection pool, the limits of the server and the budget."""

    def __init__(self, session: Session, client: ChatClient) -> None:
        self.session, self.client, self.config = session, client, session.config
        self.limiter = AdaptiveLimiter(session.config.concurrency, lambda: session.stop is not None)
        self.budget = BudgetReserver(session)
        self.tasks: set[asyncio.Task[None]] = set()
        # More than may be in flight: a slot is reused while its former reply is checked or a back-off lasts.
        self.room = asyncio.Semaphore(2 * session.config.concurrency)

    async def start(self, requests: Iterable[Request]) -> None:
        """Start a task for each request that is not stored and that this process claims."""
        session = self.session
        try:
            for part in in_parts(requests, LOOK_UP_AT_ONCE):
                for group in in_parts(session.look_up(part), CLAIM_AT_ONCE):
                    for request in session.claim(group):
                        await self.room.acquire()
                        self.tasks.add(task := asyncio.create_task(self.ask(request)))
                        task.add_done_callback(self._end)
                    # Hundreds of connections opened at once keep a server from answering any of them.
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0)  # many stored parts in a row leave no other moment to save
                if session.stop is not None:
                    return
        except Exception as error:
            session.stop = session.stop or error

    def _end(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.room.release()

    async def ask(self, request: Request) -> None:
        """Send a request until it has a good answer, its limits are reached, or the session stops."""
        session, state = self.session, RetryState(request, self.config.max_attempts)
        try:
            while session.stop is None:
                async with self.limiter:
                    sent = await self._attempt(state)
                if sent is None or session.judge(state, *sent):
                    return
                reply, _ = sent
                # Back off even if the server asks for no wait: 100 refusals must not come in one second.
                if reply.kind in ("rate_limit", "transport") and not reply.retry_after_s:
                    await asyncio.sleep(backoff_s(self.config.backoff_base_s, state.pauses, session.rng))
        except Exception as error:
            session.stop = session.stop or error

    async def _attempt(self, state: RetryState) -> tuple[Reply, Attempt] | None:
        """Reserve the cost, send, and book the reply; None if the session stops before or by it."""
        session, quota = self.session, self.session.server.quota
        tokens = safe_tokens(state.request) + state.max_tokens
        if not await self._is_admitted(tokens):
            return None
        try:
            # Only now: response_format may have been refused to others while this one waited for its turn.
            state.request = session.shaped(state.request)
            price = self.config.price(state.request.model)
            held = await self.budget.reserve(state, price)
            if held is None:
                return None
            reply, attempt = await self._exchange(state, held, price)
        finally:
            quota.answered(tokens)
        if limits := quota.learn(reply.headers):
            self.config.report(f"{self.config.base_url} tells of its limits, which are kept to: {', '.join(limits)}")
        if reply.fatal:
            session.stop = session.stop or UserError(reply.fatal)
            return None
        failed = reply.kind in ("rate_limit", "transport")
        session.breaker.tried(reply.reason if failed else None)
        if failed:
            session.stop_if_tripped()
            self.limiter.on_throttled(reply.retry_after_s)
        elif reply.kind == "answer":
            self.limiter.on_success()
        return reply, attempt

    async def _is_admitted(self, tokens: int) -> bool:
        """Wait for the rate limits to admit an attempt of so many tokens; False if the session stops first."""
        while self.session.stop is None:
            wait = self.session.server.quota.admit(tokens)
            if not wait:
                return True
            if math.isinf(wait):
                raise UserError(f"a request of {tokens:,} tokens can never be sent within IOT_TEACHER_TPM; raise it.")
            await asyncio.sleep(min(wait, LOOK_EVERY_S))
        return False

    async def _exchange(self, state: RetryState, held: Reservation, price: pricing.Price) -> tuple[Reply, Attempt]:
        """Send a request; its reservation is settled even if sending fails or is cancelled."""
        started = time.monotonic()
        try:
            reply = await self.client.send(state.body(self.session.server.refused))
        except BaseException:
            reply = Reply("transport", "stopped", billed_unknown=True)
            self.session.book(held, reply, price, time.monotonic() - started)
            raise
        return reply, self.session.book(held, reply, price, time.monotonic() - started)


class BudgetReserver:
    """Reservation of budget, in one transaction for all requests that are about to be sent within RESERVE_EVERY_S."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._probing = False  # budget is being reserved for a request that is sent alone
        self._waiting: list[tuple[Request, float, asyncio.Future[int | None]]] = []

    async def reserve(self, state: RetryState, price: pricing.Price) -> Reservation | None:
        """Reserve the most that an attempt may cost; None, and the session stops, if the budget has no room for it.

        Until the server has shown that it respects max_tokens, the reservation covers the longest reply that is read: a
        token is at least one byte. If the budget has no room for that, one request is sent alone.
        """
        session, request = self.session, state.request
        if price == pricing.FREE:
            return Reservation(None, request.key, request.model, 0.0)
        worst = pricing.worst_case(price, request, state.max_tokens)
        while session.stop is None:
            most = worst
            if not session.server.keeps_limit:
                most = pricing.worst_case(price, request, reply_bytes(state.max_tokens))
            number = await self._reserve(request, most)
            if number is None and session.reserved == 0 and not self._probing:
                self._probing = True
                try:
                    number = await self._reserve(request, worst)
                finally:
                    self._probing = False
                if number is None and session.reserved == 0:  # others may have got the room within this transaction
                    session.stop_for_budget(worst)
                    return None
            if number is not None:
                return Reservation(number, request.key, request.model, worst)
            # Requests in flight mostly cost less than was reserved for them: wait for what they release.
            await asyncio.sleep(SAVE_EVERY_S)
        return None

    async def _reserve(self, request: Request, usd: float) -> int | None:
        """Return the id of a stored reservation; None if the budget has no room for it."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[int | None] = loop.create_future()
        self._waiting.append((request, usd, written))
        if len(self._waiting) == 1:
            loop.call_later(RESERVE_EVERY_S, self._write)
        try:
            return await written
        except asyncio.CancelledError:
            # Cancelled between reserving and sending: nothing was sent.
            if written.done() and not written.cancelled() and written.exception() is None and written.result():
                held = Reservation(written.result(), request.key, request.model, 0.0)
                self.session.book(held, Reply("transport", "not sent"), pricing.FREE)
            raise

    def _write(self) -> None:
        waiting = [one for one in self._waiting if not one[2].done()]
        self._waiting = []
        if not waiting:
            return
        config = self.session.config
        lines = [(request.key, request.model, usd) for request, usd, _ in waiting]
        try:
            numbers = self.session.store.reserve(lines, config.source, config.budget_usd)
        except Exception as error:  # whatever it is, those who wait must learn of it
            for _, _, written in waiting:
                written.set_exception(error)
            return
        for (_, _, written), number in zip(waiting, numbers, strict=True):
            self.session.reserved += number is not None
            written.set_result(number)
