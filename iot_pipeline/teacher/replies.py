"""Strict parser of a server's replies: an answer, or a failure with its reason."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from iot_pipeline.teacher.redaction import inert
from iot_pipeline.teacher.refusals import read_error
from iot_pipeline.teacher.reply import Asked, Reply, is_page, parse_json, unreadable
from iot_pipeline.teacher.request import Usage

# A token of an answer rarely takes more than 20 bytes as JSON; the rest of a reply is ids and usage, about 1 KB.
BYTES_A_TOKEN, REPLY_OVERHEAD = 32, 64 * 1024
DEFAULT_MAX_TOKENS = 4096
MOST_TOKENS = 10_000_000  # per answer: more than any model accepts
# Lone surrogates, which UTF-8 cannot encode (an answer may be cut off within a pair), and NUL, refused by PostgreSQL.
NOT_KEPT = re.compile("[\x00\ud800-\udfff]")
# What the compatible servers of Anthropic, Gemini, Mistral and others call an answer that was cut off or filtered.
CUT_OFF = ("max_tokens", "max_output_tokens", "max_length", "model_length")
FILTERED = ("safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal")
SAME_REASON = dict.fromkeys(CUT_OFF, "length") | dict.fromkeys(FILTERED, "content_filter")
BROKEN_OFF = ("abort", "aborted", "cancelled", "canceled", "error")  # by the server: what there is may be half a text
TEXT_PARTS = ("text", "output_text")


def reply_bytes(max_tokens: int) -> int:
    """Return the bytes of the longest reply that is read if `max_tokens` are allowed."""
    return REPLY_OVERHEAD + BYTES_A_TOKEN * max_tokens


def _kept(said: Any) -> Any:
    return NOT_KEPT.sub("\ufffd", said) if isinstance(said, str) else said


def _joined(said: Any) -> Any:
    """Join the text parts of a content in parts; thoughts and parts of other kinds are no answer.

    A content that is an object itself is the JSON that was asked for, already parsed by the server.
    """
    if isinstance(said, dict) and not {"type", "text"} & said.keys():
        return _kept(json.dumps(said, ensure_ascii=False))
    said = [said] if isinstance(said, dict) and "type" in said else said
    if not isinstance(said, list):
        return _kept(said)
    if not all(isinstance(part, dict) for part in said):
        return said
    texts = [part.get("text") for part in said if part.get("type") in TEXT_PARTS]
    return _kept("".join(texts)) if all(isinstance(text, str) for text in texts) else said


def _whole(said: Any) -> Any:
    return int(said) if isinstance(said, float) and said.is_integer() else said


Text = Annotated[str, BeforeValidator(_kept)]
Content = Annotated[str, BeforeValidator(_joined)]
Tokens = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MOST_TOKENS)]


class ApiModel(BaseModel):
    """Model with exactly the types of the API; fields that are not needed are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Message(ApiModel):
    content: Content | None = None
    refusal: Text | bool | None = None
    tool_calls: Any = None
    reasoning_content: Any = None
    reasoning: Any = None

    @property
    def instead(self) -> str:
        """Tell what came in place of a text; empty if nothing did."""
        if self.tool_calls:
            return "tool calls came in its place"
        if self.reasoning_content or self.reasoning:
            return (
                "all of it came as thoughts (reasoning_content), which are no answer: raise max_tokens in the prompt "
                "file, or turn the server's reasoning parser off"
            )
        return ""


class _Choice(ApiModel):
    message: _Message
    finish_reason: Text | None = None


class _Completion(ApiModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    model: Text | None = None


class _Details(ApiModel):
    cached_tokens: Tokens | None = None


class _Usage(ApiModel):
    prompt_tokens: Tokens
    completion_tokens: Tokens
    total_tokens: Tokens | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached(self) -> int:
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0

    @property
    def billed(self) -> int:
        """Tokens of the answer; some servers count thoughts, which they bill as such, in the total alone."""
        return max(self.completion_tokens, (self.total_tokens or 0) - self.prompt_tokens)

    @model_validator(mode="after")
    def _fits(self) -> _Usage:
        if self.cached > self.prompt_tokens:
            raise ValueError(f"{self.cached:,} cached of {self.prompt_tokens:,} prompt tokens")
        return self


def read_reply(content: bytes, asked: Asked) -> Reply:
    """Parse the reply in the body of an HTTP 200."""
    try:
        return read_completion(parse_json(content), asked)
    except ValueError as error:
        start = content[:2000].decode(errors="replace")
        if is_page(start):  # a sign-in, or a wrong address: no model has answered
            return unreadable(f"a page in place of JSON: {start}", billed=False)
        if content[:200].lstrip().startswith((b"data:", b"event:")):
            return unreadable("an event stream in place of one JSON object, which was not asked for")
        return unreadable(str(error))


def read_completion(said: Any, asked: Asked | None = None) -> Reply:
    """Parse the reply in the JSON of a chat completion; one of another shape is worth a retry."""
    if isinstance(said, dict) and said.get("error") and not said.get("choices"):
        return _error_in_a_200(said, asked or Asked())
    try:
        completion = _Completion.model_validate(said)
    except (ValidationError, RecursionError) as error:
        return unreadable(fault_of(error))
    usage, fault = read_usage(said.get("usage"))
    choice = completion.choices[0]
    message, reason = choice.message, inert(choice.finish_reason or "", 100)
    reason = SAME_REASON.get(reason.lower(), reason)
    text = message.content or ""
    if reason.lower() in BROKEN_OFF:
        return Reply(
            "transport", "answer broken off", usage=usage, billed_unknown=usage is None, usage_fault=fault,
            detail=f"finish_reason {reason}",
        )  # fmt: skip
    if text and usage is not None and not (usage.prompt and usage.completion):
        fault = f"{usage.prompt} and {usage.completion} tokens for a text of {len(text):,} characters"
        usage = None
    return Reply(
        "answer", "ok", text, reason, bool(message.refusal) or reason == "content_filter",
        inert(completion.model or "", 200), usage, billed_unknown=usage is None, usage_fault=fault,
        detail="" if text.strip() else message.instead,
    )  # fmt: skip


def read_usage(said: Any) -> tuple[Usage | None, str]:
    """Parse the usage of an answer; None and the reason if it is missing or contradictory."""
    if said is None:
        return None, "no usage"
    try:
        found = _Usage.model_validate(said)
    except (ValidationError, RecursionError) as error:
        return None, fault_of(error)
    return Usage(found.prompt_tokens, found.cached, found.billed), ""


def fault_of(error: Exception) -> str:
    """Describe the first validation error in one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _error_in_a_200(said: dict[str, Any], asked: Asked) -> Reply:
    """Parse an error object that came with HTTP 200, as gateways send it once they have begun to answer."""
    inner = said["error"]
    code = inner.get("code") if isinstance(inner, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 502  # 502, a gateway's: the answer may be billed
    return read_error(status, said, asked)
