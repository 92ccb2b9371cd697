"""The embedded teacher: an OpenAI-compatible server on 127.0.0.1, in a process of its own.

Belongs here: HTTP in the real API's shape. Does not belong here: the writing (analyst.py), starting it (process.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.completions import BadBody, Bill, check_body, completion, error
from iot_pipeline.teacher.faults import FAULTS, SINGLE_FAULTS, FaultPlan, parse_faults
from iot_pipeline.teacher.request import EMBEDDED_MODEL
from iot_pipeline.teacher.server_batches import BatchServer

HANG_S = 600.0
# No limit is enforced; the headers are there so that a client can be written against them.
LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "1000000", "x-ratelimit-remaining-requests": "999999",
    "x-ratelimit-reset-requests": "1ms", "x-ratelimit-limit-tokens": "1000000000",
    "x-ratelimit-remaining-tokens": "999999999", "x-ratelimit-reset-tokens": "1ms",
}


class Server:
    """The routes and their state."""

    def __init__(self, plan: FaultPlan, hang_s: float, bill: Bill) -> None:
        self.plan, self.hang_s, self.bill = plan, hang_s, bill

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        model = {"id": EMBEDDED_MODEL, "object": "model", "created": 0, "owned_by": "iot_pipeline"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        raw = await request.body()
        try:
            arguments = check_body(json.loads(raw))
        except ValueError as problem:  # also bytes that are not UTF-8
            return error(400, f"the body is not valid JSON: {problem}", "invalid_request_error")
        except BadBody as problem:
            return error(400, str(problem), "invalid_request_error", param=problem.param)
        wanted = request.headers.get("x-iot-fault")
        if wanted is not None and wanted not in SINGLE_FAULTS:
            return error(400, f"unknown fault {wanted}", "invalid_request_error", param="x-iot-fault")
        fault = wanted or self.plan.draw(raw, SINGLE_FAULTS)
        failed = await self._transport_fault(fault, request)
        if failed is not None:
            return failed
        content = completion(arguments, fault, raw)
        self.bill.add("requests", raw, content)
        identity = content["id"].replace("chatcmpl-", "req_")
        return JSONResponse(content, headers=LIMIT_HEADERS | {"x-request-id": identity})

    async def invoice(self, request: Request) -> Response:
        """GET /v1/embedded/bill: no part of the real API; what this server wrote since it started."""
        return JSONResponse(self.bill.to_json())

    async def _transport_fault(self, fault: str | None, request: Request) -> Response | None:
        if fault in ("rate_limit", "rate_limit_no_header"):
            headers = {"retry-after-ms": "50", "retry-after": "1"} if fault == "rate_limit" else {}
            return error(429, "Rate limit reached", "requests", "rate_limit_exceeded", headers=headers)
        if fault == "server_error":
            return error(500, "The server had an error while processing your request", "server_error")
        if fault == "unauthorised":
            return error(401, "Incorrect API key provided", "invalid_request_error", "invalid_api_key")
        if fault == "unreadable":
            return Response(b'{"id": "chatcmpl-1", "choices": [{"mess', media_type="application/json")
        if fault == "timeout":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.hang_s):
                    while not await request.is_disconnected():
                        await asyncio.sleep(0.05)
            return error(503, "timed out", "server_error")
        return DroppedResponse() if fault == "drop" else None


class DroppedResponse(Response):
    """Begins an answer and breaks the connection in its middle."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id": ', "more_body": True})
        raise ConnectionAbortedError("dropped on demand")


def build_app(
    plan: FaultPlan, hang_s: float = HANG_S, parent: int | None = None, batch_s: float = 0.0
) -> Starlette:
    """The ASGI application; with `parent` it ends the process soon after that process is gone."""
    bill = Bill()
    server, batches = Server(plan, hang_s, bill), BatchServer(plan, bill, batch_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(_watch(parent)) if parent is not None else None
        with batches:
            yield
        if watcher is not None:
            watcher.cancel()

    return Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/embedded/bill", server.invoice),
            *batches.routes(),
        ],
        lifespan=lifespan,
    )


async def _watch(parent: int) -> None:
    """A parent killed with SIGKILL cannot stop us: look every second whether it is still there."""
    ours = os.getppid() == parent
    while True:
        await asyncio.sleep(1.0)
        # A child sees the end of its parent even before the dead parent's id is free again.
        if (ours and os.getppid() != parent) or not _alive(parent):
            os._exit(0)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main() -> None:
    """Bind, print the URL as one JSON line, serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m iot_pipeline.teacher.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument("--parent-pid", type=int, default=None, help="exit when this process is gone")
    parser.add_argument("--faults", default="", help=f"kind=probability,... of: {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--hang-seconds", type=float, default=HANG_S, help="how long a time-out fault hangs")
    parser.add_argument("--batch-seconds", type=float, default=0.0, help="how long a batch takes at least")
    arguments = parser.parse_args()
    try:
        serve(
            "127.0.0.1", arguments.port, arguments.faults, arguments.seed, arguments.hang_seconds, arguments.parent_pid,
            arguments.batch_seconds, lambda url: print(json.dumps({"base_url": url, "pid": os.getpid()}), flush=True),
        )
    except UserError as problem:
        sys.exit(f"error: {problem}")


def serve(
    host: str, port: int, faults: str, seed: int, hang_s: float, parent: int | None, batch_s: float,
    announce: Callable[[str], None],
) -> None:
    """Bind (port 0: any free one), announce the base URL, serve until SIGTERM or SIGINT.

    Raises UserError for a port in use and for faults that do not parse.
    """
    plan = FaultPlan(parse_faults(faults), seed)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        raise UserError(f"port {port} on {host} cannot be used ({problem.strerror}); choose one with --port") from None
    listener.listen(2048)
    app = build_app(plan, hang_s, parent, batch_s)
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    announce(f"http://{host}:{listener.getsockname()[1]}/v1")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
