"""ASGI middleware before every handler: who may ask, how much, and for how long.

A page of another site can send requests to a server on this machine, or resolve its own name to our address (DNS
rebinding). So the Host of a server on loopback must be a loopback name, and an Origin must be the server's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iot_pipeline.serving.server.limits import Limits, Refusal, busy
from iot_pipeline.serving.server.metrics import Metrics

OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/healthz", "/readyz"})  # no flow, no verdict, no model
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)  # nothing else is a Host header
DRAINED = 16  # times the limit of a body that is read and dropped, so that its sender reads the refusal


def name_of(host: str) -> str:
    """Return the name in a Host header, in lower case and without its port; empty if it is none."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def is_loopback(host: str) -> bool:
    """Return True if a Host header or name is loopback; any port is allowed, as tunnels choose their own."""
    try:
        return (name := name_of(host)) == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_of_another_site(headers: Headers) -> bool:
    """Return True for a request that a page of another host sent; a browser names it as Origin."""
    try:
        origins = {urlsplit(one).netloc.lower() for one in headers.getlist("origin")}
    except ValueError:  # no browser's
        return True
    return bool(origins - {headers.get("host", "").lower()})


@dataclass(frozen=True)
class Access:
    """Rule of who may ask: `token` is None for everybody; `hosts` are names beside loopback's, None for any."""

    token: str | None = None
    hosts: frozenset[str] | None = frozenset()

    def refuse(self, scope: Scope) -> Refusal | None:
        """Return the refusal of a request that must not be answered, None for any other."""
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or not self._is_own(host[0]):
            return Refusal(
                403, "this host name is not served: ask http://127.0.0.1, or allow the name with --allow-host"
            )
        if is_of_another_site(headers):
            return Refusal(403, "a page of another site asked for this")
        if self.token is not None and scope["path"] not in OPEN_PATHS and not self._has_token(headers):
            return Refusal(
                401, "the token is missing or wrong: send `Authorization: Bearer <IOT_SERVE_TOKEN>`",
                "invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if headers.get("content-encoding", "identity").lower() != "identity":
            return Refusal(415, "compressed bodies are not read")
        return None

    def _is_own(self, host: str) -> bool:
        return self.hosts is None or is_loopback(host) or name_of(host) in self.hosts

    def _has_token(self, headers: Headers) -> bool:
        """Compare in constant time; hashes have one length, so that not even the token's length is told."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        wanted = hashlib.sha256((self.token or "").encode()).digest()
        return kind.lower() == "bearer" and hmac.compare_digest(
            hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest(), wanted
        )


class Guard:
    """Middleware that refuses, limits and counts requests, and adds the headers that protect pages."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics
        self._running, self._held = 0, 0
        metrics.held.set_function(lambda: self._held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request within the limits."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":  # answered as GET; uvicorn, which has the scope as it was, drops the body
            scope = {**scope, "method": "GET"}
        started, answer = time.monotonic(), Answer(send)
        with self._counted():
            try:
                await self._answer(scope, receive, answer)
            except Refusal as refusal:
                await self._refuse(scope, receive, answer, refusal)
            except Exception as error:  # never a traceback to the client, never the body in the log
                print(f"error: {type(error).__name__} at {route_of(scope)}", file=sys.stderr, flush=True)
                await self._refuse(scope, receive, answer, Refusal(500, "the server failed"))
            finally:
                self.metrics.request(route_of(scope), answer.status, time.monotonic() - started)
                if answer.status >= 400:
                    self.metrics.refused.labels(str(answer.status)).inc()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self.metrics.running.set(self._running)
        try:
            yield
        finally:
            self._running -= 1
            self.metrics.running.set(self._running)

    async def _answer(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        if refusal := self._too_long(scope) or self.access.refuse(scope):
            await _drain(receive, self.limits)
            raise refusal
        if self._running > self.limits.requests:
            raise busy(f"{self.limits.requests:,} requests are answered already", 1, 503)
        body = await self._body(scope, receive)
        try:
            await self._run(scope, receive, answer, body)
        finally:
            self._held -= len(body)

    def _too_long(self, scope: Scope) -> Refusal | None:
        """Return the refusal of a head that is too long though it came in one piece (protocol.py sees the others)."""
        target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if target + sum(len(name) + len(value) for name, value in scope["headers"]) <= self.limits.header_bytes:
            return None
        return Refusal(431, f"a head may have {self.limits.header_bytes:,} bytes", headers={"Connection": "close"})

    async def _run(self, scope: Scope, receive: Receive, answer: Answer, body: bytes) -> None:
        """Run the application on a body, until it has answered, its time is over or the client has gone."""
        gone = asyncio.Event()
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                await gone.wait()
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        answering = asyncio.ensure_future(self.app(scope, replay, answer))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, timeout=self.limits.answer_s, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
            elif not leaving.done():
                raise Refusal(504, f"no answer within {self.limits.answer_s:g} s; ask for less at once", "timeout")
        finally:
            gone.set()
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body; Refusal if it is too long (413), too slow (408) or one too many at once (503)."""
        most, parts, read = self.limits.body_bytes, [], 0
        told = Headers(scope=scope).get("content-length", "")
        too_long = Refusal(413, f"a body may have {most:,} bytes", "body_too_large", headers={"Connection": "close"})
        if told.isdigit() and len(told) < 19 and int(told) > most:
            await _drain(receive, self.limits)
            raise too_long
        try:
            async with asyncio.timeout(self.limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(499, "the client has gone")
                    parts.append(message.get("body", b""))
                    read += len(parts[-1])
                    self._held += len(parts[-1])
                    if read > most or self._held > self.limits.bodies_bytes:
                        refusal = too_long if read > most else busy("too many bytes are being read", 1, 503)
                        if not message.get("more_body"):
                            raise refusal
                        break
                    if not message.get("more_body"):
                        whole, read = b"".join(parts), 0  # held on: `_answer` lets go of it
                        return whole
        except TimeoutError:
            raise Refusal(
                408, f"the body did not arrive within {self.limits.body_s:g} s", headers={"Connection": "close"}
            ) from None
        finally:
            self._held -= read
        await _drain(receive, self.limits)
        raise refusal

    async def _refuse(self, scope: Scope, receive: Receive, answer: Answer, refusal: Refusal) -> None:
        if answer.status == 0:
            await refusal.response()(scope, receive, answer)


class Answer:
    """`send` of a request that notes the status and adds the security headers."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


async def _left(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _drain(receive: Receive, limits: Limits) -> None:
    """Drop what a refused client still sends, for a while: it reads no answer before it has sent everything."""
    dropped = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limits.body_s):
            while dropped < DRAINED * limits.body_bytes:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def route_of(scope: Scope) -> str:
    """Return the path of the route that answered; one word for all paths that do not exist."""
    known = scope["path"] if scope["path"] in OPEN_PATHS else "other"
    return str(getattr(scope.get("route"), "path", None) or known)
