"""How the embedded server behaves when it behaves well: how long answers take, how much it takes on a minute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerOptions:
    """Seconds, and limits (None = no limit): requests and tokens a minute, tokens in batches at once.

    hang_seconds: how long the fault `timeout` hangs. json_schema: 0 = answers in the form of a schema are refused, as
    servers do that do not know them.
    """

    answer_seconds: float = 0.0
    hang_seconds: float = 600.0
    batch_seconds: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    enqueued_tokens: int | None = None
    json_schema: int = 1


def retry_headers(wait: float) -> Mapping[str, str]:
    """Retry-After in both units; none where waiting does not help."""
    if math.isinf(wait):
        return {}
    return {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
