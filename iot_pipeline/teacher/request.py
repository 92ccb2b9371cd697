"""Request to a teacher, its answer, and the cache key that joins the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Status = Literal["ok", "quarantined"]
CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
# Model name in the embedded teacher's answers, wherever it runs: nobody may take them for an LLM's.
EMBEDDED_MODEL = "embedded-analyst"
# Source of its answers; `embedded-<edition>` if the version of its rules is known.
EMBEDDED = "embedded"


def is_embedded(source: str) -> bool:
    """Return True if answers of this source were written by the embedded teacher."""
    return source.split("-")[0] == EMBEDDED


@dataclass(frozen=True)
class Request:
    """One chat completion: `params` are the sampling parameters (temperature, top_p, max_tokens, seed).

    `schema_version` names the answer format that the prompt asks for, not the version of the parser. `schema` is that
    format as JSON Schema, for servers that can enforce it; its version is in the key.
    """

    model: str
    messages: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any]
    schema_version: str
    schema: Mapping[str, Any] | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """Cache key, 64 hex digits: sha256 of the canonical JSON of everything that can change the answer."""
        return hashlib.sha256(canonical(self.content()).encode()).hexdigest()

    def content(self) -> dict[str, Any]:
        """Return the key's content, everything that can change the answer, as plain data."""
        return {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "params": dict(self.params),
            "schema_version": self.schema_version,
        }

    def context(self) -> dict[str, str]:
        """Return texts by which the answer is judged; they are no part of the request."""
        return {}

    def body(self) -> dict[str, Any]:
        """Return the JSON body in the API's format."""
        body = {"model": self.model, "messages": list(self.messages), **self.params}
        if self.schema is not None:
            form = {"name": "answer", "strict": True, "schema": dict(self.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


def canonical(content: Mapping[str, Any]) -> str:
    """Serialise content as canonical JSON, equal for equal content."""
    return CANONICAL.encode(content)


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more attempts; `cached` is the part of `prompt` that is billed at the cached price."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True)
class Answer:
    """Answer to one request; if it is quarantined, `text` is the last one received.

    `usage`, `cost_usd` and `attempts` cover all attempts ever made for it; `from_cache` means that none was made now.
    `checked` is the version of the check that judged it.
    """

    key: str
    status: Status
    text: str
    finish_reason: str
    model: str
    source: str
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    attempts: int = 0
    reasons: tuple[str, ...] = ()
    from_cache: bool = False
    checked: str = ""
