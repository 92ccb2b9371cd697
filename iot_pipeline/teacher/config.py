"""Configuration of a teacher client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from iot_pipeline.flows.download import without_credentials
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.request import is_embedded
from iot_pipeline.teacher.store.database import Location, store_url

Via = Literal["requests", "batch"]


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
class TeacherConfig:
    """Configuration of a teacher client."""

    url: str = field(repr=False)  # may contain credentials; `base_url` is the one without, to be shown
    api_key: str = field(repr=False)
    store: Location = field(repr=False)
    source: str  # marks answers (`embedded-<edition>`, or the address); those of one are never given out for another
    budget_usd: float | None  # for the life of the store; None = no limit
    concurrency: int = 64  # most requests in flight
    timeout_s: float = 60.0
    max_attempts: int = 5  # failures of server or network after which a request is given up
    log: Callable[[str], None] | None = None
    paid: bool | None = None  # None: by the address; a paid model needs a price
    backoff_base_s: float = 0.5
    via: Via = "requests"  # or the Batch API: half the price, answers within a day
    batch_limits: BatchLimits = BatchLimits()
    rpm: int | None = None  # requests per minute, one by one; None = only as the server announces
    tpm: int | None = None  # tokens per minute, likewise

    def __post_init__(self) -> None:
        if self.paid is None:
            self.paid = not is_embedded(self.source) and pricing.is_paid(self.url)
        self.base_url, self.source = without_credentials(self.url), without_credentials(self.source)
        self.store = store_url(self.store)

    def price(self, model: str) -> pricing.Price:
        """Return the price of a model, FREE on an unpaid server; UserError for a paid model without a price."""
        return pricing.price_of(model) if self.paid else pricing.FREE

    def report(self, message: str) -> None:
        """Pass a message to the log, if there is one."""
        if self.log is not None:
            self.log(message)
