"""Chat completions in the format of the real API: validation of bodies, answers and errors."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from starlette.responses import JSONResponse

from iot_pipeline.embedded_teacher.analyst import find_classes, prompt_tokens, write_answer
from iot_pipeline.embedded_teacher.faults import ANSWER_FAULTS, REFUSAL, spoil
from iot_pipeline.teacher.request import EMBEDDED_MODEL

FINGERPRINT = "fp_embedded_1"
DEFAULT_MAX_TOKENS = 4096
CONTEXT_TOKENS = 128_000  # of gpt-4o-mini
ANSWER_FIELDS = {"classification", "analysis", "key_indicators"}
ROLES = ("assistant", "developer", "system", "user")  # not a set: the value looked up may be an unhashable list


class BadBody(Exception):
    """Invalid request body, with the parameter at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class AsciiJSON(JSONResponse):
    """JSON response with non-ASCII characters escaped: UTF-8 cannot encode a lone surrogate sent by a client."""

    def render(self, content: Any) -> bytes:
        """Encode the body as ASCII JSON."""
        return json.dumps(content).encode()


def error(
    status: int,
    message: str,
    kind: str,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> AsciiJSON:
    """Return an error response as the real API words it.

    Args:
        status: HTTP status.
        message: description of the error.
        kind: the error's `type`.
        code: machine-readable code.
        param: parameter at fault.
        headers: additional response headers.
    """
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return AsciiJSON(content, status, headers=headers)


def check_body(body: Any, json_schema: bool = True) -> dict[str, Any]:
    """Validate a request body and return the arguments of `write_answer`, with the API's defaults.

    json_schema: True if the server supports response_format json_schema.

    Raises BadBody for the first invalid field.
    """
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
            raise BadBody(f"{where}.role must be one of {', '.join(ROLES)}", f"{where}.role")
        content = message.get("content")
        if not isinstance(content, str) or not _encodes(content):
            raise BadBody(f"{where}.content must be a string of Unicode text", f"{where}.content")
    if (tokens := prompt_tokens("\n".join(message["content"] for message in messages))) > CONTEXT_TOKENS:
        raise BadBody(f"messages of {tokens:,} tokens are over the context length of {CONTEXT_TOKENS:,}", "messages")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (type(limit) is not int or limit < 1):
        raise BadBody("max_tokens must be a whole number of at least 1", "max_tokens")
    for name, high in (("temperature", 2), ("top_p", 1)):
        value = body.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value <= high):
            raise BadBody(f"{name} must be a number from 0 to {high}", name)
    if type(body.get("seed")) not in (int, type(None)):  # a bool is an int to isinstance
        raise BadBody("seed must be a whole number", "seed")
    fields = _fields(body.get("response_format"))
    if fields and not json_schema:
        raise BadBody("response_format of type json_schema is not supported with this model", "response_format")
    if body.get("stream"):
        raise BadBody("the embedded teacher does not stream", "stream")
    if body.get("n") not in (None, 1):
        raise BadBody("the embedded teacher writes one answer a request", "n")
    temperature = body.get("temperature")
    return {
        "messages": messages,
        "seed": body.get("seed"),
        "max_tokens": limit or DEFAULT_MAX_TOKENS,
        "temperature": 1.0 if temperature is None else float(temperature),
        "fields": fields,
    }


def _fields(wanted: Any) -> tuple[str, ...]:
    """Return the fields of the JSON object that a response_format requests, in order; empty for plain text."""
    where = "response_format"
    if wanted is None or wanted == {"type": "text"}:
        return ()
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind != "json_schema":
        raise BadBody(f"{where}.type must be text or json_schema", where)
    named = wanted.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise BadBody(f"{where}.json_schema.name must be a string", f"{where}.json_schema.name")
    schema = named.get("schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or set(properties) != ANSWER_FIELDS:
        raise BadBody(
            f"the embedded teacher writes objects of {', '.join(sorted(ANSWER_FIELDS))} only", f"{where}.json_schema"
        )
    return tuple(properties)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can contain
        return False
    return True


def completion(arguments: dict[str, Any], fault: str | None, raw: bytes, cached_tokens: int = 0) -> dict[str, Any]:
    """Return the completion for a valid body; an answer fault spoils it.

    The id is a hash of the raw body: equal requests get equal ids, and nothing stored depends on the clock.

    Args:
        arguments: result of `check_body`.
        fault: fault drawn for this request, or None.
        raw: the body as received.
        cached_tokens: prompt tokens billed as cached.
    """
    text, reason, usage = write_answer(**arguments)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if fault == "refusal":
        message = {"role": "assistant", "content": None, "refusal": REFUSAL}
    elif fault in ANSWER_FAULTS:
        message["content"] = spoil(fault, text, find_classes(arguments["messages"]))
        reason = "length" if fault == "truncate" else reason
    return {
        "id": f"chatcmpl-{hashlib.sha256(raw).hexdigest()[:29]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": EMBEDDED_MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached_tokens}},
        "system_fingerprint": FINGERPRINT,
    }


def prompt_of(arguments: dict[str, Any]) -> str:
    """Return the prompt of a valid body: the text of its messages."""
    return "\n".join(message["content"] for message in arguments["messages"])
