"""Reader of a server's errors: what it refuses, why in its own words, and if asking goes on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from iot_pipeline.teacher.address import AZURE_FORMS, CHAT, is_azure
from iot_pipeline.teacher.parameters import NO_SYSTEM, SYSTEM, names_of, refused_parameter
from iot_pipeline.teacher.redaction import code_of, shown_words
from iot_pipeline.teacher.reply import Asked, Reply, is_page
from iot_pipeline.teacher.request import Usage

MAX_PAUSE_S = 300.0  # that a server may ask for
CONTENT_FILTERS = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
TRANSIENT = (408, 409)
# Servers fail with a 500 where their engine of grammars does.
OF_SCHEMAS = re.compile(r"schema|grammar|guided|structured|outlines|response.?format", re.IGNORECASE)
A_MODEL = re.compile(r"\bmodel", re.IGNORECASE)


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
    heard = f"{named}: {shown}" if shown else named
    if fatal := _fatal(status, code, heard, "" if is_page(said) else f"{code} {words}", asked):
        return Reply("rejected", f"refused by the server ({named})", detail=shown, headers=headers, fatal=fatal)
    if status == 429:
        return Reply("rate_limit", "rate limited", retry_after_s=wait, headers=headers, detail=shown)
    if status == 500 and NO_SYSTEM.search(words) and SYSTEM in names_of(asked.sent):
        return Reply("parameter", "parameter refused", headers=headers, detail=shown, parameter=SYSTEM)
    if status == 500 and asked.schema and OF_SCHEMAS.search(words):
        return Reply("doubt", "rejected with a schema", headers=headers, detail=shown)
    if status >= 500 or status in TRANSIENT:
        # The server behind a gateway may have answered, and billed.
        unknown = status in (408, 502, 504) or status >= 520
        outcome = f"server error {status}"
        return Reply("transport", outcome, billed_unknown=unknown, retry_after_s=wait, headers=headers, detail=shown)
    before, form, _ = words.partition("response_format")
    if asked.schema and form:  # a parameter named before it is at fault as well
        name = refused_parameter(code, before, names_of(asked.sent))
        return Reply("form", "form of a schema refused", headers=headers, detail=shown, parameter=name)
    if name := refused_parameter(code, words, names_of(asked.sent)):
        return Reply("parameter", "parameter refused", headers=headers, detail=shown, parameter=name)
    if _filtered(said):
        return Reply("answer", "ok", refusal=True, finish_reason="content_filter", usage=Usage(), headers=headers)
    if asked.schema:  # whatever the words: an answer without it will tell
        return Reply("doubt", "rejected with a schema", detail=shown, headers=headers)
    return Reply("rejected", f"rejected by the server ({named})", detail=shown, headers=headers)


def _fatal(status: int, code: str, heard: str, words: str, asked: Asked) -> str:
    """Return the message to stop with, empty if other requests may succeed.

    `heard` is shown; `words` are searched, and empty if a page came in place of the API's error.
    """
    if status == 401:
        return f"the teacher's server refused the key ({heard}): set OPENAI_API_KEY to one that may use {asked.model}."
    if status == 403 and not words.strip():
        return (
            f"a firewall or proxy in front of the teacher's server refused access to {asked.url} ({heard}): this is "
            "no answer of the server itself, so have this machine let through, or set another IOT_TEACHER."
        )
    if status == 403:
        return (
            f"the teacher's server refused access ({heard}): set OPENAI_API_KEY to a key that may use {asked.model}, "
            "or mend what it names."
        )
    if status == 407:
        return f"the proxy before the teacher's server asks for a password ({heard}): set http_proxy with one."
    if status == 402 or (status == 429 and code == "insufficient_quota"):
        return f"the teacher's account has no quota left ({heard}): add credit."
    if status == 404 and "deployment" in words.lower():
        return f"there is no such deployment at {asked.url} ({heard}): set IOT_TEACHER to {AZURE_FORMS}."
    if status == 404 and A_MODEL.search(words):
        return f"the teacher's server does not know the model {asked.model!r} ({heard}): set IOT_TEACHER_MODEL."
    if status in (404, 405):
        return f"the teacher's server has nothing at {asked.url} ({heard}): set IOT_TEACHER to {_better(asked.url)}."
    return ""


def _better(asked_url: str) -> str:
    """Return the address to try in place of one whose chat completions are nowhere."""
    if is_azure(asked_url):
        return AZURE_FORMS
    base = asked_url.partition("?")[0].removesuffix(CHAT)
    if urlsplit(base).path.endswith("/v1"):
        return "the base URL of such a server (the part before /chat/completions, which mostly ends in /v1)"
    return f"the base URL, which mostly ends in /v1 ({base}/v1)"


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
