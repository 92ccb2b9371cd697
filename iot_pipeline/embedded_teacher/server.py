"""The embedded teacher: an OpenAI-compatible server on 127.0.0.1, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iot_pipeline.embedded_teacher.analyst import prompt_tokens
from iot_pipeline.embedded_teacher.batches import MOST_BYTES, BatchServer, ServerOptions
from iot_pipeline.embedded_teacher.billing import Bill, PromptCache
from iot_pipeline.embedded_teacher.completions import BadBody, check_body, completion, error, prompt_of
from iot_pipeline.embedded_teacher.faults import RATE_LIMIT_FAULTS, SINGLE_FAULTS, FaultPlan
from iot_pipeline.errors import UserError
from iot_pipeline.lake.processes import end_with_parent
from iot_pipeline.teacher.rate_limit import Quota
from iot_pipeline.teacher.request import EMBEDDED_MODEL

MOST_BODY = 4_000_000
# Python collects after 700 new objects, fewer than a burst of requests creates; a collection takes 10 to 70 ms.
COLLECT_AFTER = 20_000


class Server:
    """Routes and state of chat completions, models and bill."""

    def __init__(self, plan: FaultPlan, options: ServerOptions, bill: Bill) -> None:
        self.plan, self.options, self.bill = plan, options, bill
        self.quota, self.cache = Quota(options.rpm, options.tpm), PromptCache()

    async def models(self, request: Request) -> Response:
        """Handle GET /v1/models."""
        model = {"id": EMBEDDED_MODEL, "object": "model", "created": 0, "owned_by": "iot_pipeline"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """Handle POST /v1/chat/completions."""
        raw = await request.body()
        try:
            arguments = check_body(json.loads(raw), bool(self.options.json_schema))
        except (ValueError, RecursionError) as problem:  # includes bytes that are not UTF-8
            return error(400, f"the body is not valid JSON: {problem}", "invalid_request_error")
        except BadBody as problem:
            return error(400, str(problem), "invalid_request_error", param=problem.param)
        wanted = request.headers.get("x-iot-fault")
        if wanted is not None and wanted not in SINGLE_FAULTS:
            return error(400, f"unknown fault {wanted}", "invalid_request_error", param="x-iot-fault")
        tokens = prompt_tokens(prompt_of(arguments))
        if wait := self.quota.admit(tokens + arguments["max_tokens"]):
            headers = self.quota.headers()
            if math.isfinite(wait):  # otherwise waiting does not help
                headers |= {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
            return error(429, "Rate limit reached", "requests", "rate_limit_exceeded", headers=headers)
        fault = wanted or self.plan.draw(raw, SINGLE_FAULTS)
        return self._unanswered(fault) or await self._answered(request, raw, arguments, tokens, fault)

    async def invoice(self, request: Request) -> Response:
        """Handle GET /v1/embedded/bill, which is no part of the real API: the bill since the server started.

        ?by=prompt adds every single answer, see Bill.to_json.
        """
        return JSONResponse(self.bill.to_json(request.query_params.get("by") == "prompt"))

    def _unanswered(self, fault: str | None) -> Response | None:
        """Return the response of a fault that prevents an answer, or None."""
        if fault in RATE_LIMIT_FAULTS:
            in_a_second = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
            headers = {
                "rate_limit": {"retry-after-ms": "50", "retry-after": "1"},
                "rate_limit_date": {"retry-after": in_a_second},
            }.get(str(fault), {})
            return error(429, "Rate limit reached", "requests", "rate_limit_exceeded", headers=headers)
        if fault == "server_error":
            return error(500, "The server had an error while processing your request", "server_error")
        if fault == "unauthorised":
            return error(401, "Incorrect API key provided", "invalid_request_error", "invalid_api_key")
        return None

    async def _answered(
        self, request: Request, raw: bytes, arguments: dict[str, Any], tokens: int, fault: str | None
    ) -> Response:
        """Write and bill an answer, then respond as the fault dictates; clients that have left are billed too."""
        content = completion(arguments, fault, raw, self.cache.tokens(prompt_of(arguments), tokens))
        self.bill.add("requests", raw, arguments["messages"], content, fault)
        headers = self.quota.headers() | {"x-request-id": content["id"].replace("chatcmpl-", "req_")}
        if self.options.answer_seconds:
            await asyncio.sleep(self.options.answer_seconds)
        if fault == "unreadable":
            return Response(b'{"id": "chatcmpl-1", "choices": [{"mess', media_type="application/json")
        if fault == "timeout":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.hang_seconds):
                    while not await request.is_disconnected():
                        await asyncio.sleep(0.05)
            return error(503, "timed out", "server_error")
        if fault in ("drop", "drop_early"):
            return DroppedResponse(early=fault == "drop_early")
        return JSONResponse(content, headers=headers)


class DroppedResponse(Response):
    """Response that breaks the connection, before any header or in the middle of the body."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early = early

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.early:
            # ASGI has no message for this; uvicorn's `receive` is bound to the object that holds the connection.
            scope["receive"].__self__.transport.abort()
            await asyncio.sleep(0.01)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id": ', "more_body": True})
        raise ConnectionAbortedError("dropped on demand")


class BodyLimit:
    """Middleware that refuses bodies over 4 MB (files: 204 MB) with 413, without storing the rest.

    128,000 tokens are at most 2.3 MB of JSON, with every character escaped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = MOST_BYTES + MOST_BODY if scope["path"] == "/v1/files" else MOST_BODY
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read <= most:
                return message
            while message.get("more_body"):  # a client that is cut off while sending does not read the error
                message = await receive()
            raise HTTPException(413, f"a body may have {most} bytes")

        await self.app({**scope, "receive": receive}, limited, send)


async def http_error(request: Request, problem: Exception) -> Response:
    """Format the framework's errors as the real API does."""
    assert isinstance(problem, HTTPException)
    return error(problem.status_code, str(problem.detail), "invalid_request_error", headers=dict(problem.headers or {}))


def main() -> None:
    """Run the server as the subprocess of `embedded_server`, with arguments as JSON; print the base URL."""
    told = json.loads(sys.argv[1])
    plan, options = FaultPlan(told["faults"], told["seed"]), ServerOptions(**told["options"])
    end_with_parent(told["parent"])  # a parent killed by SIGKILL cannot stop this process
    try:
        serve("127.0.0.1", 0, plan, options, lambda url: print(url, flush=True))
    except UserError as problem:
        sys.exit(f"error: {problem}")


def serve(host: str, port: int, plan: FaultPlan, options: ServerOptions, announce: Callable[[str], None]) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        host: address to bind.
        port: port to bind; 0 = any free one.
        plan: faults to inject.
        options: latencies and limits.
        announce: called with the base URL.

    Raises:
        UserError: the port cannot be used.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        raise UserError(f"port {port} on {host} cannot be used ({problem.strerror}); choose one with --port") from None
    listener.listen(2048)
    bill = Bill()
    server, batches = Server(plan, options, bill), BatchServer(plan, options, bill)
    app = Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/embedded/bill", server.invoice),
            *batches.routes(),
        ],
        middleware=[Middleware(BodyLimit)],
        exception_handlers={HTTPException: http_error},
    )
    config = uvicorn.Config(app, ws="none", log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    announce(f"http://{host}:{listener.getsockname()[1]}/v1")
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
