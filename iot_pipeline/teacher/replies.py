"""Strict parser of a server's replies: an answer, or a failure with its reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from iot_pipeline.teacher.parameters import refused_parameter
from iot_pipeline.teacher.redaction import code_of, shown_words
from iot_pipeline.teacher.request import Usage

Kind = Literal["answer", "rate_limit", "transport", "rejected", "form", "parameter"]

# A token of an answer rarely takes more than 20 bytes as JSON; the rest of a reply is ids and usage, about 1 KB.
BYTES_A_TOKEN, REPLY_OVERHEAD = 32, 64 * 1024
DEFAULT_MAX_TOKENS = 4096
MAX_PAUSE_S = 300.0  # that a server may ask for
MOST_TOKENS = 10_000_000  # per answer: more than any model accepts
# Lone surrogates, which UTF-8 cannot encode (an answer may be cut off within a pair), and NUL, refused by PostgreSQL.
NOT_KEPT = re.compile("[\x00\ud800-\udfff]")
CONTENT_FILTERS = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
TRANSIENT = (408, 409)
TEXT_PARTS = ("text", "output_text")


@dataclass
class Reply:
    """Outcome of one attempt; its kind decides on a retry.

    `answer`: a completion; `rate_limit`, `transport`: worth a retry; `rejected`: the server refuses the request, which
    says nothing of its content; `form`: the server does not support response_format; `parameter`: nor this `parameter`.
    A `form` may name one too.

    `outcome` is one of few values, for the ledger; `detail` says more, in the server's words if it gave any. `fatal` is
    the message to stop with if no further request can succeed. `usage` is None if it is missing or not credible
    (`usage_fault` says why); `billed_unknown` is True if the server may charge for something that was never received.
    `too_long`: bytes after which an endless reply was given up.
    """

    kind: Kind
    outcome: str
    text: str = ""
    finish_reason: str = ""
    refusal: bool = False
    model: str = ""
    usage: Usage | None = None
    billed_unknown: bool = False
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    fatal: str = ""
    usage_fault: str = ""
    too_long: int = 0
    parameter: str = ""

    @property
    def reason(self) -> str:
        """Outcome with its detail."""
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


@dataclass(frozen=True)
class Asked:
    """Parts of the request that error messages need.

    `schema`: the request had a response_format. `sent`: names of its parameters.
    """

    model: str = ""
    url: str = ""
    schema: bool = False
    sent: Collection[str] = ()


def reply_bytes(max_tokens: int) -> int:
    """Return the bytes of the longest reply that is read if `max_tokens` are allowed."""
    return REPLY_OVERHEAD + BYTES_A_TOKEN * max_tokens


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait in seconds that a server asks for, at most MAX_PAUSE_S; None if it asks for none.

    Read from `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.
    """
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        elif value.strip().replace(".", "", 1).isdigit():
            seconds = float(value)
        else:
            at = parsedate_to_datetime(value)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None  # not a standard format: the ordinary back-off applies
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_PAUSE_S)


def unreadable(why: str = "") -> Reply:
    """Return the reply for a malformed response: worth a retry, and possibly billed."""
    return Reply("transport", "unreadable response", billed_unknown=True, detail=shown_words(why))


def _kept(said: Any) -> Any:
    return NOT_KEPT.sub("\ufffd", said) if isinstance(said, str) else said


def _joined(said: Any) -> Any:
    """Join the text parts of a content in parts; thoughts and parts of other kinds are no answer."""
    if not isinstance(said, list):
        return _kept(said)
    if not all(isinstance(part, dict) for part in said):
        return said
    texts = [part.get("text") for part in said if part.get("type") in TEXT_PARTS]
    return _kept("".join(texts)) if all(isinstance(text, str) for text in texts) else said


Text = Annotated[str, BeforeValidator(_kept)]
Content = Annotated[str, BeforeValidator(_joined)]
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]


class ApiModel(BaseModel):
    """Model with exactly the types of the API; fields that are not needed are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Message(ApiModel):
    content: Content | None = None
    refusal: Text | bool | None = None


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
    prompt_tokens_details: _Details | None = None

    @property
    def cached(self) -> int:
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0

    @model_validator(mode="after")
    def _fits(self) -> _Usage:
        if self.cached > self.prompt_tokens:
            raise ValueError(f"{self.cached:,} cached of {self.prompt_tokens:,} prompt tokens")
        return self


def parse_json(content: str | bytes) -> Any:
    """Parse JSON text; ValueError if it is invalid, nested too deeply or has a number of too many digits."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's limit on digits, with advice for programmers
        raise ValueError("a number of more digits than can be read") from None


def parse_body(content: bytes) -> Any:
    """Parse the body of an error if it is JSON; else return it as text."""
    try:
        return parse_json(content)
    except ValueError:
        return content.decode(errors="replace")


def read_reply(content: bytes, asked: Asked) -> Reply:
    """Parse the reply in the body of an HTTP 200."""
    try:
        return read_completion(parse_json(content), asked)
    except ValueError as error:
        start = content[:200].lstrip()
        if start[:1] == b"<":
            return unreadable(f"a page in place of JSON: {content[:2000].decode(errors='replace')}")
        if start.startswith((b"data:", b"event:")):
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
    message, reason = choice.message, (choice.finish_reason or "")[:100]
    return Reply(
        "answer", "ok", message.content or "", reason, bool(message.refusal) or reason == "content_filter",
        (completion.model or "")[:200], usage, billed_unknown=usage is None, usage_fault=fault,
    )  # fmt: skip


def read_usage(said: Any) -> tuple[Usage | None, str]:
    """Parse the usage of an answer; None and the reason if it is missing or contradictory."""
    if said is None:
        return None, "no usage"
    try:
        found = _Usage.model_validate(said)
    except (ValidationError, RecursionError) as error:
        return None, fault_of(error)
    return Usage(found.prompt_tokens, found.cached, found.completion_tokens), ""


def fault_of(error: Exception) -> str:
    """Describe the first validation error in one line."""
    if not isinstance(error, ValidationError):
        return "nested too deeply"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _error_in_a_200(said: dict[str, Any], asked: Asked) -> Reply:
    """Parse an error object that came with HTTP 200, as gateways send it once they have begun to answer."""
    inner = said["error"]
    code = inner.get("code") if isinstance(inner, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 502  # 502, a gateway's: the answer may be billed
    return read_error(status, said, asked)


def read_error(status: int, said: Any, asked: Asked, headers: Mapping[str, str] | None = None) -> Reply:
    """Parse the reply in an HTTP error.

    Args:
        status: the HTTP status.
        said: the body, parsed if it is JSON, else as text.
        asked: the request.
        headers: headers of the response; None in a batch.
    """
    headers = headers or {}
    code, words = error_words(said)
    shown, wait = shown_words(words), retry_after_s(headers)
    named = f"HTTP {status} {code}".rstrip()
    if fatal := _fatal(status, code, f"{named}: {shown}" if shown else named, f"{code} {words}", asked):
        return Reply("rejected", f"refused by the server ({named})", detail=shown, headers=headers, fatal=fatal)
    if status == 429:
        return Reply("rate_limit", "rate limited", retry_after_s=wait, headers=headers, detail=shown)
    if status >= 500 or status in TRANSIENT:
        # The server behind a gateway may have answered, and billed.
        unknown = status in (408, 502, 504) or status >= 520
        outcome = f"server error {status}"
        return Reply("transport", outcome, billed_unknown=unknown, retry_after_s=wait, headers=headers, detail=shown)
    before, form, _ = words.partition("response_format")
    if asked.schema and form:  # a parameter named before it is at fault as well
        name = refused_parameter(code, before, asked.sent)
        return Reply("form", "form of a schema refused", headers=headers, detail=shown, parameter=name)
    if name := refused_parameter(code, words, asked.sent):
        return Reply("parameter", "parameter refused", headers=headers, detail=shown, parameter=name)
    if _filtered(said):
        return Reply("answer", "ok", refusal=True, finish_reason="content_filter", usage=Usage(), headers=headers)
    if asked.schema:
        shown += " [it was asked with a schema, which IOT_TEACHER_ANSWERS=text leaves out]"
    return Reply("rejected", f"rejected by the server ({named})", detail=shown.strip(), headers=headers)


def _fatal(status: int, code: str, heard: str, words: str, asked: Asked) -> str:
    """Return the message to stop with, empty if other requests may succeed; `heard` is shown, `words` searched."""
    if status == 401:
        return f"the teacher's server refused the key ({heard}): set OPENAI_API_KEY to one that may use {asked.model}."
    if status == 403:
        return (
            f"the teacher's server refused access ({heard}): set OPENAI_API_KEY to a key that may use {asked.model}, "
            "or mend what it names."
        )
    if status == 402 or (status == 429 and code == "insufficient_quota"):
        return f"the teacher's account has no quota left ({heard}): add credit."
    if status == 404 and "model" in words.lower():
        return f"the teacher's server does not know the model {asked.model!r} ({heard}): set IOT_TEACHER_MODEL."
    if status in (404, 405):
        return (
            f"the teacher's server has nothing at {asked.url}/chat/completions ({heard}): set IOT_TEACHER to the base "
            "URL, which mostly ends in /v1."
        )
    return ""


def error_words(said: Any) -> tuple[str, str]:
    """Return an error's code and message, from any of the formats that servers use."""
    inner = said.get("error", said) if isinstance(said, dict) else said
    if not isinstance(inner, dict):
        return "", inner if isinstance(inner, str) else ""
    words = [inner[name] for name in ("message", "detail", "error") if isinstance(inner.get(name), str)]
    details = inner.get("detail")
    words += [_field_words(one) for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    param = inner.get("param")
    if isinstance(param, str) and not any(param in word for word in words):
        words.append(param)
    return code_of(inner.get("code")), "; ".join(words)


def _field_words(fault: dict[str, Any]) -> str:
    """Format FastAPI's error of one field: `body.seed: Extra inputs are not permitted`."""
    place = fault.get("loc")
    names = [part for part in place if isinstance(part, str | int)] if isinstance(place, list) else []
    return f"{'.'.join(map(str, names))}: {fault.get('msg')}"


def _filtered(said: Any) -> bool:
    """Return True if a model's content filter refused the prompt or the answer."""
    inner = said.get("error", said) if isinstance(said, dict) else None
    deeper = inner.get("innererror") if isinstance(inner, dict) else None
    return any(isinstance(one, dict) and one.get("code") in CONTENT_FILTERS for one in (inner, deeper))
