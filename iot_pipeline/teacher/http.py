"""Fast path for chat completions: reuse headers and URL, send only a new body.

The openai client builds headers and URL anew for each request and passes a response through layers of streams; if
responses are fast, that costs more than the exchange. Here the first request is the template for the next ones, and a
response is read in one piece. Errors, the key and everything else (uploads, batches, results) are left to the client.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

HEADERS = "iot_pipeline.headers"  # extension of a request copied from a template: its headers, ready to send
# uvicorn servers (vLLM, embedded) close an idle connection after 5 s; a request sent at that moment is lost.
KEEP_IDLE_S = 4.0
# Longest body that is read, in bytes, compressed and decompressed. Set for each chat completion from its max_tokens;
# the default is for other responses, such as lists of batches.
BODY_LIMIT = ContextVar("BODY_LIMIT", default=16 * 1024 * 1024)
UNPACKED = 64 * 1024  # bytes that are decompressed at once: a chunk of 64 kB may expand to 64 MB
ENCODINGS = "gzip, deflate"  # decompressed here, chunk by chunk


class ReplyTooLong(httpx2.TransportError):
    """A response other than an error that is longer than BODY_LIMIT; `limit` bytes of it were read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a response of more than {limit:,} bytes")
        self.limit = limit


async def read_limited(pieces: AsyncIterator[bytes], encoding: str, limit: int) -> tuple[bytes, bool]:
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


def unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """Return a decompressor for the chunks of a body, UNPACKED bytes at once; DecodingError for other encodings."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda piece: iter((piece,))
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise httpx2.DecodingError(f"an encoding that was not asked for: {encoding[:40]!r}")
    state = [zlib.decompressobj(zlib.MAX_WBITS | 32)]  # 32: detect gzip or zlib by its header

    def unpack(piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                part = state[0].decompress(piece, UNPACKED)
            except zlib.error as error:
                raise httpx2.DecodingError(str(error)) from error
            if part:
                yield part
            piece = state[0].unconsumed_tail
            if state[0].eof:  # a gzip body may have several members
                piece, state[0] = state[0].unused_data, zlib.decompressobj(zlib.MAX_WBITS | 32)

    return unpack


class ChatClient(AsyncOpenAI):
    """The official client; `post_bytes` reuses the first request to a path as a template."""

    shown_url = ""  # the base URL without credentials
    _first: dict[str, tuple[Any, httpx2.Request]] | None = None

    @property
    def user_agent(self) -> str:
        """User agent of the official client, not of this class."""
        return f"{AsyncOpenAI.__name__}/Python {self._version}"

    async def post_bytes(self, path: str, content: bytes) -> httpx2.Response:
        """POST a JSON body that is encoded already; errors as the client raises them."""
        if self._first is None or path not in self._first:
            return await self.post(path, cast_to=httpx2.Response, content=content)
        options = copy.copy(self._first[path][0])
        options.content = content
        return await self.request(httpx2.Response, options)

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        """Build a request from the template; if openai no longer called this, requests would only be slower."""
        if not isinstance(options.content, bytes) or retries_taken:
            return super()._build_request(options, retries_taken=retries_taken)
        self._first = self._first or {}
        if options.url not in self._first:
            pattern = super()._build_request(options)
            pattern.extensions[HEADERS] = {k: v for k, v in pattern.headers.items() if k != "content-length"}
            self._first[options.url] = options, pattern
        pattern = self._first[options.url][1]
        stream = httpx2.ByteStream(options.content)
        request = httpx2.Request("POST", pattern.url, stream=stream, extensions=pattern.extensions)
        request.headers = pattern.headers
        return request


class ShortHttp(DefaultAioHttpClient):
    """The client's aiohttp transport, with a direct path for requests copied from a template (not via a proxy)."""

    def __init__(self, most: int, trust_env: bool, secure: bool) -> None:
        # Loading the certificate authorities takes 20 ms; without them no certificate is trusted.
        self.context = httpx2.create_ssl_context(trust_env=trust_env) if secure else SSLContext(PROTOCOL_TLS_CLIENT)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_IDLE_S)
        super().__init__(limits=limits, trust_env=trust_env, verify=self.context)
        self.most, self.direct = most, not (trust_env and getproxies())
        self.session: aiohttp.ClientSession | None = None

    async def send(self, request: httpx2.Request, *, stream: bool = False, **chosen: Any) -> httpx2.Response:
        """Send a request; return the whole response, at most BODY_LIMIT long, or a stream, which its reader limits.

        Raises httpx2's errors with aiohttp's as their cause, ReplyTooLong among them.
        """
        headers = request.extensions.get(HEADERS)
        if stream:
            return await super().send(request, stream=True, **chosen)
        if headers is None or not self.direct:
            response = await super().send(request, stream=True, **chosen)
            try:
                return await _whole(response.status_code, response.headers, response.aiter_raw(), request)
            finally:
                await response.aclose()
        if self.session is None:
            self.session = self._open()
        wait = request.extensions["timeout"]
        timeout = aiohttp.ClientTimeout(sock_connect=wait["connect"], sock_read=wait["read"], connect=wait["pool"])
        try:
            async with self.session.post(
                str(request.url), data=request.read(), headers=headers, timeout=timeout
            ) as answer:
                return await _whole(
                    answer.status, httpx2.Headers(answer.raw_headers), answer.content.iter_any(), request
                )
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error)) from error
        except aiohttp.ClientConnectionError as error:
            raise httpx2.ConnectError(str(error)) from error
        except aiohttp.ClientPayloadError as error:
            raise httpx2.ReadError(str(error)) from error

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self.most, ssl=self.context, keepalive_timeout=KEEP_IDLE_S)
        return aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def aclose(self) -> None:
        """Close the direct session and the client's transport."""
        if self.session is not None:
            await self.session.close()
        await super().aclose()


async def _whole(
    status: int, headers: httpx2.Headers, pieces: AsyncIterator[bytes], request: httpx2.Request
) -> httpx2.Response:
    """Read a whole response; too long an error body is truncated, any other raises ReplyTooLong."""
    limit = BODY_LIMIT.get()
    content, more = await read_limited(pieces, headers.get("content-encoding", ""), limit)
    if more and status < 400:
        raise ReplyTooLong(limit)
    headers.pop("content-encoding", None)  # already decompressed
    return httpx2.Response(status, headers=headers, content=content, request=request)
