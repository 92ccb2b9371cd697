"""Start and stop of the server."""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from iot_pipeline.errors import UserError
from iot_pipeline.serving.server.app import application
from iot_pipeline.serving.server.guard import Access, is_loopback, name_of
from iot_pipeline.serving.server.protocol import limited
from iot_pipeline.serving.server.service import Service

SHORTEST_TOKEN = 16  # characters
FILES = 256  # open files beside connections


def access_of(host: str, token: str | None, allowed: Sequence[str]) -> Access:
    """Return who may ask a server at an address; UserError if an address of the network has no token, or a weak one.

    Args:
        host: Address to bind.
        token: The token that requests must have; None: none is set.
        allowed: Further names by which a server on loopback is asked, such as a proxy's.
    """
    named = f"[{host}]" if ":" in host else host
    if token is None and not is_loopback(named):
        raise UserError(
            f"--host {host}: others can reach this address, so a token is needed: set IOT_SERVE_TOKEN (environment or "
            ".env), which clients send as `Authorization: Bearer ...`; or stay on 127.0.0.1"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(
            f"IOT_SERVE_TOKEN must have at least {SHORTEST_TOKEN} printable ASCII characters; "
            "`openssl rand -hex 32` makes one"
        )
    if wrong := [name for name in allowed if not name_of(name)]:
        raise UserError(f"--allow-host {wrong[0]}: give the name of a host alone, such as proxy.example")
    return Access(token, frozenset(map(name_of, allowed)) if is_loopback(named) else None)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, which does not listen yet; UserError if that is impossible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        listener.close()
        raise UserError(f"port {port} on {host} cannot be used ({told}); choose one with --port") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ipaddress.ip_address(host).version == 6 else host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens, and says after the end which signal stopped it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self.stopped_by = ready, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal: the first one drains, a second Ctrl-C ends at once."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would raise them again after the end
        self.stopped_by = self.stopped_by or sig


def serve(service: Service, access: Access, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until a signal; return the exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Requests that run are answered before, for at most `stop_s` seconds.

    Args:
        service: The student.
        access: Who may ask.
        listener: Bound socket.
        ready: Called once requests are answered.
    """
    limits = service.limits
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + FILES
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, _soft), hard))
    config = uvicorn.Config(
        application(service, access), http=limited(limits), ws="none", lifespan="on", log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, backlog=2048,
        limit_concurrency=min(limits.connections, max(files, _soft) - FILES // 2),
        timeout_keep_alive=round(limits.idle_s), timeout_graceful_shutdown=round(limits.stop_s),
    )  # fmt: skip
    server = Server(config, ready)
    server.run(sockets=[listener])
    if not server.started:
        raise UserError("the server did not start; what failed stands above")
    if not service.stop(limits.stop_s):
        sys.stdout.flush()
        os._exit(_code(server.stopped_by))  # Python would wait for the model thread
    return _code(server.stopped_by)


def _code(stopped_by: int) -> int:
    return 130 if stopped_by == signal.SIGINT else 0
