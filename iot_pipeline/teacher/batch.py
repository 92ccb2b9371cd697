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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch_api import ENDPOINT, BatchApi, RemoteBatch, Unsure, line_reply
from iot_pipeline.teacher.redaction import code_of, shown_words
from iot_pipeline.teacher.replies import Asked, Reply
from iot_pipeline.teacher.request import Request, Usage
from iot_pipeline.teacher.retry_state import RetryState
from iot_pipeline.teacher.session import Run
from iot_pipeline.teacher.store.batches import Batch, BatchTable, Line
from iot_pipeline.teacher.tokens import safe_tokens

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ENDED = ("completed", "failed", "expired", "cancelled")
RENEW_EVERY_S = 5.0
SAVE_EVERY_LINES = 1000
KEY_DIGITS = 64  # of a request key


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the server. `tokens` is the most that may be enqueued at once, over all batches.

    `orphan_grace_s`: time after a kill in which a batch may still appear at the server.
    """

    requests: int = 50_000
    bytes: int = 200_000_000
    tokens: int = 2_000_000
    first_poll_s: float = 1.0
    poll_s: float = 60.0
    orphan_grace_s: float = 30.0


@dataclass
class Open:
    """A batch in progress at the server."""

    batch: Batch
    lines: dict[str, Line]
    gap_s: float
    poll_at: float = field(default_factory=time.monotonic)
    said: str = ""


@dataclass
class Reading:
    """Progress of reading a batch: lines without a result, keys with one, tokens of all results."""

    left: dict[str, Line]
    seen: set[str] = field(default_factory=set)
    billed: Usage = field(default_factory=Usage)


class Batches:
    """Batches of one run; it holds only requests that are in a batch or about to be sent."""

    def __init__(self, run: Run, client: AsyncOpenAI) -> None:
        teacher = run.teacher
        self.run, self.teacher, self.limits = run, teacher, teacher.batch_limits
        self.table = BatchTable(run.store)
        self.api = BatchApi(client, teacher.base_url, teacher.max_attempts, teacher.backoff_base_s)
        self.tries: dict[str, RetryState] = {}  # of unfinished requests, by key
        self.unasked: set[str] = set()  # keys answered by a batch that was taken over, before this run drew them
        self.open: list[Open] = []
        self.again: deque[RetryState] = deque()  # next to be sent: put back for lack of room, or without a final answer
        self.most_tokens = self.limits.tokens

    async def take_over(self) -> None:
        """Take over batches of processes that have ended; release those that were never started."""
        for batch in self.table.take_over(self.teacher.source):
            if batch.state != "sent":
                found = await self._started(batch)
                if found is None:
                    self.table.forget(batch)
                    continue
                batch = self.table.moved(batch, "sent", found)
            lines = self.table.lines(batch)
            self.run.reserved += len(lines)
            self.open.append(Open(batch, lines, self.limits.first_poll_s))
            self.teacher.report(f"batch {batch.remote_id}: taken over from a run that ended, {len(lines):,} requests")

    async def _started(self, batch: Batch) -> str | None:
        """Return the id of a batch whose start was not confirmed; None if it was never started."""
        if batch.state == "planned":
            return None  # its upload was not confirmed, so it was not started
        await asyncio.sleep(max(0.0, batch.planned_at + self.limits.orphan_grace_s - self.run.store.database.now()))
        return await self.api.find(batch.token, batch.planned_at)

    async def drain(self) -> None:
        """Read all open batches as they end; nothing new is sent."""
        while self.open:
            await self._poll()
        self.again.clear()

    async def ask(self, requests: Iterator[Request | None]) -> None:
        """Send `requests` that this process claims, as there is room; return when all are finished or the run stops."""
        ours = self.run.ours(None if request is None or self._held(request) else request for request in requests)
        feed = (request for request in ours if request is not None)
        try:
            while self.run.stop is None:
                wave, tokens, more = self._wave(feed)
                if wave and await self._send(wave, tokens):
                    continue
                if not self.open:
                    if wave or more:
                        continue
                    return
                await self._poll()
        except UserError as error:
            self.run.stop = self.run.stop or error

    def _held(self, request: Request) -> bool:
        """Return True if a batch that was taken over holds this request or has brought a good answer to it."""
        if any(request.key in one.lines for one in self.open):
            self.tries[request.key] = RetryState(request)
            return True
        if request.key not in self.unasked or self.run.from_store([request]):
            return False
        self.run.summary.asked -= 1  # counted as missing before
        return True

    # -- sending -------------------------------------------------------------------------------------------

    def _wave(self, feed: Iterator[Request]) -> tuple[list[RetryState], list[int], bool]:
        """Return the next lines within the limits, their tokens, and False if there are no more lines.

        Empty while open batches would cut the wave to less than half of the token limit: many small batches take longer
        than a few large ones.
        """
        room = self.most_tokens - sum(one.batch.tokens for one in self.open)
        wave: list[RetryState] = []
        tokens: list[int] = []
        size = 0
        while len(wave) < self.limits.requests:
            tries = self.again.popleft() if self.again else self._next(feed)
            if tries is None:
                return wave, tokens, False
            tries.request = self.run.shaped(tries.request)
            length = len(line_text(tries))
            needed = safe_tokens(tries.request)
            alone = not wave and not self.open  # a line over the limit is sent alone, or it would never go
            if not alone and (needed > room or size + length > self.limits.bytes):
                self.again.appendleft(tries)
                break
            wave.append(tries)
            tokens.append(needed)
            size, room = size + length, room - needed
        if self.open and sum(tokens) < self.most_tokens / 2 and len(wave) < self.limits.requests:
            self.again.extendleft(reversed(wave))
            return [], [], True
        return wave, tokens, True

    def _next(self, feed: Iterator[Request]) -> RetryState | None:
        request = next(feed, None)
        if request is None:
            return None
        self.tries[request.key] = RetryState(request)
        return self.tries[request.key]

    async def _send(self, wave: list[RetryState], tokens: list[int]) -> bool:
        """Reserve the budget, upload and start a batch; False if there is no room in the budget."""
        planned = [(t.request.key, t.request.model, self._worst(t)) for t in wave]
        batch = self.table.plan(planned, self.teacher.source, tokens, self.teacher.budget_usd)
        if batch is None:
            self.again.extendleft(reversed(wave))
            if not self.open:
                self.run.stop = self.run.budget_error(planned[0][2])
            return False
        self.again.extendleft(reversed(wave[batch.requests :]))
        self.run.reserved += batch.requests
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "input.jsonl"
                with path.open("wb") as file:
                    file.writelines(line_text(tries) for tries in wave[: batch.requests])
                uploaded = await self.api.upload(path, f"{batch.token}.jsonl")
            batch = self.table.moved(batch, "uploaded")
            batch = self.table.moved(batch, "sent", await self._start(batch, uploaded))
        except UserError:
            if batch.state == "planned":  # not started; in any other state the next run looks for it
                self._forget(batch, batch.requests)
            raise
        self.open.append(Open(batch, self.table.lines(batch), self.limits.first_poll_s))
        self.run.summary.batches += 1
        self.teacher.report(f"batch {batch.remote_id}: {batch.requests:,} requests sent")
        return True

    async def _start(self, batch: Batch, uploaded: str) -> str:
        """Start a batch exactly once: after a broken connection, look for it before starting it again."""
        for _ in range(self.teacher.max_attempts):
            try:
                return await self.api.create(uploaded, batch.token)
            except Unsure:
                if (found := await self._found(batch)) is not None:
                    return found
        raise UserError(
            f"the teacher's server at {self.teacher.base_url} did not start a batch {self.teacher.max_attempts} times "
            "in a row; start again later."
        )

    async def _found(self, batch: Batch) -> str | None:
        """Return the id of a batch that may have been started; None if it does not appear within the grace period."""
        until = time.monotonic() + self.limits.orphan_grace_s
        while True:
            await asyncio.sleep(self.teacher.backoff_base_s)
            found = await self.api.find(batch.token, batch.planned_at)
            if found is not None or time.monotonic() >= until:
                return found

    def _forget(self, batch: Batch, lines: int) -> None:
        self.table.forget(batch)
        self.run.reserved -= lines

    def _worst(self, tries: RetryState) -> float:
        return pricing.worst_case(self.teacher.price(tries.request.model).in_batch(), tries.request, tries.max_tokens)

    # -- waiting and reading ---------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Wait for the next poll, then read every batch that has ended."""
        wait = min(one.poll_at for one in self.open) - time.monotonic()
        if wait > 0:
            await asyncio.sleep(min(wait, RENEW_EVERY_S))
        self.run.store.renew()
        for one in [one for one in self.open if one.poll_at <= time.monotonic()]:
            remote = await self.api.retrieve(one.batch.remote_id)
            if remote is None or remote.status in ENDED:
                await self._read(one, remote)
                self.open.remove(one)
                continue
            one.gap_s = min(1.5 * one.gap_s, self.limits.poll_s)
            one.poll_at = time.monotonic() + one.gap_s
            counts = remote.request_counts
            done = f"{shown_words(remote.status)}, {counts.completed if counts else 0:,} of {one.batch.requests:,} done"
            if done != one.said:
                one.said = done
                self.teacher.report(f"batch {one.batch.remote_id}: {done}")

    async def _read(self, one: Open, remote: RemoteBatch | None) -> None:
        """Settle every outstanding line of a batch by its result files."""
        if remote is not None and remote.status == "failed":
            return self._failed(one, remote)
        # The queue had room for this batch: after a full queue, waves grow again.
        self.most_tokens = min(self.limits.tokens, 2 * self.most_tokens)
        reading = Reading(dict(one.lines))
        for file_id in (remote.output_file_id, remote.error_file_id) if remote is not None else ():
            if file_id:
                await self._read_file(one.batch, file_id, reading)
        self._missing(reading, remote)
        self.run.save()
        self.table.moved(one.batch, "read")

    async def _read_file(self, batch: Batch, file_id: str, reading: Reading) -> None:
        """Settle the lines of one file, each key once, with retries; report unusable lines."""
        for attempt in range(1, self.teacher.max_attempts + 1):
            unusable: list[str] = []
            try:
                async for record in self.api.results(file_id, batch.requests):
                    if fault := record if isinstance(record, str) else self._take(record, reading):
                        unusable.append(fault)
            except Unsure as error:
                if attempt == self.teacher.max_attempts:
                    raise UserError(f"{error}; it is kept at the server, start again to read it.") from error
                await asyncio.sleep(self.teacher.backoff_base_s)
                continue
            if unusable:
                self.teacher.report(
                    f"batch {batch.remote_id}: {len(unusable):,} lines of its results are unusable ({unusable[0]}); "
                    "requests without a result are asked again"
                )
            return

    def _take(self, record: dict[str, object], reading: Reading) -> str:
        """Settle one line, unless it is a duplicate, was settled before a kill, or belongs to no request.

        Returns the fault of a line without a request key, else an empty text.
        """
        key = record.get("custom_id")
        if not isinstance(key, str) or len(key) != KEY_DIGITS:
            return "no custom_id of ours"
        if key in reading.seen:
            return ""
        request = self.tries[key].request if key in self.tries else None
        reply = line_reply(record, self._asked(request))
        reading.seen.add(key)
        reading.billed += reply.usage or Usage()
        line = reading.left.pop(key, None)
        if line is not None:
            self._settle(line, reply)
        if len(reading.seen) % SAVE_EVERY_LINES == 0:
            self.run.save()
        return ""

    def _asked(self, request: Request | None) -> Asked:
        if request is None:
            return Asked(url=self.teacher.base_url)
        return Asked(request.model, self.teacher.base_url, request.schema is not None)

    def _missing(self, reading: Reading, remote: RemoteBatch | None) -> None:
        """Settle lines that are in no file; they share the usage that the batch billed beyond its results."""
        left, billed = reading.left, reading.billed
        started = remote is None or remote.in_progress_at is not None
        total = remote.usage if remote is not None else None
        for number, line in enumerate(left.values()):
            usage = None
            if total is not None:
                prompt = max(0, total.input_tokens - billed.prompt)
                completion = max(0, total.output_tokens - billed.completion)
                usage = Usage(_part(prompt, len(left), number), 0, _part(completion, len(left), number))
            outcome = "line missing in the batch's results" if remote is not None else "batch gone at the server"
            self._settle(line, Reply("transport", outcome, usage=usage, billed_unknown=started and usage is None))

    def _failed(self, one: Open, remote: RemoteBatch) -> None:
        """Settle a failed batch: lines it names are rejected, a full queue delays the others, else all fail."""
        errors = remote.errors.data if remote.errors else ()
        codes = {code_of(error.code) for error in errors} - {""}
        if full := "token_limit_exceeded" in codes:
            self.most_tokens = max(1, min(self.most_tokens, one.batch.tokens) // 2)
            self.teacher.report(f"batch {one.batch.remote_id}: the queue is full, waves of {self.most_tokens:,} tokens")
        lines = list(one.lines.values())
        named = {error.line: error for error in errors if error.line is not None and 0 < error.line <= len(lines)}
        for number, line in enumerate(lines, 1):
            tries = self.tries.get(line.key)
            if number in named:
                code, said = code_of(named[number].code) or "no reason given", named[number].message or ""
                self._settle(line, Reply("rejected", f"rejected by the server ({code})", detail=shown_words(said)))
            elif full and tries is not None and tries.again("rate_limit", self.teacher.max_attempts):
                self._settle(line, Reply("rate_limit", "queue full at the server"))
            elif named or full:
                if tries is not None:
                    self.again.append(tries)
            else:
                why = ", ".join(sorted(codes)) or "no reason given"
                said = shown_words(next((error.message for error in errors if error.message), ""))
                self._settle(line, Reply("transport", f"batch failed ({why[:100]})", detail=said))
        self.run.save()
        self._forget(one.batch, len(self.table.lines(one.batch)))

    def _settle(self, line: Line, reply: Reply) -> None:
        """Finish the request of a line, queue it again, or store a reply that this run did not request."""
        price = self.teacher.price(line.model).in_batch()
        attempt = self.run.attempt_of(line.key, line.model, reply, price, line.usd, line.reservation, 0.0)
        tries = self.tries.get(line.key)
        if tries is None:
            self.unasked.add(line.key)
            self.run.keep_unchecked(attempt, reply)
        elif self.run.judge(tries, reply, attempt):
            del self.tries[line.key]
        else:
            self.again.append(tries)


def line_text(tries: RetryState) -> bytes:
    """Encode a request as a line of the input file."""
    line = {"custom_id": tries.request.key, "method": "POST", "url": ENDPOINT, "body": tries.body()}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _part(whole: int, parts: int, number: int) -> int:
    """Return the number-th of `parts` nearly equal shares, which sum to `whole`."""
    return whole // parts + (number < whole % parts)
