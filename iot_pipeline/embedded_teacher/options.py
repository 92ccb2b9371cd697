"""Options of the embedded server apart from faults."""

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
