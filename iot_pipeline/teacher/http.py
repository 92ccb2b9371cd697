"""Chat completions by aiohttp, and limits on the bodies that any server sends.

The official client serves files and batches only (batch_api): for a chat completion it costs more than the exchange.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import pricing, replies
from iot_pipeline.teacher.address import chat_url, key_header, redirected, secrets_of, shown_chat_url, split_credentials
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.parameters import RENAMED
from iot_pipeline.teacher.redaction import redact_in_logs, shown_words
from iot_pipeline.teacher.refusals import read_error
from iot_pipeline.teacher.reply import Asked, Reply, parse_body, unreadable

if TYPE_CHECKING:
    import aiohttp

# uvicorn servers (vLLM, embedded) close an idle connection after 5 s; a request sent at that moment is lost.
KEEP_IDLE_S = 4.0
# Times the wait for the next bytes that a whole reply may take: one that drips byte by byte has an end.
DRIP = 5
REDIRECTS, PERMANENT, MOST_REDIRECTS = (301, 302, 307, 308), (301, 308), 5
UNPACKED = 64 * 1024  # bytes that are decompressed at once: a chunk of 64 kB may expand to 64 MB
ENCODINGS = "gzip, deflate"
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # which of them, a body's header tells
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class EncodingError(ValueError):
    """Body in an encoding that was not asked for, or damaged."""


def unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """Return a decompressor for the chunks of a body, UNPACKED bytes at once; EncodingError for other encodings."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda piece: iter((piece,))
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise EncodingError(f"an encoding that was not asked for: {encoding[:40]!r}")
    state = zlib.decompressobj(GZIP_OR_ZLIB)

    def unpack(piece: bytes) -> Iterator[bytes]:
        nonlocal state
        while piece:
            try:
                part = state.decompress(piece, UNPACKED)
            except zlib.error as error:
                raise EncodingError(str(error)) from error
            if part:
                yield part
            piece = state.unconsumed_tail
            if state.eof:  # a gzip body may have several members
                piece, state = state.unused_data, zlib.decompressobj(GZIP_OR_ZLIB)

    return unpack


async def read_limited(pieces: AsyncIterable[bytes], encoding: str, limit: int) -> tuple[bytes, bool]:
    """Read and decompress a response body up to `limit` bytes; the flag is True if there is more."""
    body, raw, unpack = bytearray(), 0, unpacker(encoding)
    async for piece in pieces:
        raw += len(piece)
        for part in unpack(piece):
            body += part
            if len(body) > limit:
                return bytes(body[:limit]), True
        if raw > limit:
            return bytes(body), True
    return bytes(body), False


def redact_credentials(url: str, api_key: str) -> None:
    """Redact the key, and user, password and query values of the URL, in the logs of all libraries."""
    basic = [value.removeprefix("Basic ") for value in split_credentials(url)[1].values()]
    redact_in_logs(api_key, *secrets_of(urlsplit(url)), *basic)


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; None for a direct connection. UserError for SOCKS."""
    parts, named = urlsplit(url), getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise UserError(
            "the proxy that the environment names for the teacher is no HTTP proxy; set no_proxy, or another."
        )
    return proxy


@asynccontextmanager
async def open_chat_client(config: TeacherConfig) -> AsyncIterator[ChatClient]:
    """Open a client of /chat/completions; credentials in the URL are sent in a header in place of the key."""
    import aiohttp  # 0.3 s, which commands that ask nothing save
    import httpx2

    local = not pricing.is_paid(config.base_url)  # reached without the environment's proxies and certificates
    redact_credentials(config.url, config.api_key)
    address, authorization = split_credentials(config.url)
    parts = urlsplit(address)
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": ENCODINGS,
        "Content-Type": "application/json",
        "User-Agent": "iot-pipeline",
        **key_header(config.url, config.api_key),
    }
    account = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    headers |= {header: os.environ[name] for header, name in account.items() if name in os.environ}
    # Loading the certificate authorities takes 20 ms; without them no certificate is trusted.
    secure = not local or parts.scheme == "https"
    context = httpx2.create_ssl_context(trust_env=not local) if secure else SSLContext(PROTOCOL_TLS_CLIENT)
    wait = config.timeout_s
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.concurrency, ssl=context, keepalive_timeout=KEEP_IDLE_S),
        headers=headers | authorization,
        timeout=aiohttp.ClientTimeout(DRIP * wait, connect=wait, sock_connect=wait, sock_read=wait),
        auto_decompress=False,
    ) as session:
        yield ChatClient(session, parts, None if local else proxy_of(address))


class ChatClient:
    """Client of /chat/completions. Every outcome of `send`, failures included, is a reply."""

    def __init__(self, session: aiohttp.ClientSession, base: SplitResult, proxy: str | None) -> None:
        self.session, self.proxy = session, proxy
        self.shown_url, self.url = shown_chat_url(base), chat_url(base)

    async def send(self, body: Mapping[str, Any]) -> Reply:
        """Send one request and classify the outcome."""
        import aiohttp

        asked = Asked(str(body["model"]), self.shown_url, "response_format" in body, body)
        limit = replies.reply_bytes(
            int(body.get("max_tokens") or body.get(RENAMED["max_tokens"]) or replies.DEFAULT_MAX_TOKENS)
        )
        try:
            response, content, more = await self._post(ENCODER.encode(body).encode(), limit)
        except UserError as error:  # a redirect that is not followed
            return Reply("rejected", "redirected", fatal=str(error))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
            return Reply("transport", "no connection", detail=shown_words(str(error)))  # nothing was billed
        except TimeoutError:
            return Reply("transport", "timeout", billed_unknown=True)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return Reply("transport", "connection dropped", billed_unknown=True)
        except EncodingError as error:
            return unreadable(str(error))
        except (aiohttp.ClientError, ValueError, LookupError) as error:  # a malformed header or chunk
            return unreadable(f"{type(error).__name__} in the response")
        if not 200 <= response.status < 300:
            return read_error(response.status, parse_body(content), asked, response.headers)
        if more:
            detail = f"it was given up after {limit:,} bytes"
            return Reply("transport", "reply too long", billed_unknown=True, too_long=limit, detail=detail)
        reply = replies.read_reply(content, asked)
        reply.headers = response.headers
        return reply

    async def _post(self, data: bytes, limit: int) -> tuple[aiohttp.ClientResponse, bytes, bool]:
        """Post a body and read the response up to `limit` bytes; redirects are followed on the same server alone."""
        url = self.url
        for _ in range(MOST_REDIRECTS + 1):
            async with self.session.post(url, data=data, proxy=self.proxy, allow_redirects=False) as response:
                location = response.headers.get("Location") if response.status in REDIRECTS else None
                if location is None:
                    encoding = response.headers.get("Content-Encoding", "")
                    return response, *await read_limited(response.content.iter_any(), encoding, limit)
            url = redirected(url, location)
            if response.status in PERMANENT:
                self.url = url
        raise UserError(f"the teacher's server redirects {self.shown_url} in a circle: set another IOT_TEACHER.")
