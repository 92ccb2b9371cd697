"""The embedded teacher: an OpenAI-compatible server on 127.0.0.1, in a process of its own.

Belongs here: HTTP in the real API's shape. Does not belong here: the writing (analyst.py), starting it (process.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.analyst import find_classes, write_answer
from iot_pipeline.teacher.faults import FAULTS, REFUSAL, FaultPlan, parse_faults, spoil
from iot_pipeline.teacher.request import EMBEDDED_MODEL

FINGERPRINT = "fp_embedded_1"
DEFAULT_MAX_TOKENS = 4096
HANG_S = 600.0
ROLES = {"system", "developer", "user", "assistant"}
# No limit is enforced; the headers are there so that a client can be written against them.
LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "1000000", "x-ratelimit-remaining-requests": "999999",
    "x-ratelimit-reset-requests": "1ms", "x-ratelimit-limit-tokens": "1000000000",
    "x-ratelimit-remaining-tokens": "999999999", "x-ratelimit-reset-tokens": "1ms",
}


class BadBody(Exception):
    """The request body breaks the API's rules: message and parameter."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def error(
    status: int, message: str, kind: str, code: str | None = None, param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error as the real API words it."""
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(content, status, headers=headers)


def check_body(body: Any) -> dict[str, Any]:
    """The arguments of `write_answer`, with the API's defaults; BadBody names the first field that is wrong."""
    if not isinstance(body, dict):
        raise BadBody("the request body must be a JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadBody("you must provide a model parameter", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadBody("'messages' must be an array with at least one message", "messages")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadBody(f"{where}.role must be one of {', '.join(sorted(ROLES))}", f"{where}.role")
        if not isinstance(message.get("content"), str):
            raise BadBody(f"{where}.content must be a string", f"{where}.content")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (not _whole(limit) or limit < 1):
        raise BadBody("max_tokens must be a whole number of at least 1", "max_tokens")
    for name, high in (("temperature", 2), ("top_p", 1)):
        value = body.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= high):
            raise BadBody(f"{name} must be a number from 0 to {high}", name)
    if body.get("seed") is not None and not _whole(body["seed"]):
        raise BadBody("seed must be a whole number", "seed")
    if body.get("stream"):
        raise BadBody("the embedded teacher does not stream", "stream")
    if body.get("n") not in (None, 1):
        raise BadBody("the embedded teacher writes one answer a request", "n")
    temperature = body.get("temperature")
    return {
        "messages": messages, "seed": body.get("seed"), "max_tokens": limit or DEFAULT_MAX_TOKENS,
        "temperature": 1.0 if temperature is None else float(temperature),
    }


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Server:
    """The routes and their state."""

    def __init__(self, plan: FaultPlan, hang_s: float) -> None:
        self.plan, self.hang_s = plan, hang_s

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
        if wanted is not None and wanted not in FAULTS:
            return error(400, f"unknown fault {wanted}", "invalid_request_error", param="x-iot-fault")
        fault = wanted or self.plan.draw(raw)
        failed = await self._transport_fault(fault, request)
        if failed is not None:
            return failed
        text, reason, usage = write_answer(**arguments)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": REFUSAL}
        elif fault is not None:
            message["content"] = spoil(fault, text, find_classes(arguments["messages"]))
            reason = "length" if fault == "truncate" else reason
        # Equal requests get equal ids: nothing that a client keeps depends on the clock.
        identity = hashlib.sha256(raw).hexdigest()[:29]
        content = {
            "id": f"chatcmpl-{identity}", "object": "chat.completion", "created": int(time.time()),
            "model": EMBEDDED_MODEL,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": {
                **usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            "system_fingerprint": FINGERPRINT,
        }
        return JSONResponse(content, headers=LIMIT_HEADERS | {"x-request-id": f"req_{identity}"})

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


def build_app(plan: FaultPlan, hang_s: float = HANG_S, parent: int | None = None) -> Starlette:
    """The ASGI application; with `parent` it ends the process soon after that process is gone."""
    server = Server(plan, hang_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(_watch(parent)) if parent is not None else None
        yield
        if watcher is not None:
            watcher.cancel()

    return Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
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
    arguments = parser.parse_args()
    try:
        serve(
            "127.0.0.1", arguments.port, arguments.faults, arguments.seed, arguments.hang_seconds, arguments.parent_pid,
            lambda url: print(json.dumps({"base_url": url, "pid": os.getpid()}), flush=True),
        )
    except UserError as problem:
        sys.exit(f"error: {problem}")


def serve(
    host: str, port: int, faults: str, seed: int, hang_s: float, parent: int | None, announce: Callable[[str], None]
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
    app = build_app(plan, hang_s, parent)
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    announce(f"http://{host}:{listener.getsockname()[1]}/v1")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
