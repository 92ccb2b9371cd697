"""Requests through the Batch API: waves of requests, each a file that the server processes within a day.

Result lines are matched to requests by custom_id (the request key), never by position. Each step is recorded in the
store before and after it is taken, so that after a kill at any point the next process finds the batches.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch_api import (
    ENDPOINT,
    BatchApi,
    BatchRejectedError,
    RemoteBatch,
    UncertainOutcome,
    line_reply,
    open_batch_api,
)
from iot_pipeline.teacher.redaction import code_of, shown_words
from iot_pipeline.teacher.refusals import read_error
from iot_pipeline.teacher.reply import Asked, Reply
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.retry import RetryState
from iot_pipeline.teacher.session import CLAIM_AT_ONCE, Session, in_parts
from iot_pipeline.teacher.store.batches import Batch, BatchTable
from iot_pipeline.teacher.store.store import Reservation
from iot_pipeline.teacher.tokens import safe_tokens

ENDED = ("completed", "failed", "expired", "cancelled")
RENEW_EVERY_S = 5.0
SAVE_EVERY_LINES = 1000
KEY_DIGITS = 64  # of a request key
MOST_READ = 10  # errors of a failed batch as a whole
LEARNT = ("form", "parameter")  # kinds of refusals after which a request is sent again in another shape


async def run(session: Session, requests: Iterable[Request]) -> None:
    """Look up, claim and ask `requests` in waves; return when all batches are read or the session stops.

    Batches of processes that have ended are read as well. Their answers are stored unchecked; the requests to which
    they belong are claimed by those batches and return from `Session.wait_for_peers`.
    """
    left_behind = BatchTable(session.store).take_over(session.config.source)
    if not left_behind and not requests:
        return
    async with open_batch_api(session.config) as api:
        batches = Batches(session, api)
        for batch in left_behind:
            await batches.resume(batch)
        # Looked up and claimed without a wait in between: an answer may arrive in any.
        parts = in_parts(requests, CLAIM_AT_ONCE)
        feed = (request for part in parts for request in session.claim(session.look_up(part)))
        while session.stop is None:
            wave = batches.next_wave(feed)
            if wave and await batches.send(wave):
                continue
            if batches.open:
                await batches.poll()
            elif not wave:
                return


@dataclass
class OpenBatch:
    """A batch in progress at the server.

    `lines` are those without a result yet; `seen` the keys with one; `billed` the tokens of all results.
    """

    batch: Batch
    lines: dict[str, Reservation]
    gap_s: float
    poll_at: float = field(default_factory=time.monotonic)
    progress: str = ""
    seen: set[str] = field(default_factory=set)
    billed: Usage = field(default_factory=Usage)


class Batches:
    """Batches of one session; it holds only requests that are in a batch or about to be sent."""

    def __init__(self, session: Session, api: BatchApi) -> None:
        self.session, self.api, self.config = session, api, session.config
        self.limits = session.config.batch_limits
        self.table = BatchTable(session.store)
        self.states: dict[str, RetryState] = {}  # of unfinished requests, by key
        self.open: list[OpenBatch] = []
        self.again: deque[RetryState] = deque()  # next to be sent: put back for lack of room, or without a final answer
        self.most_tokens = self.limits.tokens

    async def resume(self, batch: Batch) -> None:
        """Open a batch of a process that has ended; release it if it was never started."""
        if batch.state != "sent":
            # Before its file was uploaded it cannot have been started.
            if (found := await self._found(batch) if batch.state == "uploaded" else None) is None:
                self.table.forget(batch)
                return
            batch = self.table.moved(batch, "sent", found)
        lines = self._opened(batch)
        self.session.reserved += len(lines)
        self.config.report(f"batch {batch.remote_id}: taken over from a run that ended, {len(lines):,} requests")

    def _opened(self, batch: Batch) -> dict[str, Reservation]:
        lines = self.table.lines(batch)
        self.open.append(OpenBatch(batch, lines, self.limits.first_poll_s))
        return lines

    # -- sending -------------------------------------------------------------------------------------------

    def next_wave(self, feed: Iterator[Request]) -> list[RetryState]:
        """Return the next lines within the limits, empty if there are none.

        Empty as well while open batches would cut the wave to less than half of the token limit: many small batches
        take longer than a few large ones.
        """
        room = self.most_tokens - sum(one.batch.tokens for one in self.open)
        wave: list[RetryState] = []
        size = tokens = 0
        while len(wave) < self.limits.requests:
            if self.again:
                state = self.again.popleft()
            elif (request := next(feed, None)) is not None:
                state = self.states[request.key] = RetryState(request, self.config.max_attempts)
            else:
                return wave
            state.request = self.session.shaped(state.request)
            length = len(line_text(state.request.key, state.body(self.session.server.refused)))
            needed = safe_tokens(state.request)
            alone = not wave and not self.open  # a line over the limit is sent alone, or it would never go
            if not alone and (tokens + needed > room or size + length > self.limits.bytes):
                self.again.appendleft(state)
                break
            wave.append(state)
            size, tokens = size + length, tokens + needed
        if self.open and tokens < self.most_tokens / 2 and len(wave) < self.limits.requests:
            self.again.extendleft(reversed(wave))
            return []
        return wave

    async def send(self, wave: list[RetryState]) -> bool:
        """Reserve the budget, upload and start a batch; False if there is no room in the budget."""
        planned = []
        for state in wave:
            price = self.config.price(state.request.model).in_batch()
            worst = pricing.worst_case(price, state.request, state.max_tokens)
            planned.append((state.request.key, state.request.model, worst))
        tokens = [safe_tokens(state.request) for state in wave]
        batch = self.table.plan(planned, self.config.source, tokens, self.config.budget_usd)
        if batch is None:
            self.again.extendleft(reversed(wave))
            if not self.open:
                self.session.stop_for_budget(planned[0][2])
            return False
        self.again.extendleft(reversed(wave[batch.requests :]))
        self.session.reserved += batch.requests
        sent = wave[: batch.requests]
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "input.jsonl"
                with path.open("wb") as file:
                    file.writelines(
                        line_text(state.request.key, state.body(self.session.server.refused)) for state in sent
                    )
                uploaded = await self.api.upload(path, f"{batch.token}.jsonl")
            batch = self.table.moved(batch, "uploaded")
            batch = self.table.moved(batch, "sent", await self._start(batch, uploaded))
        except UserError as error:
            # Started by nobody; in any other state the next run looks for it.
            if batch.state == "planned" or isinstance(error, BatchRejectedError):
                self._forget(batch)
            if not isinstance(error, BatchRejectedError) or not self._learn(error, sent[0]):
                raise
            self.again.extendleft(reversed(sent))
            return True
        self._opened(batch)
        self.session.summary.batches += 1
        self.config.report(f"batch {batch.remote_id}: {batch.requests:,} requests sent")
        return True

    def _learn(self, error: BatchRejectedError, state: RetryState) -> bool:
        """Learn from the refusal of a whole batch; True if it may be sent again in another shape."""
        return self.session.learn(read_error(400, error.said, self._asked(state)))

    async def _start(self, batch: Batch, uploaded: str) -> str:
        """Start a batch exactly once: after a broken connection, look for it before starting it again."""
        for _ in range(self.config.max_attempts):
            try:
                return await self.api.create(uploaded, batch.token)
            except UncertainOutcome:
                if (found := await self._found(batch)) is not None:
                    return found
        raise UserError(
            f"the teacher's server at {self.config.base_url} did not start a batch {self.config.max_attempts} times in "
            "a row; start again later."
        )

    async def _found(self, batch: Batch) -> str | None:
        """Return the id of a batch that may have been started; None if it does not appear within the grace period."""
        until = time.monotonic() + self.limits.orphan_grace_s
        while True:
            await asyncio.sleep(self.config.backoff_base_s)
            found = await self.api.find(batch.token, batch.planned_at)
            if found is not None or time.monotonic() >= until:
                return found

    def _forget(self, batch: Batch) -> None:
        """Forget a batch of which nothing was run; requests that wait to be sent again stay claimed."""
        lines = self.table.lines(batch)
        self.table.forget(batch, lines.keys() & self.states.keys())
        self.session.reserved -= len(lines)

    # -- waiting and reading -------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Wait for the next poll, then read every batch that has ended."""
        wait = min(one.poll_at for one in self.open) - time.monotonic()
        if wait > 0:
            await asyncio.sleep(min(wait, RENEW_EVERY_S))
        self.session.store.renew()
        for one in [one for one in self.open if one.poll_at <= time.monotonic()]:
            remote = await self.api.retrieve(one.batch.remote_id)
            if remote is None or remote.status in ENDED:
                await self._read(one, remote)
                self.open.remove(one)
                continue
            one.gap_s = min(1.5 * one.gap_s, self.limits.poll_s)
            one.poll_at = time.monotonic() + one.gap_s
            counts = remote.request_counts
            done = f"{counts.completed if counts else 0:,} of {one.batch.requests:,} done"
            progress = f"{shown_words(remote.status)}, {done}"
            if progress != one.progress:
                one.progress = progress
                self.config.report(f"batch {one.batch.remote_id}: {progress}")

    async def _read(self, one: OpenBatch, remote: RemoteBatch | None) -> None:
        """Settle every outstanding line of a batch by its result files."""
        if remote is not None and remote.status == "failed":
            return self._failed(one, remote)
        # The queue had room for this batch: after a full queue, waves grow again.
        self.most_tokens = min(self.limits.tokens, 2 * self.most_tokens)
        for file_id in (remote.output_file_id, remote.error_file_id) if remote is not None else ():
            if file_id:
                await self._read_file(one, file_id)
        self._missing(one, remote)
        self.session.save()
        self.table.moved(one.batch, "read")

    async def _read_file(self, one: OpenBatch, file_id: str) -> None:
        """Settle the lines of one file, each key once, with retries; report unusable lines."""
        for attempt in range(1, self.config.max_attempts + 1):
            unusable: list[str] = []
            try:
                async for record in self.api.results(file_id, one.batch.requests):
                    if fault := record if isinstance(record, str) else self._take(one, record):
                        unusable.append(fault)
            except UncertainOutcome as error:
                if attempt == self.config.max_attempts:
                    raise UserError(f"{error}; it is kept at the server, start again to read it.") from error
                await asyncio.sleep(self.config.backoff_base_s)
                continue
            if unusable:
                self.config.report(
                    f"batch {one.batch.remote_id}: {len(unusable):,} lines of its results are unusable "
                    f"({unusable[0]}); requests without a result are asked again"
                )
            return

    def _take(self, one: OpenBatch, record: dict[str, Any]) -> str:
        """Settle one line, unless it is a duplicate, was settled before a kill, or belongs to no request.

        Returns the fault of a line without a request key, else an empty text.
        """
        key = record.get("custom_id")
        if not isinstance(key, str) or len(key) != KEY_DIGITS:
            return "no custom_id of ours"
        if key in one.seen:
            return ""
        reply = line_reply(record, self._asked(self.states.get(key)))
        one.seen.add(key)
        one.billed += reply.usage or Usage()
        line = one.lines.pop(key, None)
        if line is not None:
            self._settle(line, reply)
        if len(one.seen) % SAVE_EVERY_LINES == 0:
            self.session.save()
        return ""

    def _asked(self, state: RetryState | None) -> Asked:
        """Return what error messages need of a request; of one that this session did not ask, the address alone."""
        if state is None:
            return Asked(url=self.config.base_url)
        request = state.request
        return Asked(request.model, self.config.base_url, request.schema is not None, state.sent)

    def _missing(self, one: OpenBatch, remote: RemoteBatch | None) -> None:
        """Settle lines that are in no file; they share the usage that the batch billed beyond its results."""
        count, billed = len(one.lines), one.billed
        started = remote is None or remote.in_progress_at is not None
        total = remote.usage if remote is not None else None
        outcome = "line missing in the batch's results" if remote is not None else "batch gone at the server"
        for number, line in enumerate(one.lines.values()):
            usage = None
            if total is not None:
                # Nearly equal shares, which sum to the whole.
                rest = (total.input_tokens - billed.prompt, total.output_tokens - billed.completion)
                prompt, completion = (max(0, n) // count + (number < max(0, n) % count) for n in rest)
                usage = Usage(prompt, 0, completion)
            self._settle(line, Reply("transport", outcome, usage=usage, billed_unknown=started and usage is None))

    def _failed(self, one: OpenBatch, remote: RemoteBatch) -> None:
        """Settle a failed batch: lines it names are rejected, a full queue delays the others, else all fail.

        Whatever an error says that the server does not take is left out when the lines are sent again.
        """
        errors = (remote.errors.data if remote.errors else None) or ()
        codes = {code_of(error.code) for error in errors} - {""}
        if full := "token_limit_exceeded" in codes:
            self.most_tokens = max(1, min(self.most_tokens, one.batch.tokens) // 2)
            self.config.report(f"batch {one.batch.remote_id}: the queue is full, waves of {self.most_tokens:,} tokens")
        lines = list(one.lines.values())
        named = {error.line: error for error in errors if error.line is not None and 0 < error.line <= len(lines)}
        unnamed = [error for error in errors if error.line is None][:MOST_READ]
        for number, line in enumerate(lines, 1):
            state = self.states.get(line.key)
            asked = self._asked(state)
            learnt = [reply for reply in (error.reply(asked) for error in unnamed) if reply.kind in LEARNT]
            if number in named:
                code, reply = code_of(named[number].code) or "no reason given", named[number].reply(asked)
                if reply.kind not in (*LEARNT, "doubt"):
                    detail = shown_words(named[number].message or "")
                    reply = Reply("rejected", f"rejected by the server ({code})", detail=detail)
                self._settle(line, reply)
            elif learnt:
                self._settle(line, learnt[0])
            elif full and state is not None and state.is_exhausted("rate_limit"):
                self._settle(line, Reply("rate_limit", "queue full at the server"))
            elif named or full:
                if state is not None:
                    self.again.append(state)
            else:
                why = ", ".join(sorted(codes)) or "no reason given"
                reason = shown_words(next((error.message for error in errors if error.message), ""))
                self._settle(line, Reply("transport", f"batch failed ({why[:100]})", detail=reason))
        self.session.save()
        self._forget(one.batch)

    def _settle(self, line: Reservation, reply: Reply) -> None:
        """Finish the request of a line, queue it again, or store a reply that this session did not request."""
        attempt = self.session.book(line, reply, self.config.price(line.model).in_batch())
        state = self.states.get(line.key)
        if state is None:
            self.session.keep_unchecked(reply, attempt)
        elif self.session.judge(state, reply, attempt):
            del self.states[line.key]
        else:
            self.again.append(state)


def line_text(key: str, body: Mapping[str, Any]) -> bytes:
    """Encode a request as a line of the input file."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
