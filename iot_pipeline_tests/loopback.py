"""HTTP servers of tests, on a free port of loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Handler that prints nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """Server with room for a client that opens dozens of connections: one that finds none tries again after seconds."""

    request_queue_size = 128


@contextmanager
def listening(handler: type[Handler]) -> Iterator[str]:
    """Serve while the block runs; yield `host:port`."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
