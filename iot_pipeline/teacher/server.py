"""The embedded teacher: an OpenAI-compatible server on loopback with the rule-based analyst behind it.

Belongs here: the protocol (chat completions, models, errors, usage, rate-limit headers) and faults on demand.
Does not belong here: what an answer says (analyst.py). Run it by itself: python -m iot_pipeline.teacher.server
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from iot_pipeline.teacher.analyst import write_answer

MODEL = "embedded-analyst"
FAULTS = (
    "rate_limit", "rate_limit_no_header", "server_error", "timeout", "drop", "truncate", "refusal", "wrong_label",
    "ungrounded",
)
FAULT_HEADER = "x-iot-fault"
LIMIT = 1_000_000


@dataclass
class Faults:
    """How often each fault strikes (0 to 1), drawn with a seed; a request's header may ask for one by name."""

    shares: dict[str, float]
    seed: int = 0
    hang_seconds: float = 30.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def draw(self, asked: str | None) -> str | None:
        """The fault that strikes this request, if any."""
        if asked in FAULTS:
            return asked
        point = self.random.random()
        for name, share in self.shares.items():
            point -= share
            if point < 0:
                return name
        return None


class Server:
    """The endpoints and what they count."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.served = 0
        self.billed: Counter[str] = Counter()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/statistics", self.statistics),
            ]
        )

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "embedded"}]})

    async def statistics(self, request: Request) -> Response:
        """What was served and billed, for rehearsals and tests; not part of the API."""
        return JSONResponse({"served": self.served, **self.billed})

    async def completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        try:
            body = json.loads(await request.body())
        except ClientDisconnect:
            return Response(status_code=499)
        except json.JSONDecodeError:
            return problem(400, "the body is not JSON", "invalid_request_error")
        if complaint := invalid(body):
            return problem(400, complaint, "invalid_request_error")
        self.served += 1
        fault = self.faults.draw(request.headers.get(FAULT_HEADER))
        if fault in ("rate_limit", "rate_limit_no_header"):
            headers = {"retry-after": "0.05"} if fault == "rate_limit" else {}
            return problem(429, "Rate limit reached for requests", "requests", "rate_limit_exceeded", headers)
        if fault == "server_error":
            return problem(500, "The server had an error while processing your request", "server_error")
        if fault == "timeout":
            await asyncio.sleep(self.faults.hang_seconds)
        if fault == "drop":
            # A body shorter than announced: the connection ends in the middle of the answer.
            return Response(b'{"id": "cut', headers={"content-length": "4096"}, media_type="application/json")
        return self._answer(body, fault)

    def _answer(self, body: dict[str, Any], fault: str | None) -> Response:
        limit = int(body.get("max_tokens") or body.get("max_completion_tokens") or 4096)
        text, finish, usage = write_answer(
            body["messages"], float(body.get("temperature", 1.0)), int(body.get("seed") or 0), limit
        )
        refusal = None
        if fault == "truncate":
            text, finish = text[: len(text) // 2], "length"
        elif fault == "refusal":
            text, refusal = "", "I can't help with that."
        elif fault == "wrong_label":
            text = "\n".join(
                "CLASSIFICATION: Nothing_Of_The_Kind" if line.startswith("CLASSIFICATION:") else line
                for line in text.split("\n")
            )
        elif fault == "ungrounded":
            text = text.replace("ANALYSIS:", "ANALYSIS: A value of 987654.321 stands out.", 1)
        self.billed["prompt_tokens"] += usage["prompt_tokens"]
        self.billed["completion_tokens"] += usage["completion_tokens"]
        self.billed["answers"] += 1
        message = {"role": "assistant", "content": None if refusal else text, "refusal": refusal}
        return JSONResponse(
            {
                "id": f"chatcmpl-embedded-{self.served}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": MODEL,
                "system_fingerprint": "fp_embedded",
                "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
                "usage": usage | {"prompt_tokens_details": {"cached_tokens": 0}},
            },
            headers={
                "x-ratelimit-limit-requests": str(LIMIT), "x-ratelimit-remaining-requests": str(LIMIT - 1),
                "x-ratelimit-reset-requests": "1ms",
            },
        )


def invalid(body: Any) -> str | None:
    """What is wrong with a chat completion request, or None."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return "you must provide a model parameter"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list with at least one message"
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            return "each message needs a role and a content"
    if body.get("stream"):
        return "this server does not stream"
    return None


def problem(
    status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An error in the API's shape."""
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}, status_code=status, headers=headers
    )


async def leave_with(parent: int, server: uvicorn.Server) -> None:
    """Stop when the process that started us is gone, however it ended."""
    while not server.should_exit:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            server.should_exit = True
        await asyncio.sleep(0.5)


async def serve(arguments: argparse.Namespace) -> None:
    """Listen, say where, and serve until told to stop."""
    faults = Faults(dict(arguments.fault), arguments.seed, arguments.hang_seconds)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", arguments.port))
        config = uvicorn.Config(
            Server(faults).app(), log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        print(json.dumps({"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"}), flush=True)
        watch = asyncio.create_task(leave_with(arguments.parent_pid, server)) if arguments.parent_pid else None
        await server.serve(sockets=[listener])
        if watch:
            await watch


def fault(text: str) -> tuple[str, float]:
    """`rate_limit=0.05` -> (name, share)."""
    name, _, share = text.partition("=")
    if name not in FAULTS:
        raise argparse.ArgumentTypeError(f"no fault {name!r}; there are: {', '.join(FAULTS)}")
    return name, float(share or 1)


def main() -> None:
    """Command line of the server."""
    parser = argparse.ArgumentParser(description="Embedded OpenAI-compatible teacher on loopback.")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument("--parent-pid", type=int, help="stop when this process is gone")
    parser.add_argument("--fault", type=fault, action="append", default=[], help="NAME=SHARE, may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--hang-seconds", type=float, default=30.0, help="how long a time-out fault hangs")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
