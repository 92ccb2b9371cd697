"""Options of the embedded server apart from faults: latencies and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerOptions:
    """Latencies in seconds; limits of requests and tokens per minute and of tokens in batches (None = no limit).

    hang_seconds: duration of the fault `timeout`. json_schema: 0 = refuse response_format json_schema, as servers do
    that do not support it.
    """

    answer_seconds: float = 0.0
    hang_seconds: float = 600.0
    batch_seconds: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    enqueued_tokens: int | None = None
    json_schema: int = 1


def retry_headers(wait: float) -> Mapping[str, str]:
    """Return Retry-After headers in seconds and milliseconds; none if waiting does not help."""
    if math.isinf(wait):
        return {}
    return {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
