"""Billing of the embedded server, answer by answer, with a prompt cache that discounts repeated prefixes."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.embedded_teacher.analyst import PROMPT_BYTES_A_TOKEN

WAYS = ("requests", "batch")
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
# Prompts of 1,024 tokens or more are cached, in steps of 128: platform.openai.com/docs/guides/prompt-caching
CACHE_FROM, CACHE_STEP = 1024, 128
CACHE_ENTRIES = 50_000


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a prompt's id, 32 hex digits: equal for all attempts, whatever their seed and length limit."""
    said = [[message["role"], message["content"]] for message in messages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


class Bill:
    """Bill of every answer that was written, delivered or not, as an API bills it."""

    def __init__(self) -> None:
        self.totals = {way: {"answers": 0, **dict.fromkeys(COUNTS, 0)} for way in WAYS}
        self.repeated = 0  # answers to a body that was answered before
        self.by_prompt: dict[str, list[list[Any]]] = {}
        self._seen: set[bytes] = set()

    def add(
        self,
        way: str,
        raw: bytes,
        messages: Sequence[Mapping[str, str]],
        content: Mapping[str, Any],
        fault: str | None = None,
    ) -> None:
        """Add an answer to the bill.

        Args:
            way: `requests` or `batch`.
            raw: body of the request.
            messages: its prompt.
            content: the completion, with its usage.
            fault: fault that spoilt or lost the answer; None if it was good.
        """
        usage = content["usage"]
        line = [usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"]]
        total = self.totals[way]
        total["answers"] += 1
        for name, tokens in zip(COUNTS, line, strict=True):
            total[name] += tokens
        digest = hashlib.sha256(raw).digest()[:16]
        self.repeated += digest in self._seen
        self._seen.add(digest)
        self.by_prompt.setdefault(prompt_id(messages), []).append([way, *line, fault or "ok"])

    def to_json(self, by_prompt: bool = False) -> dict[str, Any]:
        """Return the totals of `requests` and `batch`.

        by_prompt: add each prompt's lines [`requests` or `batch`, prompt, cached and completion tokens, fault].
        """
        return {**self.totals, "repeated": self.repeated} | ({"by_prompt": self.by_prompt} if by_prompt else {})


class PromptCache:
    """LRU cache of prompt prefixes."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def tokens(self, prompt: str, tokens: int) -> int:
        """Return the cached tokens of a prompt, and cache its prefixes."""
        raw, found = prompt.encode(), 0
        digest, at = hashlib.sha256(), 0
        for length in range(CACHE_FROM, tokens + 1, CACHE_STEP):
            digest.update(raw[at : length * PROMPT_BYTES_A_TOKEN])
            at = length * PROMPT_BYTES_A_TOKEN
            beginning = digest.digest()[:16]
            if beginning in self._known:
                found = length
            self._known[beginning] = None
            self._known.move_to_end(beginning)
        while len(self._known) > CACHE_ENTRIES:
            self._known.popitem(last=False)
        return found
