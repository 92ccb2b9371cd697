"""OpenAI's responses: the answer to a flow in the input, as Tenzir and newer clients ask for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from iot_pipeline.serving.server.answers import Answer, Asked, ask, check_parameters, event, event_stream, new_id
from iot_pipeline.serving.server.limits import AsciiJSON
from iot_pipeline.serving.server.schemas import Message, ResponsesRequest
from iot_pipeline.serving.server.service import Service

WITHOUT_EFFECT = frozenset((
    "include", "max_tool_calls", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream_options", "truncation",
    "user",
))  # fmt: skip
TEXT = {"type": "text"}
NEUTRAL: dict[str, Sequence[Any]] = {
    "background": [False], "tools": [[]], "tool_choice": ["none", "auto"], "text": [{}, {"format": TEXT}],
    "top_logprobs": [0], "context_management": [[]], "previous_response_id": [], "conversation": [], "prompt": [],
    "moderation": [], "image": [],
}  # fmt: skip


async def respond(service: Service, request: ResponsesRequest) -> Response:
    """Answer a request, in one piece or as a stream; Refusal for what a student cannot do."""
    extra = dict(request.model_extra or {})
    if isinstance(extra.get("text"), dict):
        extra["text"] = {name: value for name, value in extra["text"].items() if name != "verbosity"}
    check_parameters(extra, WITHOUT_EFFECT, NEUTRAL)
    service.check_model(request.model)
    given = request.input
    messages = [Message(role="user", content=given)] if isinstance(given, str) else given
    asked = await ask(service, messages, "input", request.max_output_tokens, units=request.units)
    common = _common(service, request)
    if request.stream:
        return event_stream(_events(asked, common))
    return AsciiJSON(_whole(common, await asked.answer(), new_id("msg_")))


def _common(service: Service, request: ResponsesRequest) -> dict[str, Any]:
    """Return what every form of the response holds."""
    return {
        "id": new_id("resp_"), "object": "response", "created_at": int(time.time()), "model": service.model_id,
        "status": "in_progress", "error": None, "incomplete_details": None, "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens, "output": [], "parallel_tool_calls": False,
        "previous_response_id": None, "reasoning": {"effort": None, "summary": None}, "store": False,
        "temperature": request.temperature, "text": {"format": TEXT}, "tool_choice": "none", "tools": [],
        "top_p": request.top_p, "truncation": "disabled", "usage": None, "user": None,
        "metadata": request.metadata or {},
    }  # fmt: skip


def _message(item: str, text: str, status: str) -> dict[str, Any]:
    content = [_text(text)] if status != "in_progress" else []
    return {"id": item, "type": "message", "role": "assistant", "status": status, "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _whole(common: dict[str, Any], answer: Answer, item: str) -> dict[str, Any]:
    """Return the response with its answer."""
    cut = answer.reason == "length"
    status = "incomplete" if cut else "completed"
    return {
        **common, "status": status, "output": [_message(item, answer.text, status)],
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": answer.prompt_tokens, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.tokens,
        },
        "verdict": answer.told,
    }  # fmt: skip


async def _events(asked: Asked, common: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the events of a stream in the order in which OpenAI sends them."""
    number, item = -1, new_id("msg_")
    part = {"item_id": item, "output_index": 0, "content_index": 0}

    def told(kind: str, **content: Any) -> str:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number, **content}, kind)

    yield told("response.created", response=common)
    yield told("response.in_progress", response=common)
    yield told("response.output_item.added", output_index=0, item=_message(item, "", "in_progress"))
    yield told("response.content_part.added", **part, part=_text(""))
    answers: list[Answer] = []
    async for delta in asked.parts(answers):
        yield told("response.output_text.delta", **part, delta=delta, logprobs=[])
    answer = answers[0]
    yield told("response.output_text.done", **part, text=answer.text, logprobs=[])
    yield told("response.content_part.done", **part, part=_text(answer.text))
    whole = _whole(common, answer, item)
    yield told("response.output_item.done", output_index=0, item=whole["output"][0])
    yield told(f"response.{whole['status']}", response=whole)
