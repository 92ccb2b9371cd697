"""One attempt: send a request through the openai client and classify the outcome."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from iot_pipeline.flows.download import without_credentials
from iot_pipeline.teacher.redaction import redact_in_logs
from iot_pipeline.teacher.replies import (
    DEFAULT_MAX_TOKENS,
    Asked,
    Reply,
    parse_json,
    read_error,
    read_reply,
    reply_bytes,
    unreadable,
)

if TYPE_CHECKING:
    from iot_pipeline.teacher.http import ChatClient


def open_client(base_url: str, api_key: str, timeout_s: float, most: int, local: bool) -> ChatClient:
    """Open the official client on the aiohttp transport, without its own retries.

    User and password of the URL are sent in a header in place of the key, because transports log URLs.

    Args:
        base_url: the server's URL, which may contain credentials.
        api_key: key for the server.
        timeout_s: time limit of a request.
        most: maximum number of connections.
        local: reach the server directly, ignoring proxies in the environment.
    """
    from iot_pipeline.teacher.http import ENCODINGS, ChatClient, ShortHttp

    address, headers = split_credentials(base_url)
    said = [value.removeprefix("Basic ") for value in headers.values()]
    parts = urlsplit(base_url)
    asked = [value for _, value in parse_qsl(parts.query)]  # query values: an API version, or a token
    redact_in_logs(api_key, unquote(parts.password or ""), parts.password or "", *said, *asked)
    http = ShortHttp(most, trust_env=not local, secure=not local or address.startswith("https:"))
    client = ChatClient(
        base_url=address,
        api_key=api_key,
        timeout=timeout_s,
        max_retries=0,
        http_client=http,
        default_headers={**headers, "Accept-Encoding": ENCODINGS},
    )
    client.shown_url = without_credentials(address).rstrip("/")
    return client


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without credentials, and the header that carries them (empty if there are none)."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    said = base64.b64encode(unquote(credentials).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {said}"}


async def send(client: ChatClient, body: Mapping[str, Any]) -> Reply:
    """Send one request; every outcome, failures included, becomes a reply."""
    import aiohttp
    import httpx2
    import openai

    from iot_pipeline.teacher.http import BODY_LIMIT, ReplyTooLong

    asked = Asked(str(body["model"]), client.shown_url, "response_format" in body)
    BODY_LIMIT.set(reply_bytes(int(body.get("max_tokens", DEFAULT_MAX_TOKENS))))
    try:
        # Raw response: building typed objects for each of 300,000 answers costs more than the exchange itself.
        response = await client.post_bytes("/chat/completions", encode(body))
    except openai.APIStatusError as error:
        return read_error(error.status_code, _body_of(error.response), asked, error.response.headers)
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        if isinstance(error.__cause__, ReplyTooLong):
            limit = error.__cause__.limit
            detail = f"it was given up after {limit:,} bytes"
            return Reply("transport", "reply too long", billed_unknown=True, too_long=limit, detail=detail)
        # Without a connection nothing was billed; after that, it is unknown. The transport raises ConnectTimeout both
        # for a refused connection and for one that broke before the headers, so aiohttp's own error decides.
        cause = error.__cause__.__cause__ if error.__cause__ is not None else None
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return Reply("transport", "no connection")
        if isinstance(error.__cause__, httpx2.DecodingError):
            return unreadable(str(error.__cause__))
        timeout = isinstance(error, openai.APITimeoutError) and not isinstance(cause, aiohttp.ServerDisconnectedError)
        return Reply("transport", "timeout" if timeout else "connection dropped", billed_unknown=True)
    except (aiohttp.ClientError, ValueError, LookupError) as error:
        # A malformed header or chunk: aiohttp's error, which the transport does not wrap, or a parser's.
        return unreadable(f"{type(error).__name__} in the response")
    return replace(read_reply(response.content, asked), headers=response.headers)


def _body_of(response: Any) -> Any:
    """Return an error's body: parsed if it is JSON, else as text."""
    try:
        return parse_json(response.content)
    except ValueError:
        return response.content.decode(errors="replace")


def encode(body: Mapping[str, Any]) -> bytes:
    """Encode a JSON body for sending."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
