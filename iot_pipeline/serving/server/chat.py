"""OpenAI's chat completions: the answer to a flow in the last message of the user."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from iot_pipeline.serving.server.answers import Answer, Asked, ask, check_parameters, event, event_stream, new_id
from iot_pipeline.serving.server.limits import AsciiJSON
from iot_pipeline.serving.server.schemas import ChatRequest
from iot_pipeline.serving.server.service import Service

WITHOUT_EFFECT = frozenset((
    "frequency_penalty", "metadata", "parallel_tool_calls", "presence_penalty", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "safety_identifier", "seed", "service_tier",
    "store", "user", "verbosity",
))  # fmt: skip
NEUTRAL: dict[str, Sequence[Any]] = {
    "n": [1], "logprobs": [False], "top_logprobs": [0], "logit_bias": [{}], "modalities": [["text"]],
    "response_format": [{"type": "text"}], "tools": [[]], "functions": [[]], "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"], "audio": [], "prediction": [], "web_search_options": [], "moderation": [],
}  # fmt: skip


async def chat(service: Service, request: ChatRequest) -> Response:
    """Answer a request, in one piece or as a stream; Refusal for what a student cannot do."""
    check_parameters(request.model_extra or {}, WITHOUT_EFFECT, NEUTRAL)
    service.check_model(request.model)
    most = request.max_completion_tokens or request.max_tokens
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    asked = await ask(service, request.messages, "messages", most, stops, request.units)
    common = {"id": new_id("chatcmpl-"), "created": int(time.time()), "model": service.model_id}
    if request.stream:
        usage = bool(request.stream_options and request.stream_options.include_usage)
        return event_stream(_chunks(asked, common, usage))
    answer = await asked.answer()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": answer.reason,
    }
    return AsciiJSON({
        **common, "object": "chat.completion", "choices": [choice], "usage": _usage(answer),
        "system_fingerprint": fingerprint(service), "verdict": answer.told,
    })  # fmt: skip


def fingerprint(service: Service) -> str:
    """Return the model's version as OpenAI names a backend."""
    return f"fp_{service.classifier.origin.model[:12]}"


async def _chunks(asked: Asked, common: dict[str, Any], usage: bool) -> AsyncIterator[str]:
    """Yield the chunks of a stream: the role at once, then the answer."""

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        told = {**common, "object": "chat.completion.chunk", "system_fingerprint": fingerprint(asked.service)}
        return event({**told, "choices": [choice], **({"usage": None} if usage else {}), **more})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    answers: list[Answer] = []
    async for part in asked.parts(answers):
        yield chunk({"content": part})
    answer = answers[0]
    yield chunk({}, answer.reason, verdict=answer.told)
    if usage:
        yield event({**common, "object": "chat.completion.chunk", "choices": [], "usage": _usage(answer)})
    yield "data: [DONE]\n\n"


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
