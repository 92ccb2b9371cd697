"""One attempt: send one request through the openai client and say in plain words what came of it.

Belongs here: the transport and the reading of a response. Does not belong here: whether to try again (engine.py).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.hidden import code_of, keep_out_of_logs
from iot_pipeline.teacher.limits import retry_after_s
from iot_pipeline.teacher.request import Usage

if TYPE_CHECKING:
    from iot_pipeline.teacher.transport import ShortOpenAI

Kind = Literal["answer", "rate_limit", "transport", "rejected", "form"]


@dataclass(frozen=True)
class Reply:
    """`answer`: text came; `rate_limit` and `transport`: worth another try; `rejected`: the request itself is bad;
    `form`: the server does not know answers in the form of a schema.

    `usage` is None where the server did not say; `billed_unknown` where it may bill what we never received.
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


FORM_REFUSED = Reply("form", "form of a schema refused")
# Halves of pairs, which are no text in UTF-8 (an answer may be cut off between the two), and what PostgreSQL refuses.
NOT_KEPT = re.compile("[\x00\ud800-\udfff]")
UNREADABLE = Reply("transport", "unreadable response", billed_unknown=True)


def open_client(base_url: str, api_key: str, timeout_s: float, most: int, local: bool) -> ShortOpenAI:
    """The official client on the aiohttp transport, without its own retries.

    A local server is reached directly, whatever proxy the environment names. User and password of the URL travel in
    a header, in place of the key: transports write URLs into their logs.
    """
    from iot_pipeline.teacher.transport import ShortHttp, ShortOpenAI

    address, headers = split_credentials(base_url)
    said = [value.removeprefix("Basic ") for value in headers.values()]
    keep_out_of_logs(api_key, unquote(urlsplit(base_url).password or ""), *said)
    http = ShortHttp(most, trust_env=not local, secure=not local or address.startswith("https:"))
    return ShortOpenAI(
        base_url=address, api_key=api_key, timeout=timeout_s, max_retries=0, http_client=http, default_headers=headers,
    )


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and the header that says them (none where it has none)."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    said = base64.b64encode(unquote(credentials).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {said}"}


async def send(client: ShortOpenAI, body: Mapping[str, Any]) -> Reply:
    """One attempt. Raises UserError for what no retry can mend: a bad key, an unknown model, no quota."""
    import aiohttp
    import httpx2
    import openai

    try:
        # The raw response: building typed objects for each of 300,000 answers costs more than the exchange itself.
        response = await client.post_bytes("/chat/completions", encode(body))
    except openai.APIStatusError as error:
        return _status_error(error, str(body["model"]))
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        # Without a connection nothing was billed; after that, nobody knows. The transport says ConnectTimeout of a
        # refused connection and of one that broke before the headers alike, so aiohttp's own error decides.
        cause = error.__cause__.__cause__ if error.__cause__ is not None else None
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return Reply("transport", "no connection")
        timeout = isinstance(error, openai.APITimeoutError) and not isinstance(cause, aiohttp.ServerDisconnectedError)
        return Reply("transport", "timeout" if timeout else "connection dropped", billed_unknown=True)
    except aiohttp.ClientError:  # a broken header or chunk, which the transport lets through as it is
        return UNREADABLE
    return replace(_read(response.content), headers=response.headers)


def encode(body: Mapping[str, Any]) -> bytes:
    """A JSON body as it is sent."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _read(content: bytes) -> Reply:
    try:
        return read_completion(json.loads(content))
    except ValueError:
        return UNREADABLE


def read_completion(answer: Any) -> Reply:
    """The reply in a chat completion, parsed from JSON; one that has not its shape is worth another try."""
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        text, refusal = message.get("content") or "", bool(message.get("refusal"))
        model, tokens = str(answer.get("model") or ""), _usage(answer.get("usage"))
    except (KeyError, IndexError, TypeError, AttributeError):
        return UNREADABLE
    if not isinstance(text, str):
        return UNREADABLE
    refusal = refusal or reason == "content_filter"
    text, model = (NOT_KEPT.sub("\ufffd", said) for said in (text, model))
    return Reply("answer", "ok", text, reason or "", refusal, model, tokens, billed_unknown=tokens is None)


def _usage(said: Any) -> Usage | None:
    """The tokens that an answer says it took; None where it does not say so in numbers: its price is then unknown."""
    try:
        cached = (said.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        counts = (said["prompt_tokens"], cached, said["completion_tokens"])
    except (KeyError, TypeError, AttributeError):
        return None
    return Usage(*counts) if all(isinstance(count, int) for count in counts) else None


def _status_error(error: Any, model: str) -> Reply:
    """What an HTTP error means. The server's own words are not repeated: they may hold the key, or part of it."""
    status, code = error.status_code, code_of(error.code)
    if status in (401, 403):
        raise UserError(
            f"the teacher's server refused the key (HTTP {status}): set OPENAI_API_KEY to one that may use {model}."
        ) from None
    if status == 404:
        raise UserError(
            f"the teacher's server does not know the model {model!r} (HTTP 404): set IOT_TEACHER_MODEL."
        ) from None
    if status == 429:
        if code == "insufficient_quota":
            raise UserError(
                "the teacher's account has no quota left (HTTP 429 insufficient_quota): add credit."
            ) from None
        headers = error.response.headers
        return Reply("rate_limit", "rate limited", retry_after_s=retry_after_s(headers), headers=headers)
    if status >= 500 or status in (408, 409):
        wait = retry_after_s(error.response.headers)
        # A gateway speaks for a server behind it, which may have answered, and billed.
        unknown = status in (408, 502, 504) or status >= 520
        return Reply("transport", f"server error {status}", billed_unknown=unknown, retry_after_s=wait)
    if names_form(error.body):
        return FORM_REFUSED
    return Reply("rejected", f"rejected by the server (HTTP {status} {code})".replace(" )", ")"))


def names_form(said: Any) -> bool:
    """Whether an error in the API's shape (or only its inner part) is about response_format."""
    inner = said.get("error", said) if isinstance(said, dict) else said
    return "response_format" in json.dumps(inner, default=str)
