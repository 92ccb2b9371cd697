"""Limits of the service, and the errors that it answers with, in the shape of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response


@dataclass(frozen=True)
class Limits:
    """Limits that keep the service answering; sizes in bytes, times in seconds.

    `bodies_bytes`: of all bodies at once. `text_characters`: of a text in which flows are looked for.
    `queue_flows`, `queue_explanations`: flows that wait at most. `batch_tokens`: tokens of a batch of classes.
    `batch_explanations`: flows that are explained at once. `gather_s`: how long an idle service waits for more requests
    before it scores. `answer_s`: time of a whole answer. `body_s`, `header_s`: time in which a client must have sent.
    """

    body_bytes: int = 4 << 20
    bodies_bytes: int = 128 << 20
    text_characters: int = 1 << 20
    header_bytes: int = 32 << 10
    flows: int = 1_000
    explained_flows: int = 32
    queue_flows: int = 20_000
    queue_explanations: int = 256
    batch_tokens: int = 32_768
    batch_explanations: int = 16
    gather_s: float = 0.004
    answer_s: float = 60.0
    body_s: float = 15.0
    header_s: float = 10.0
    idle_s: float = 15.0
    stop_s: float = 20.0
    requests: int = 2_048
    connections: int = 4_096


class Refusal(Exception):
    """A request that is not answered: status, sentence, and OpenAI's type, code and parameter of the error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """Body of the answer."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the answer."""
        return AsciiJSON(self.content, self.status, self.headers)


def busy(message: str, wait_s: float, status: int = 429) -> Refusal:
    """Return the refusal of a service that has too much to do, or stops; `wait_s`: when to ask again."""
    seconds = str(max(1, min(60, round(wait_s))))
    return Refusal(status, message, "rate_limit_exceeded" if status == 429 else None, headers={"Retry-After": seconds})


class AsciiJSON(Response):
    """JSON with other than ASCII characters escaped: UTF-8 cannot encode a lone surrogate that a client sent."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        super().__init__(body, status, headers)
