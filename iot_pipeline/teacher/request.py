"""What is asked of a teacher and what comes back, and the key that joins the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Status = Literal["ok", "quarantined"]
# What the embedded teacher signs its answers with, wherever it runs: nobody may take them for an LLM's.
EMBEDDED_MODEL = "embedded-analyst"
# What its answers are filed under; `embedded-<edition>` where it is known which version of its rules writes them.
EMBEDDED = "embedded"


def is_embedded(source: str) -> bool:
    """Whether answers of this source were written by the embedded teacher."""
    return source.split("-")[0] == EMBEDDED


@dataclass(frozen=True)
class Request:
    """One chat completion: `params` are the sampling parameters (temperature, top_p, max_tokens, seed).

    `schema_version` names the shape of answer that the prompt asks for; the parser's version is not part of it.
    `schema` is that shape as JSON Schema, for servers that can hold a model to it; its version is in the key.
    """

    model: str
    messages: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any]
    schema_version: str
    schema: Mapping[str, Any] | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """64 hex digits: sha256 of the canonical JSON of everything that can change the answer."""
        return hashlib.sha256(canonical(self.content()).encode()).hexdigest()

    def content(self) -> dict[str, Any]:
        """Everything that can change the answer, as plain data."""
        return {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "params": dict(self.params),
            "schema_version": self.schema_version,
        }

    def context(self) -> dict[str, str]:
        """Texts by which the answer is judged; no part of the request."""
        return {}

    def body(self) -> dict[str, Any]:
        """The JSON body as the API wants it."""
        body = {"model": self.model, "messages": list(self.messages), **self.params}
        if self.schema is not None:
            form = {"name": "answer", "strict": True, "schema": dict(self.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


def canonical(content: Mapping[str, Any]) -> str:
    """JSON that is equal wherever the content is."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


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
    """What the teacher said to one request; `text` is what was last said where the answer is quarantined.

    `usage`, `cost_usd` and `attempts` are of all attempts ever made for it; `from_cache` means none was made now.
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
