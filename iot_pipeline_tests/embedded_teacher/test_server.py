"""The embedded server's manners: limits that hold and are told, a bill of what was written, forms, odd bodies."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.embedded_teacher.billing import PromptCache, prompt_id
from iot_pipeline.embedded_teacher.completions import BadBody, check_body, completion
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.rate_limit import duration
from iot_pipeline_tests.teacher.flows import make_requests


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def call(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)


def test_the_unmodified_client_gets_a_chat_completion(url: str) -> None:
    body = make_requests(1)[0].body()
    answer = client(url).chat.completions.create(**body)
    choice, usage = answer.choices[0], answer.usage
    assert choice.finish_reason == "stop" and choice.message.refusal is None
    assert choice.message.content is not None and choice.message.content.startswith("CLASSIFICATION: Normal\n")
    assert usage is not None and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.model == "embedded-analyst" and [m.id for m in client(url).models.list()] == ["embedded-analyst"]
    with pytest.raises(openai.BadRequestError) as refused:
        client(url).chat.completions.create(**{**body, "temperature": 3})
    assert refused.value.param == "temperature"


def test_requests_a_minute_are_kept_and_told_truly() -> None:
    body = make_requests(1)[0].body()
    with embedded_server(rpm=3) as url:
        seen = [client(url).chat.completions.with_raw_response.create(**body).headers for _ in range(3)]
        assert [headers["x-ratelimit-remaining-requests"] for headers in seen] == ["2", "1", "0"]
        assert {headers["x-ratelimit-limit-requests"] for headers in seen} == {"3"}
        assert "x-ratelimit-limit-tokens" not in seen[0]  # no limit, no header
        with pytest.raises(openai.RateLimitError) as refused:
            client(url).chat.completions.create(**body)
    headers = refused.value.response.headers
    assert 10 < int(headers["retry-after"]) <= 20 and headers["x-ratelimit-remaining-requests"] == "0"
    assert (
        40
        < sum(
            float(n) * {"m": 60, "s": 1}[u]
            for n, u in re.findall(r"([\d.]+)([ms])", headers["x-ratelimit-reset-requests"])
        )
        <= 60
    )


def test_tokens_a_minute_are_kept() -> None:
    body = make_requests(1)[0].body()  # about 250 tokens to read, 400 to write at most
    with embedded_server(tpm=1000) as url:
        client(url).chat.completions.create(**body)
        with pytest.raises(openai.RateLimitError) as refused:
            client(url).chat.completions.create(**body)
        assert int(refused.value.response.headers["x-ratelimit-remaining-tokens"]) < 1000 - 400
        with pytest.raises(openai.RateLimitError) as never:
            client(url).chat.completions.create(**{**body, "max_tokens": 2000})
        assert "retry-after" not in never.value.response.headers


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "250ms"), (1.5, "1.5s"), (360, "6m0s"), (75.25, "1m15.25s")])
def test_durations_are_written_as_the_api_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_answer_takes_its_time() -> None:
    with embedded_server(answer_seconds=0.3) as url:
        started = time.monotonic()
        client(url).chat.completions.create(**make_requests(1)[0].body())
        assert time.monotonic() - started >= 0.3


def test_a_rate_limit_can_name_a_date_and_a_connection_can_break_before_the_headers(url: str) -> None:
    body = make_requests(1)[0].body()
    with pytest.raises(openai.RateLimitError) as refused:
        client(url).chat.completions.create(**body, extra_headers={"x-iot-fault": "rate_limit_date"})
    assert parsedate_to_datetime(refused.value.response.headers["retry-after"])
    raw = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    raw.request("POST", "/v1/chat/completions", json.dumps(body), {"x-iot-fault": "drop_early"})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        raw.getresponse()


def test_what_was_written_is_billed_whether_it_arrived_or_not() -> None:
    requests = make_requests(3)
    with embedded_server(hang_seconds=0.2) as url:
        for fault in ("drop", "drop_early", "timeout", "unreadable"):
            with pytest.raises((openai.APIError, ValueError)):
                client(url).chat.completions.create(**requests[0].body(), extra_headers={"x-iot-fault": fault})
        for fault in ("rate_limit", "server_error"):
            with pytest.raises(openai.APIStatusError):
                client(url).chat.completions.create(**requests[1].body(), extra_headers={"x-iot-fault": fault})
        client(url).chat.completions.create(**requests[2].body())
        client(url).chat.completions.create(**{**requests[2].body(), "seed": 7})
        bill = call(url, "/embedded/bill?by=prompt")[1]
    lines = {number: bill["by_prompt"].get(prompt_id(r.messages), []) for number, r in enumerate(requests)}
    assert [line[4] for line in lines[0]] == ["drop", "drop_early", "timeout", "unreadable"]
    assert lines[1] == [] and [line[4] for line in lines[2]] == ["ok", "ok"]  # two seeds of one prompt
    assert bill["requests"]["answers"] == 6 and bill["repeated"] == 3
    assert bill["requests"]["completion_tokens"] == sum(line[3] for part in lines.values() for line in part)


def test_the_beginning_that_prompts_share_is_cached() -> None:
    long = "word " * 1000
    with embedded_server() as url:
        used = []
        for end in ("a", "b", "c" * 600):
            body = {"model": "m", "messages": [{"role": "user", "content": long + end}]}
            usage = client(url).chat.completions.create(**body).usage  # type: ignore[call-overload]
            used.append((usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens))
        short = client(url).chat.completions.create(model="m", messages=[{"role": "user", "content": "word"}]).usage
        bill = call(url, "/embedded/bill")[1]["requests"]
    assert [cached for _, cached in used] == [0, 1664, 1664]  # 1024 + 5 * 128 of 1,667 tokens
    assert short is not None and short.prompt_tokens_details is not None
    assert short.prompt_tokens_details.cached_tokens == 0 and bill["cached_tokens"] == 2 * 1664
    assert PromptCache().tokens("x" * 30_000, 1023) == 0


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["classification", "analysis", "key_indicators"],
    "properties": {
        "classification": {"type": "string"},
        "analysis": {"type": "string"},
        "key_indicators": {"type": "array", "items": {"type": "object"}},
    },
}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def test_an_answer_takes_the_form_of_a_schema(url: str) -> None:
    body = make_requests(2)[1].body()
    text = client(url).chat.completions.create(**body).choices[0].message.content
    said = client(url).chat.completions.create(**body, response_format=FORM).choices[0].message.content
    assert text is not None and said is not None
    content = json.loads(said)
    assert list(content) == ["classification", "analysis", "key_indicators"]
    assert f"CLASSIFICATION: {content['classification']}\nANALYSIS: {content['analysis']}\n" in text
    noted = [(f"{item['feature']} {item['value']}", item["note"]) for item in content["key_indicators"]]
    items = [name + (f" ({note})" if note else "") for name, note in noted]
    assert text.endswith("KEY_INDICATORS: " + "; ".join(items))
    cut = client(url).chat.completions.create(**{**body, "max_tokens": 20}, response_format=FORM).choices[0]
    assert cut.finish_reason == "length" and cut.message.content is not None and said.startswith(cut.message.content)
    with embedded_server(json_schema=0) as plain, pytest.raises(openai.BadRequestError) as refused:
        client(plain).chat.completions.create(**body, response_format=FORM)
    assert refused.value.param == "response_format"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/batches", {"input_file_id": ["x"]}, "input_file_id"),
        ("/batches", {"input_file_id": {}}, "input_file_id"),
        ("/batches", [], None),
        ("/batches", b"\xff", None),
        ("/batches?limit=many", None, "limit"),
        ("/batches?limit=-1", None, "limit"),
        ("/batches?limit=%C2%B2", None, "limit"),
        ("/chat/completions", b"[" * 100_000, None),
        ("/files", {"purpose": "batch"}, "purpose"),
        (
            "/chat/completions",
            b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
            "messages[0].content",
        ),
        (
            "/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": 5},
            "response_format",
        ),
    ],
)
def test_odd_requests_are_refused_in_the_api_s_shape(url: str, path: str, body: Any, param: str | None) -> None:
    status, answer = call(url, path, body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error" and answer["error"]["param"] == param


def test_what_is_not_there_is_said_in_the_api_s_shape(url: str) -> None:
    for path in ("/batches/none", "/files/none", "/files/none/content", "/nowhere"):
        status, answer = call(url, path)
        assert status == 404 and answer["error"]["message"]
    file = client(url).files.create(file=("in.jsonl", b"{}"), purpose="batch")
    for metadata in (5, {"a": 1}, {str(n): "" for n in range(17)}):
        started = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert call(url, "/batches", {**started, "metadata": metadata})[1]["error"]["param"] == "metadata"


@pytest.mark.parametrize(
    "line",
    [{"custom_id": ["a"], "method": "POST", "url": "/v1/chat/completions", "body": {}}, [1], "x", {"custom_id": "a"}],
)
def test_odd_lines_fail_their_batch_by_number(url: str, line: Any) -> None:
    file = client(url).files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = finished(url, file.id)
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [(1, "invalid_json_line")]


def finished(url: str, file: str) -> Any:
    batch = client(url).batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("completed", "failed"):
        batch = client(url).batches.retrieve(batch.id)
    return batch


def test_enqueued_tokens_are_kept() -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": make_requests(1)[0].body()}
    with embedded_server(enqueued_tokens=300, batch_seconds=0.5) as url:
        file = client(url).files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
        started = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        first = client(url).batches.create(**started)  # type: ignore[call-overload]
        second = finished(url, file.id)
        assert second.status == "failed" and second.errors.data[0].code == "token_limit_exceeded"
        while client(url).batches.retrieve(first.id).status != "completed":
            time.sleep(0.05)
        assert finished(url, file.id).status == "completed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "json_schema", "name", "schema", "properties", "analysis"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "n",
        "stream",
        "response_format",
    ]
)


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(FIELDS, JSON, max_size=3))
@example(changes={"messages": [{"role": []}]})
def test_any_body_is_answered_or_refused_by_name(changes: dict[str, Any]) -> None:
    body: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | changes
    try:
        arguments = check_body(body)
    except BadBody as problem:
        assert str(problem)
        return
    assert completion(arguments, None, b"")["choices"][0]["message"]["content"]


FLOW = "True class: Normal\norig_pkts: 1.5\nresp_pkts: 2.0\nflow_iat.avg: 3.0\nabout 900 words\n"
GIVEN = "<answer>CLASSIFICATION: x\nANALYSIS: {}\nKEY_INDICATORS: {}</answer>"
N = 300_000


# 300,000 newlines held the server up for good: a run of signs was read anew from each of its lines.
@pytest.mark.parametrize(
    "text",
    [
        *(sign * N for sign in "\n -1(:`"),
        "True class" + ":" * N,
        "classes" + "\n:" * (N // 2),
        "<answer>" * (N // 8),
        "<answer>" + " " * N,
        "- a (\n" * (N // 6),
        "ANALYSIS" + "\n:" * (N // 2),
        GIVEN.format("y", "a" * N),
        GIVEN.format("ab 1 " * 20_000, "ab 1; " * 30_000),
        "classes: " + "a," * (N // 2),
        "a" + " b 1" * (N // 4) + "x",
        GIVEN.format(" ".join(f"f_{n} 1" for n in range(9000)), "; ".join(f"f_{n} 1" for n in range(9000))),
    ],
    ids=lambda text: repr(text[:14]),
)
def test_no_prompt_holds_the_server_up(url: str, text: str) -> None:
    for content in (text, FLOW + text):
        messages = [{"role": "user", "content": content}]
        status, answer = call(url, "/chat/completions", {"model": "m", "messages": messages})
        assert status == 200 and answer["choices"][0]["message"]["content"]


def test_a_body_that_is_too_long_is_refused_before_it_is_read(url: str) -> None:
    message = {"role": "user", "content": "x" * 400_000}
    status, answer = call(url, "/chat/completions", {"model": "m", "messages": [message]})
    assert status == 400 and "over the context length of 128,000" in answer["error"]["message"]
    for path in ("/chat/completions", "/batches"):
        status, answer = call(url, path, b" " * 5_000_000)
        assert status == 413 and answer["error"]["message"] == "a body may have 4000000 bytes"
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        chunks = iter([b" " * 1_000_000] * 5)  # of a length that is not told
        connection.request("POST", f"/v1{path}", chunks, encode_chunked=True, headers={"transfer-encoding": "chunked"})
        assert connection.getresponse().status == 413


def test_what_has_no_utf_8_is_quoted_as_an_escape(url: str) -> None:
    status, answer = call(url, "/batches", b'{"input_file_id": "\\ud800"}')
    assert status == 400 and answer["error"]["message"] == "no file \ud800"
    line = b'{"custom_id": "\\ud800", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'
    file = client(url).files.create(file=("in.jsonl", line * 2), purpose="batch")
    started = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    status, batch = call(url, "/batches", json.dumps(started).encode()[:-1] + b', "metadata": {"a": "\\udfff"}}')
    while status == 200 and batch["status"] == "validating":
        status, batch = call(url, f"/batches/{batch['id']}")
    assert status == 200 and batch["errors"]["data"][0]["code"] == "duplicate_custom_id"


def test_any_class_can_be_the_wrong_one() -> None:
    message = {"role": "user", "content": f"Classes: Normal, \\g<9>\\q\n{FLOW}"}
    arguments = check_body({"model": "m", "messages": [message]})
    text = completion(arguments, "wrong_label", b"")["choices"][0]["message"]["content"]
    assert text.startswith("CLASSIFICATION: \\g<9>\\q\n")
