"""The loop of `classify`: flows in, verdicts, events out, and the place recorded after each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from iot_pipeline.evaluation.drift import Drift
from iot_pipeline.serving.cached import CachedClassifier
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.events import About, Row
from iot_pipeline.serving.prepared import Losses, rows_of
from iot_pipeline.serving.summary import Summary

# Flows of a batch, after which the place is recorded: scoring takes seconds for so many, explaining minutes.
BATCH, EXPLAINED_BATCH = 8192, 256
TELL_S = 0.5
Log = Callable[[str], None]


class Output(Protocol):
    """Output of events (output.py)."""

    def write(self, rows: list[Row], verdicts: Mapping[str, Verdict]) -> None:
        """Write the events of rows."""

    def commit(self, position: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Record that everything up to a place of the input is answered."""


@dataclass
class Run:
    """A run of `classify`: classifier, output, and what was counted so far, by earlier runs of the same output too.

    `drift` counts the flows of this process, and of a file those that an earlier run answered.
    """

    answers: CachedClassifier
    about: About
    output: Output
    losses: Losses
    summary: Summary
    drift: Drift
    log: Log
    total: int | None = None  # flows there are, if that is known

    def answer(self, tables: Iterable[pa.Table], position: Callable[[int], Mapping[str, Any]]) -> None:
        """Write an event for each row of prepared tables; `position` tells the place, given the number of events."""
        started, told, before = time.monotonic(), 0.0, self.summary.events
        for table in tables:
            work = replace(self.answers.work)
            verdicts = self.answers.verdicts(table, self._scored)
            rows = rows_of(table)
            self.output.write(rows, verdicts)
            self.summary.add(rows, verdicts, self.about)
            self.drift.add(table)
            self.summary.took(self.answers.work, work)
            self.output.commit(position(self.summary.events), self.state())
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                self._tell((self.summary.events - before) / (told - started))

    def state(self) -> dict[str, Any]:
        """Return the counts as the output's state holds them."""
        return {"counts": self.summary.to_json(), "losses": self.losses.to_json()}

    def _tell(self, speed: float) -> None:
        of = f" of {self.total:,}" if self.total is not None else ""
        hits = 1 - self.summary.scored / max(1, self.summary.events)
        lost = f", {sum(self.losses.rows.values()):,} rows left out" if self.losses.rows else ""
        self.log(f"{self.summary.events:,}{of} flows, {speed:,.0f} flows/s, {hits:.0%} by look-up{lost}")

    def _scored(self, told: str) -> None:
        self.log(f"{self.summary.events:,} flows; {told}")
