"""uvicorn's HTTP protocol with limits on the head of a request: uvicorn itself waits for one without end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from iot_pipeline.serving.server.limits import Limits

SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def limited(limits: Limits) -> type[asyncio.Protocol]:
    """Return the protocol that closes a connection whose head is too slow (408) or too long (431)."""

    class LimitedProtocol(HttpToolsProtocol):
        """HTTP protocol that waits `header_s` for a head of at most `header_bytes`."""

        _timer: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._timer is None:
                self._await_head()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            if self._is_long():
                raise ValueError("the target is too long")  # any error of a callback ends in send_400_response
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            if self._is_long():
                self._close(LONG)
            else:
                super().send_400_response(msg)

        def _is_long(self) -> bool:
            """Return True if the target alone, of which the guard sees path and query, is longer than a head may be."""
            return len(getattr(self, "url", b"")) > limits.header_bytes

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._await_head()  # blank lines: bytes that begin no request
            if self._timer is not None:
                self._head += len(data)
                if self._head > limits.header_bytes:
                    self._close(LONG)

        def _await_head(self) -> None:
            self._head = 0
            self._timer = self.loop.call_later(limits.header_s, self._close, SLOW)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self, answer: bytes) -> None:
            self._stop_timer()
            if not self.transport.is_closing():
                self.transport.write(answer)
                self.transport.close()

    return LimitedProtocol
