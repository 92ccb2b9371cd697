"""The short way through the openai client, for many requests that differ in their bodies only.

The client makes headers and address anew for each request and takes an answer through layers of streams; where answers
come at once, that costs more than the exchange. Here the first request is a pattern for the next ones, and an answer is
read in one piece. Errors, the key and everything else (uploads, batches, their results) stay the client's own.
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

HEADERS = "iot_pipeline.headers"  # extension of a request made from a pattern: its headers, ready to be sent
# Servers of uvicorn's kind (vLLM, ours) close an idle connection after 5 s; a request sent at that moment is lost.
KEEP_IDLE_S = 4.0
# Bytes of the longest body that is read, as it comes and unpacked. Set for each chat completion from its max_tokens;
# the default is for what else is asked: lists of batches and their like.
BODY_LIMIT = ContextVar("BODY_LIMIT", default=16 * 1024 * 1024)
UNPACKED = 64 * 1024  # bytes that are unpacked at once: a piece of 64 kB may open to 64 MB
ENCODINGS = "gzip, deflate"  # what is unpacked here, piece by piece


class ReplyTooLong(httpx2.TransportError):
    """A response without an error is longer than BODY_LIMIT; `limit` bytes of it were read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a response of more than {limit:,} bytes")
        self.limit = limit


async def read_limited(pieces: AsyncIterator[bytes], encoding: str, limit: int) -> tuple[bytes, bool]:
    """Read a response's body and unpack it, up to `limit` bytes; True where there is more."""
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
    """Return a function that unpacks the pieces of an encoded body, into pieces none of which is long."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda piece: iter((piece,))
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise httpx2.DecodingError(f"an encoding that was not asked for: {encoding[:40]!r}")
    state = [zlib.decompressobj(zlib.MAX_WBITS | 32)]  # 32: either of gzip and zlib, by its first bytes

    def unpack(piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                part = state[0].decompress(piece, UNPACKED)
            except zlib.error as error:
                raise httpx2.DecodingError(str(error)) from error
            if part:
                yield part
            piece = state[0].unconsumed_tail
            if state[0].eof:  # gzip may be several, one after the other
                piece, state[0] = state[0].unused_data, zlib.decompressobj(zlib.MAX_WBITS | 32)

    return unpack


class ChatClient(AsyncOpenAI):
    """The official client; what `post_bytes` sends is made from the first request to its path."""

    shown_url = ""  # the base URL without credentials
    _first: dict[str, tuple[Any, httpx2.Request]] | None = None

    @property
    def user_agent(self) -> str:
        """The client's own name, not that of this class."""
        return f"{AsyncOpenAI.__name__}/Python {self._version}"

    async def post_bytes(self, path: str, content: bytes) -> httpx2.Response:
        """POST a JSON body that is encoded already; errors as the client raises them."""
        if self._first is None or path not in self._first:
            return await self.post(path, cast_to=httpx2.Response, content=content)
        options = copy.copy(self._first[path][0])
        options.content = content
        return await self.request(httpx2.Response, options)

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        """Called by `request`; were it ever called otherwise, the client would work as before, only slower."""
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
    """The client's own transport on aiohttp, except for requests made from a pattern, unless a proxy is in between."""

    def __init__(self, most: int, trust_env: bool, secure: bool) -> None:
        # Reading the list of authorities takes 20 ms; without it nobody is trusted.
        self.context = httpx2.create_ssl_context(trust_env=trust_env) if secure else SSLContext(PROTOCOL_TLS_CLIENT)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_IDLE_S)
        super().__init__(limits=limits, trust_env=trust_env, verify=self.context)
        self.most, self.direct = most, not (trust_env and getproxies())
        self.session: aiohttp.ClientSession | None = None

    async def send(self, request: httpx2.Request, *, stream: bool = False, **chosen: Any) -> httpx2.Response:
        """Send a request; the whole response, no longer than BODY_LIMIT, or a stream, which its reader limits.

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
        """Close both ways."""
        if self.session is not None:
            await self.session.close()
        await super().aclose()


async def _whole(
    status: int, headers: httpx2.Headers, pieces: AsyncIterator[bytes], request: httpx2.Request
) -> httpx2.Response:
    """Read a response whole; an error's body may be cut short, ReplyTooLong for any other that is too long.

    Args:
        status: the HTTP status.
        headers: of the response; that of the encoding is taken out.
        pieces: of the body, as they come.
        request: what it responds to.
    """
    limit = BODY_LIMIT.get()
    content, more = await read_limited(pieces, headers.get("content-encoding", ""), limit)
    if more and status < 400:
        raise ReplyTooLong(limit)
    headers.pop("content-encoding", None)  # it is unpacked
    return httpx2.Response(status, headers=headers, content=content, request=request)
