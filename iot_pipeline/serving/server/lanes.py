"""One model thread behind all requests: classes in batches over requests, explanations between them.

Requests wait in two lanes. Flows of many requests are classified together, up to a number of tokens; a request of many
flows goes in parts, so that small ones come in between. While an explanation is written, classes are scored between its
tokens: it delays them by a token, not by an answer. Models are not used by two threads at once, because they are
changed for the time of a call (models/last_layer.py).
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd

from iot_pipeline.errors import UserError
from iot_pipeline.flows.rows import Row, RowReader
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.server.known import Verdicts
from iot_pipeline.serving.server.limits import Limits, Refusal, busy
from iot_pipeline.serving.units import Unit, Units

MOST_FAULTS = 10  # rows whose fault a refusal tells
# Share of the time of an explanation that classes may take before it goes on.
LABELS_PER_TOKEN_TIME = 3.0
FORGET = 0.2  # of the rate of flows that the last batch replaces


class Observer(Protocol):
    """Receiver of what the model thread does."""

    def batch(self, lane: str, flows: int, seconds: float) -> None:
        """Note a batch that is done."""

    def waiting(self, lane: str, flows: int) -> None:
        """Note the flows that wait in a lane."""

    def looked_up(self, flows: int) -> None:
        """Note flows whose verdict was known."""


@dataclass(eq=False)
class Classes:
    """Request for the classes of rows; `frames` are their features, as far as they were read.

    `stated`: True if the request states the units, and they are not the service's default.
    """

    rows: Sequence[Row]
    units: Unit
    stated: bool
    future: asyncio.Future[Classified]
    taken: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)


@dataclass(frozen=True)
class Classified:
    """Flows with their verdicts."""

    flows: pd.DataFrame
    verdicts: list[Verdict]


@dataclass(eq=False)
class Explanations:
    """Request for the explanations of flows."""

    asked: Classified
    future: asyncio.Future[list[Verdict]]


class Abandoned(Exception):
    """Nobody waits for an explanation any more."""


class ModelThread:
    """The thread that uses a classifier, and the two lanes before it."""

    def __init__(
        self, verdicts: Verdicts, reader: RowReader, units: Units, limits: Limits, flow_tokens: int, observer: Observer
    ) -> None:
        """Prepare the thread.

        Args:
            verdicts: The classifier, and what is known of its verdicts.
            reader: Reader of rows, for this thread alone.
            units: Units in which rows may be given.
            limits: Limits of batches and queues.
            flow_tokens: Tokens of one flow, by which batches are cut.
            observer: Told of batches and of flows that wait.
        """
        self.limits, self.observer = limits, observer
        self.batch_flows = max(1, limits.batch_tokens // max(1, flow_tokens))
        self._verdicts, self._reader, self._units = verdicts, reader, units
        self._labels: deque[Classes] = deque()
        self._explanations: deque[Explanations] = deque()
        self._waiting = {"classes": 0, "explanations": 0}
        self._rates = {"classes": 100.0, "explanations": 2.0}  # flows a second
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, wait_s: float) -> bool:
        """End the thread after the batch at hand; return False if it still runs after `wait_s` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """True if the thread can answer."""
        return self._thread.is_alive() and not self._stopped

    async def classify(self, rows: Sequence[Row], units: Unit, stated: bool = False) -> Classified:
        """Classify rows; Refusal for rows that are no flows or contradict their units, and where too many wait."""
        self._admit("classes", len(rows), self.limits.queue_flows)
        request = Classes(rows, units, stated, asyncio.get_running_loop().create_future())
        return await self._wait("classes", len(rows), self._labels, request)

    async def explain(self, asked: Classified) -> list[Verdict]:
        """Return the verdicts with their explanations; Refusal where too many wait."""
        if all(verdict.explanation is not None for verdict in asked.verdicts):
            return asked.verdicts
        self._admit("explanations", len(asked.verdicts), self.limits.queue_explanations)
        request = Explanations(asked, asyncio.get_running_loop().create_future())
        return await self._wait("explanations", len(asked.verdicts), self._explanations, request)

    def _admit(self, lane: str, flows: int, most: int) -> None:
        if self._stopped:
            raise busy("the service stops", 5, 503)
        if self._waiting[lane] and self._waiting[lane] + flows > most:
            wait = self._waiting[lane] / self._rates[lane]
            raise busy(f"{self._waiting[lane]:,} flows wait already; ask again in about {math.ceil(wait)} s", wait)

    async def _wait(self, lane: str, flows: int, queue: deque[Any], request: Any) -> Any:
        self._count(lane, flows)
        with self._changed:
            queue.append(request)
            self._changed.notify()
        try:
            return await request.future
        finally:  # also where the client has gone: the thread skips what is done
            self._count(lane, -flows)

    def _count(self, lane: str, flows: int) -> None:
        self._waiting[lane] += flows
        self.observer.waiting(lane, self._waiting[lane])

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._labels or self._explanations)
                if self._stopped:
                    return
                if self._labels and not self._explanations:
                    self._gather()
            try:
                self._classes()
                if self._explanations:
                    self._write()
            except Exception as error:  # a fault of ours must not end the service
                print(f"error: {type(error).__name__} in the model thread: {error}", file=sys.stderr, flush=True)

    def _gather(self) -> None:
        """Wait a moment for more requests; the condition is held."""
        until = time.monotonic() + self.limits.gather_s
        while sum(len(r.rows) for r in self._labels) < self.batch_flows and (left := until - time.monotonic()) > 0:
            if not self._changed.wait(left):
                return

    def _next_part(self) -> list[tuple[Classes, int, int]]:
        """Take flows of waiting requests up to a batch: (request, first row, row behind the last)."""
        parts: list[tuple[Classes, int, int]] = []
        room = self.batch_flows
        with self._changed:
            while self._labels and room:
                request = self._labels.popleft()
                if request.future.done():
                    continue
                end = min(len(request.rows), request.taken + room)
                parts.append((request, request.taken, end))
                room -= end - request.taken
                request.taken = end
            for request, _, end in parts:
                if end < len(request.rows):
                    self._labels.append(request)  # behind the others
        return parts

    def _classes(self) -> None:
        """Classify one batch of waiting flows, if any."""
        parts = self._next_part()
        if not parts:
            return
        started = time.monotonic()
        rows = [row for request, first, end in parts for row in request.rows[first:end]]
        try:
            frame, faults = self._reader.read(rows)
        except Exception as error:
            for request, _, _ in parts:
                self._fail(request, _broken(error))
            return
        good = self._good(parts, frame, faults)
        kept = [part for _, part in good]
        if sum(map(len, kept)) < len(rows) or any(request.units != self._units.default for request, _ in good):
            frame = pd.concat(kept) if kept else frame.iloc[:0]
        self._score(frame, good)
        self._note("classes", len(rows), started)

    def _good(
        self, parts: Sequence[tuple[Classes, int, int]], frame: pd.DataFrame, faults: dict[int, str]
    ) -> list[tuple[Classes, pd.DataFrame]]:
        """Return the requests whose rows are all flows, with their features as published, and fail the others.

        Args:
            parts: Requests with the places of the rows that were read, as of `_next_part`.
            frame: Features of the good rows of all of them, in their units, by place in the batch.
            faults: Faults of the others, by place in the batch.
        """
        good: list[tuple[Classes, pd.DataFrame]] = []
        offset = 0
        for request, first, end in parts:
            places = range(offset, offset + end - first)
            offset = places.stop
            own, flows = {place: faults[place] for place in places if place in faults}, frame.iloc[:0]
            try:
                if not own:
                    flows, own = self._units.read(
                        frame.loc[places.start : places.stop - 1], request.units, request.stated
                    )
            except Exception as error:
                self._fail(request, _broken(error))
                continue
            if own:
                self._fail(request, _bad_rows({first + place - places.start: fault for place, fault in own.items()}))
            else:
                good.append((request, flows))
        return good

    def _score(self, frame: pd.DataFrame, good: list[tuple[Classes, pd.DataFrame]]) -> None:
        """Classify the flows of requests together; where that fails, each request alone."""
        if not good:
            return
        try:
            verdicts = self._verdicts.classify(frame)
        except Exception as error:
            if len(good) > 1:
                for request, part in good:
                    self._score(part, [(request, part)])
                return
            self._fail(good[0][0], _broken(error))
            return
        place = 0
        for request, part in good:
            request.verdicts += verdicts[place : place + len(part)]
            request.frames.append(part)
            place += len(part)
            if len(request.verdicts) == len(request.rows):
                flows = request.frames[0] if len(request.frames) == 1 else pd.concat(request.frames)
                self._tell(request.future, Classified(flows, request.verdicts))

    def _write(self) -> None:
        """Explain one batch of waiting flows, and score classes between the tokens."""
        requests: list[Explanations] = []
        flows = 0
        with self._changed:
            while self._explanations and flows < self.limits.batch_explanations:
                request = self._explanations.popleft()
                if not request.future.done():
                    requests.append(request)
                    flows += len(request.asked.verdicts)
        if not requests:
            return
        started, scoring = time.monotonic(), 0.0

        def meanwhile() -> None:
            nonlocal scoring
            if all(request.future.done() for request in requests):
                raise Abandoned
            begun = time.monotonic()
            if self._labels and scoring <= LABELS_PER_TOKEN_TIME * (begun - started - scoring):
                self._classes()
                scoring += time.monotonic() - begun

        try:
            together = pd.concat([request.asked.flows for request in requests])
            verdicts = [verdict for request in requests for verdict in request.asked.verdicts]
            explained = self._verdicts.explain(together, verdicts, meanwhile)
        except Abandoned:
            return
        except Exception as error:
            for request in requests:
                self._fail(request, _broken(error))
            return
        for request in requests:
            self._tell(request.future, explained[: len(request.asked.verdicts)])
            explained = explained[len(request.asked.verdicts) :]
        self._note("explanations", flows, started)

    def _note(self, lane: str, flows: int, started: float) -> None:
        seconds = time.monotonic() - started
        self._rates[lane] += FORGET * (flows / max(seconds, 1e-6) - self._rates[lane])
        self.observer.batch(lane, flows, seconds)

    def _fail(self, request: Classes | Explanations, error: Exception) -> None:
        if isinstance(request, Classes):
            with self._changed:
                request.taken = len(request.rows)
                if request in self._labels:
                    self._labels.remove(request)
        _on_loop(request.future, lambda: request.future.set_exception(error))

    def _tell(self, future: asyncio.Future[Any], result: Any) -> None:
        _on_loop(future, lambda: future.set_result(result))


def _on_loop(future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    """Settle a future on its loop, unless somebody gave up on it."""

    def unless_done() -> None:
        if not future.done():
            settle()

    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(unless_done)


def _bad_rows(faults: dict[int, str]) -> Refusal:
    told = "; ".join(f"flows[{place}]: {fault}" for place, fault in sorted(faults.items())[:MOST_FAULTS])
    more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    return Refusal(400, f"{told}{more}", "invalid_flow", f"flows[{min(faults)}]")


def _broken(error: Exception) -> Exception:
    """Return the answer to a request on which the student fails; what failed is printed."""
    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    print(f"error: {told[:500]}", file=sys.stderr, flush=True)
    return Refusal(500, f"the student failed: {told if isinstance(error, UserError) else type(error).__name__}")
