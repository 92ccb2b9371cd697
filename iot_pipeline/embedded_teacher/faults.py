"""Fault injection in the embedded server, to rehearse the failures of a real API."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from iot_pipeline.errors import UserError

RATE_LIMIT_FAULTS = ("rate_limit", "rate_limit_date", "rate_limit_no_header")
# The answer is written and billed, but does not arrive.
LOST_FAULTS = ("timeout", "drop", "drop_early", "unreadable")
TRANSPORT_FAULTS = (*RATE_LIMIT_FAULTS, *LOST_FAULTS, "server_error", "unauthorised")
ANSWER_FAULTS = ("truncate", "refusal", "wrong_label", "ungrounded")
SINGLE_FAULTS = TRANSPORT_FAULTS + ANSWER_FAULTS
# Faults of a line of a batch's results, and of a whole batch.
LINE_FAULTS = ("line_missing", "line_doubled", "line_garbled")
BATCH_FAULTS = ("batch_failed", "batch_expired", "batch_cancelled", "batch_queue_full")
GROUPS = (SINGLE_FAULTS, LINE_FAULTS, BATCH_FAULTS)
FAULTS = SINGLE_FAULTS + LINE_FAULTS + BATCH_FAULTS
LABEL = re.compile(r'(CLASSIFICATION: |"classification": ")([^\s"]+)')
REFUSAL = "I'm sorry, but I can't help with that."


def parse_faults(text: str) -> dict[str, float]:
    """Parse fault probabilities such as `rate_limit=0.05,drop=0.01`; UserError if kind or number is invalid."""
    faults: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        kind, _, value = part.partition("=")
        try:
            faults[kind] = float(value or 1.0)
        except ValueError:
            raise UserError(f"fault {part!r}: the probability must be a number from 0 to 1.") from None
    return check_faults(faults)


def check_faults(faults: Mapping[str, float]) -> dict[str, float]:
    """Validate fault probabilities; UserError for an unknown kind, or a value or group sum outside 0 to 1."""
    unknown = sorted(set(faults) - set(FAULTS))
    if unknown:
        raise UserError(f"unknown fault {unknown[0]!r}; there are: {', '.join(FAULTS)}.")
    sums = [sum(faults.get(kind, 0.0) for kind in group) for group in GROUPS]
    if any(not 0 <= p <= 1 for p in faults.values()) or max(sums) > 1 + 1e-9:
        raise UserError(
            "fault probabilities must each be from 0 to 1, and 1 at most together (of requests, lines, batches each)."
        )
    return dict(faults)


class FaultPlan:
    """Deterministic draw of at most one fault per group, by seed, content and number of earlier draws of that content.

    The order of requests and lines does not matter. All batches count as one content: for a given seed the n-th batch
    always has the same fault.
    """

    def __init__(self, faults: Mapping[str, float], seed: int) -> None:
        self.faults, self.seed = dict(faults), seed
        self._seen: Counter[bytes] = Counter()

    def draw(self, content: bytes, kinds: Sequence[str]) -> str | None:
        """Draw a fault from `kinds` for this content; None if there is none."""
        chosen = sorted(kind for kind in kinds if self.faults.get(kind))
        if not chosen:
            return None
        digest = hashlib.sha256(kinds[0].encode() + content).digest()[:16]
        self._seen[digest] += 1
        drawn = hashlib.sha256(digest + f"{self.seed}:{self._seen[digest]}".encode()).digest()
        point = int.from_bytes(drawn[:8], "big") / 2**64
        for kind in chosen:
            point -= self.faults[kind]
            if point < 0:
                return kind
        return None


def spoil(kind: str, text: str, classes: Sequence[str]) -> str:
    """Spoil a good answer: another class, a number that is not in the flow, or truncation in the middle."""
    if kind == "wrong_label":
        match = LABEL.search(text)
        other = next((name for name in classes if match is None or name != match[2]), "Unknown_Class")
        return LABEL.sub(lambda found: found[1] + other, text)
    if kind == "ungrounded":
        return re.sub(r"-?\d+\.\d+|\d+", "87654.321", text, count=1)
    if kind == "truncate":
        return text[: len(text) // 2]
    return text
