"""Parameters that a server does not take: learnt from its refusals, said once, and left out from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.teacher.parameters import refused_parameter, without
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import Said, accept, batch_server, completion, result, said, serving, teacher
from iot_pipeline_tests.teacher.test_hostile import with_schema


def refusal(words: str, code: str = "", parameter: str | None = None) -> tuple[dict[str, Any], int]:
    return {"error": {"message": words, "code": code, "param": parameter}}, 400


def reasoning_model(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Answer as models do that think first: no max_tokens, no sampling but the default."""
    if "max_tokens" in body:
        words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        return refusal(words, "unsupported_parameter", "max_tokens")
    for name in ("temperature", "top_p"):
        if body.get(name, 1) != 1:
            words = (
                f"Unsupported value: '{name}' does not support {body[name]}. Only the default (1) value is supported."
            )
            return refusal(words, "unsupported_value", name)
    return completion(), 200


def no_seed(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    if "seed" in body:
        fault = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
        return {"detail": [fault]}, 422
    return completion(), 200


@pytest.mark.parametrize("via", ["requests", "batch"])
@pytest.mark.parametrize(
    ("server", "told"),
    [
        (
            reasoning_model,
            [
                "max_tokens: it is asked with max_completion_tokens",
                "temperature: it is asked without",
                "top_p: it is asked without",
            ],
        ),
        (no_seed, ["seed: it is asked without"]),
    ],
)
def test_what_a_server_does_not_take_is_left_out_and_said_once(
    tmp_path: Path, via: str, server: Any, told: list[str]
) -> None:
    received: list[dict[str, Any]] = []

    def answer(_method: str, _path: str, body: bytes) -> Said:
        received.append(json.loads(body))
        return said(*server(received[-1]))

    def results(lines: list[dict[str, Any]]) -> bytes:
        received.extend(line["body"] for line in lines)
        return b"".join(result(line, *server(line["body"])) for line in lines)

    requests, heard = make_requests(12), list[str]()
    with serving(answer if via == "requests" else batch_server(results)) as url:
        asking = teacher(url, tmp_path / "t", via=via, log=heard.append, concurrency=2)
        answers = asking.ask(requests, accept)
        assert {a.status for a in answers.values()} == {"ok"} and set(answers) == {r.key for r in requests}
        assert all(sum(words in line for line in heard) == 1 for words in told)
        again = len(received)
        asking.ask(make_requests(16), accept)
        assert len(received) == again + 4  # the same session asks the later ones right at once
    limit = received[-1].get("max_completion_tokens", received[-1].get("max_tokens"))
    assert limit == requests[0].params["max_tokens"]
    assert asking.refused == sorted(words.split(":")[0] for words in told)


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
        "temperature must be between 0 and 2",
        "This model's maximum context length is 2048 tokens",
    ],
)
def test_a_value_out_of_range_is_a_fault_of_the_settings(tmp_path: Path, words: str) -> None:
    with serving(lambda *_: said(*refusal(words))) as url:
        asking = teacher(url, tmp_path / "t")
        answers = asking.ask(make_requests(3), accept)
    assert asking.summary.attempts == 3
    assert all(words in a.reasons[0] for a in answers.values())


def test_a_server_that_takes_nothing_is_not_asked_without_an_end(tmp_path: Path) -> None:
    words = "unsupported: max_tokens (use max_completion_tokens), temperature, top_p, seed"
    with serving(lambda *_: said(*refusal(words))) as url:
        asking = teacher(url, tmp_path / "t")
        answers = asking.ask(make_requests(2), accept)
    assert asking.summary.attempts <= 10 and all(words in a.reasons[0] for a in answers.values())


def test_a_parameter_that_was_not_sent_is_not_at_fault() -> None:
    words = "Unsupported value: 'temperature' does not support 0.7"
    assert refused_parameter("unsupported_value", words, {"max_tokens"}) == ""
    assert refused_parameter("unsupported_value", words, {"max_tokens", "temperature"}) == "temperature"


def test_the_parameter_named_first_is_at_fault_and_a_model_s_name_names_none() -> None:
    words = "unknown field `seed`, expected one of `model`, `temperature`, `top_p`"
    assert refused_parameter("", words, {"seed", "temperature", "top_p"}) == "seed"
    assert refused_parameter("", "the model seed-1.6 does not support this", {"seed"}) == ""


def test_the_limit_keeps_its_value_under_its_other_name() -> None:
    body = {"model": "m", "max_tokens": 9, "seed": 1}
    assert without(body, ()) == body
    assert without(body, ("max_tokens", "seed")) == {"model": "m", "max_completion_tokens": 9}


# -- a schema refused in any words, and templates without a system message ---------------------------------

WORDS = [
    (400, {"error": {"code": 400, "message": "Failed to initialize samplers: failed to parse grammar"}}),
    (400, {"error": {"message": "This model does not support response format `json_schema`."}}),
    (422, {"detail": "unprocessable"}),
    (500, {"error": {"message": "guided decoding backend failed: xgrammar"}}),
    (400, "no"),
]


@pytest.mark.parametrize("via", ["requests", "batch"])
@pytest.mark.parametrize(("status", "content"), WORDS)
def test_a_schema_refused_in_any_words_is_tried_once_without(
    status: int, content: Any, via: str, tmp_path: Path
) -> None:
    received: list[dict[str, Any]] = []

    def server(body: dict[str, Any]) -> tuple[Any, int]:
        received.append(body)
        return (content, status) if "response_format" in body else (completion(), 200)

    def results(lines: list[dict[str, Any]]) -> bytes:
        return b"".join(result(line, *server(line["body"])) for line in lines)

    answer = batch_server(results) if via == "batch" else lambda *a: said(*server(json.loads(a[2])))
    heard: list[str] = []
    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t", via=via, log=heard.append, concurrency=2)
        assert {a.status for a in asking.ask(with_schema(make_requests(6)), accept).values()} == {"ok"}
        before = len(received)
        asking.ask(with_schema(make_requests(9)), accept)
    assert asking.form_refused and len(received) == before + 3
    assert sum("takes no response_format" in line for line in heard) == 1


def test_a_refusal_for_another_reason_keeps_the_schema_and_is_told(tmp_path: Path) -> None:
    words = "This model's maximum context length is 2048 tokens"

    def answer(_method: str, _path: str, body: bytes) -> Said:
        long = " 0.125" in json.loads(body)["messages"][-1]["content"]  # the first flow alone
        return said(*refusal(words)) if long else said(completion())

    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t")
        answers = asking.ask(with_schema(make_requests(5)), accept)
    told = [a.reasons[0] for a in answers.values() if a.reasons]
    assert told == [f"no answer: rejected by the server (HTTP 400): {words}"]
    assert not asking.form_refused and asking.summary.attempts == 6


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "System role not supported"),
        (500, "Jinja Exception: System role not supported"),
        (400, "system messages are not allowed for this model"),
    ],
)
def test_a_system_message_that_is_not_taken_goes_to_the_user_s(status: int, words: str, tmp_path: Path) -> None:
    received: list[list[dict[str, str]]] = []

    def answer(_method: str, _path: str, body: bytes) -> Said:
        received.append(json.loads(body)["messages"])
        has = any(message["role"] == "system" for message in received[-1])
        return said({"error": {"message": words}}, status) if has else said(completion())

    requests = make_requests(3)
    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t", concurrency=1)
        assert {a.status for a in asking.ask(requests, accept).values()} == {"ok"}
    system, user = (message["content"] for message in requests[0].messages)
    assert received[1] == [{"role": "user", "content": f"{system}\n\n{user}"}] and len(received) == 4
    assert asking.refused == ["system"]
