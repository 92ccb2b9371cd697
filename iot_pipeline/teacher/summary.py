"""Summary of one call of `Teacher.stream`, and its line of progress."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from iot_pipeline.teacher import pricing


@dataclass
class Summary:
    """Summary of one call of `ask`. Tokens and dollars are of the attempts made now, failed ones included."""

    requests: int = 0
    cached: int = 0
    asked: int = 0
    attempts: int = 0
    batches: int = 0
    ok: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    reference_usd: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `reference_usd` is what pricing.REFERENCE_MODEL would have cost, not an invoice."""
        return asdict(self) | {"reference_model": pricing.REFERENCE_MODEL}

    def failed(self) -> int:
        """Count attempts that brought no complete answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "answered")

    def line(self, elapsed_s: float, expected: int = 0) -> str:
        """Format the progress in one line, `elapsed_s` after the first request; `expected` requests at least."""
        known = max(self.requests, expected)
        done = self.ok + sum(self.quarantined.values())
        fresh = done - self.cached
        parts = [
            f"teacher: {done:,} of {known:,} done ({self.cached:,} cached)",
            f"{self.failed():,} attempts failed",
            f"{sum(self.quarantined.values()):,} quarantined",
            f"{self.prompt_tokens + self.completion_tokens:,} tokens",
            f"${self.usd:.4f}",
        ]
        if fresh > 0 and elapsed_s > 0:
            rate = fresh / elapsed_s
            parts += [f"{rate:.1f}/s", f"{(known - done) / rate:,.0f} s left"]
        return ", ".join(parts)
