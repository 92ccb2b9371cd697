"""Servers that answer anything: no request is asked without an end, none is lost, and the cap holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answers import answer_schema
from iot_pipeline.errors import UserError
from iot_pipeline.teacher import online, retry, session
from iot_pipeline.teacher.batch_api import line_reply, read_line
from iot_pipeline.teacher.http import ChatClient
from iot_pipeline.teacher.refusals import read_error, retry_after_s
from iot_pipeline.teacher.replies import MOST_TOKENS, read_completion, read_reply
from iot_pipeline.teacher.reply import Asked, Reply
from iot_pipeline.teacher.request import Answer, Request
from iot_pipeline.teacher.retry import attempt_limits
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import (
    SLOW,
    Said,
    accept,
    batch_server,
    completion,
    result,
    said,
    serving,
    teacher,
)


def with_schema(requests: list[Request]) -> list[Request]:
    schema = answer_schema("label_first")
    return [Request(r.model, r.messages, r.params, "1-json", schema=schema) for r in requests]


# -- asking has an end -------------------------------------------------------------------------------------

STATUSES = st.sampled_from([400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 529])
ERRORS = st.sampled_from(
    [
        "response_format",
        {"error": {"message": "unknown field, expected one of `response_format`", "code": 7}},
        None,
        [],
        {"error": {"message": "x", "code": "content_filter"}},
        {"detail": [{"loc": ["body", 1], "msg": "no"}]},
        {"error": 3},
    ]
)
COMPLETIONS = st.sampled_from(
    [
        completion(),
        completion("bad"),
        completion(None),
        completion(""),
        {},
        completion(choices=[]),
        completion(choices=[{"message": {"content": "cut"}, "finish_reason": "length"}]),
        completion(choices=[{"message": {"content": None}, "finish_reason": "length"}]),
        completion(choices=[{"message": {"content": "x"}, "finish_reason": {"a": 1}}]),
        {"error": {"message": "no credit", "code": 402}},
        {"error": "response_format"},
    ]
)
HEARD = st.one_of(st.tuples(STATUSES, ERRORS), st.tuples(st.just(200), COMPLETIONS))


@contextmanager
def scripted(script: list[tuple[int, Any]], seen: Counter[str]) -> Iterator[None]:
    """The engine's `send` answers by a script that is repeated for ever, and counts the requests that it got."""

    async def send(client: object, body: dict[str, Any]) -> Reply:
        status, content = script[seen.total() % len(script)]
        seen[body["messages"][-1]["content"]] += 1
        asked = Asked("m", "u", "response_format" in body)
        return read_completion(content, asked) if status == 200 else read_error(status, content, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatClient, "send", send)
        patch.setattr(online, "SAVE_EVERY_S", 0.001)
        patch.setattr(session, "SAVE_EVERY_S", 0.001)
        patch.setattr(retry, "RATE_LIMIT_ATTEMPTS", 4)
        yield


@SLOW
@given(script=st.lists(HEARD, min_size=1, max_size=8), concurrency=st.integers(1, 4))
def test_no_request_is_asked_more_often_than_its_limit_whatever_comes(
    script: list[tuple[int, Any]], concurrency: int
) -> None:
    requests, seen = with_schema(make_requests(5)), Counter[str]()
    with TemporaryDirectory() as folder, scripted(script, seen):
        asking = teacher("http://127.0.0.1:9/v1", f"{folder}/t", concurrency=concurrency)
        try:
            answers = asking.ask(requests, accept)
            assert set(answers) == {request.key for request in requests}
            assert all(answer.reasons or answer.status == "ok" for answer in answers.values())
        except UserError:
            assert asking.summary.ok + sum(asking.summary.quarantined.values()) < 5
        most = 1 + sum(limit - 1 for limit in attempt_limits(2).values())
        assert max(seen.values()) <= most and asking.summary.attempts == seen.total()


def test_an_error_that_goes_on_naming_response_format_is_a_refusal_told_with_its_reason(tmp_path: Path) -> None:
    words = "unknown field `seed`, expected one of `model`, `messages`, `response_format`"
    heard: list[str] = []
    with serving(lambda *_: said({"error": words, "error_type": "validation"}, 422)) as url:
        asking = teacher(url, tmp_path / "t", log=heard.append)
        answers = asking.ask(with_schema(make_requests(8)), accept)
    assert asking.summary.attempts <= 16 and asking.form_refused
    assert {a.reasons for a in answers.values()} == {(f"no answer: rejected by the server (HTTP 422): {words}",)}
    assert sum("takes no response_format" in line for line in heard) == 1


def test_a_batch_whose_errors_go_on_naming_response_format_ends(tmp_path: Path) -> None:
    def refuse(lines: list[dict[str, Any]]) -> bytes:
        return b"".join(result(line, {"error": {"message": "response_format"}}, 400) for line in lines)

    with serving(batch_server(refuse)) as url:
        asking = teacher(url, tmp_path / "t", via="batch")
        answers = asking.ask(with_schema(make_requests(3)), accept)
    assert asking.summary.attempts == 6 and {a.attempts for a in answers.values()} == {2}


def test_a_queue_that_is_always_full_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RATE_LIMIT_ATTEMPTS", 3)
    full = {"status": "failed", "errors": {"data": [{"code": "token_limit_exceeded", "line": None}]}}
    with serving(batch_server(lambda lines: b"", **full)) as url:
        asking = teacher(url, tmp_path / "t", via="batch")
        answers = asking.ask(make_requests(2), accept)
    assert {a.reasons for a in answers.values()} == {("no answer: queue full at the server",)}
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


# -- what the set-up refuses is asked again -----------------------------------------------------------------

REASON = "This model's maximum context length is 2048 tokens"


@pytest.mark.parametrize(
    ("status", "content", "stops", "reason"),
    [
        (400, {"object": "error", "message": REASON}, False, REASON),
        (422, {"detail": REASON}, False, REASON),
        (413, REASON, False, REASON),
        (402, {"error": {"message": REASON}}, True, REASON),
        (401, {"error": REASON}, True, REASON),
        (403, f"<html><title>{REASON}</title></html>", True, REASON),
        (404, {"error": {"message": "The model `m` does not exist"}}, True, "IOT_TEACHER_MODEL"),
        (404, "404 page not found", True, r"nothing at http://.*/v1/chat/completions .*404 page not found.*/v1"),
        (200, completion(None), False, "no text"),
        (200, completion(" \n"), False, "no text"),
        (200, {"error": {"message": REASON, "code": 402}}, True, REASON),
        (200, {"choices": None, "error": {"message": REASON, "code": 400}}, False, REASON),
    ],
)
def test_a_refusal_of_the_set_up_is_told_with_its_reason_and_asked_again(
    status: int, content: Any, stops: bool, reason: str, tmp_path: Path
) -> None:
    mended: list[bool] = []
    requests = make_requests(3)

    def answer(*_: object) -> Said:
        if mended:
            return said(completion())
        return said(content, status) if not isinstance(content, str) else (status, content.encode(), {})

    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t")
        if stops:
            with pytest.raises(UserError, match=reason):
                asking.ask(requests, accept)
        else:
            answers = asking.ask(requests, accept).values()
            assert len(answers) == 3 and all(reason in a.reasons[0] for a in answers)
        assert asking.summary.attempts <= 9
        mended.append(True)
        again = asking.ask(requests, accept)
    assert {a.status for a in again.values()} == {"ok"} and asking.summary.asked == 3


def test_most_refusals_stop_the_run_with_the_server_s_reason_and_without_the_key(tmp_path: Path) -> None:
    words = "budget of key sk-D15T1NCT1VE-**** at http://me:pw@gateway/?token=x exceeded"
    told = r"HTTP 400\): budget of key \[hidden\] at http://gateway/ exceeded"
    with serving(lambda *_: said({"error": {"message": words, "type": "budget"}}, 400)) as url:
        asking = teacher(url, tmp_path / "t", concurrency=4)
        with pytest.raises(UserError, match=told) as caught:
            asking.ask(make_requests(200), accept)
    assert asking.summary.attempts < 60 and str(caught.value).count(". ") == 1
    with Store(tmp_path / "t") as store:
        assert not any("D15T" in text or "pw@" in text for (text,) in store.read("SELECT reasons FROM answers"))


def test_a_content_filter_s_refusal_is_a_verdict(tmp_path: Path) -> None:
    filtered = {"error": {"message": "filtered", "code": "content_filter", "innererror": {"code": "X"}}}
    with serving(lambda *_: said(filtered, 400)) as url:
        asking = teacher(url, tmp_path / "t")
        assert {a.reasons for a in asking.ask(make_requests(2), accept).values()} == {("refused",)}
        asking.ask(make_requests(2), accept)
    assert asking.summary.asked == 0


def test_answers_without_a_verdict_are_asked_again(tmp_path: Path) -> None:
    requests = make_requests(6)
    kept = [
        ("", "malformed: no ANALYSIS"),
        ("", "cut off"),
        ("", "no answer: timeout"),
        ("", "refused"),
        ("a cut", "cut off"),
        ("odd", "mislabelled: x"),
    ]
    with Store(tmp_path / "t") as store:
        store.save(
            [],
            [
                Answer(r.key, "quarantined", text, "stop", "m", "s", reasons=(reason,))
                for r, (text, reason) in zip(requests, kept, strict=True)
            ],
        )
    with serving(lambda *_: said(completion())) as url:
        asking = teacher(url, tmp_path / "t")
        answers = asking.ask(requests, accept)
    assert [answers[r.key].status for r in requests] == ["ok"] * 3 + ["quarantined"] * 3
    assert asking.summary.asked == 3


# -- replies of any shape ----------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(), st.sampled_from([10**40, -1, 2**63, 1.5, float("inf"), True]), st.floats())
TEXTS = st.one_of(st.text(), st.sampled_from(["\ud83d", "a\x00b", "stop", "x" * 3000]))
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
PLACES = [
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "message", "refusal"),
    ("choices", 0, "finish_reason"),
    ("model",),
    ("usage",),
    ("usage", "prompt_tokens"),
    ("usage", "completion_tokens"),
    ("usage", "prompt_tokens_details"),
    ("error",),
]
DEEP = b"[" * 20_000 + b"]" * 20_000
ODD = [
    DEEP,
    json.dumps(completion()).replace("60", "9" * 5000).encode(),
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"x"',
    b'{"choices": ' + DEEP + b"}",
    b"<html><title>Sign in</title></html>",
    b"data: {}\n\n",
    b"\xef\xbb\xbf{}",
    json.dumps(completion("\ud83d")).encode(),
    json.dumps(completion(model="a\x00")).encode(),
    json.dumps(completion()).replace("60", "1" + "0" * 40).encode(),
    json.dumps(completion()).replace('"stop"', '{"a": []}').encode(),
    json.dumps({"error": {"code": 10**40}}).encode(),
]


def check_reply(reply: Reply) -> None:
    kept = [reply.text, reply.model, reply.finish_reason, reply.reason, reply.fatal, reply.usage_fault]
    "".join(kept).encode()
    assert not any("\x00" in one for one in kept) and "\n" not in reply.reason and len(reply.reason) < 600
    if reply.usage is not None:
        assert 0 <= reply.usage.cached <= reply.usage.prompt <= MOST_TOKENS
        assert 0 <= reply.usage.completion <= MOST_TOKENS
    if reply.kind == "answer" and reply.usage is None:
        assert reply.usage_fault and reply.billed_unknown


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON, status=st.integers(100, 699))
def test_any_value_in_any_field_is_read_or_told(place: tuple[Any, ...], value: Any, status: int) -> None:
    content = json.loads(json.dumps(completion()))
    content["usage"]["prompt_tokens_details"] = {"cached_tokens": 1}
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    for one in (content, value):
        check_reply(read_completion(one))
        check_reply(read_error(status, one, Asked("m", "u", True), {"retry-after": str(value)}))
        check_reply(line_reply({"custom_id": "k", "response": {"status_code": 200, "body": one}, "error": None}))
        check_reply(line_reply({"custom_id": "k", "response": value, "error": value}))


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.sampled_from(ODD), JSON.map(lambda v: json.dumps(v).encode())))
def test_any_bytes_are_read_or_told(content: bytes) -> None:
    check_reply(read_reply(content, Asked()))
    line = read_line(content)
    assert isinstance(line, dict | str)
    seconds = retry_after_s({"retry-after": content.decode("latin-1"), "retry-after-ms": content.decode("latin-1")})
    assert seconds is None or 0 <= seconds <= 300


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ODD[8], "a page in place of JSON: Sign in"),
        (ODD[9], "an event stream"),
        (DEEP, "nested too deeply"),
        (ODD[14], r"choices.0.finish_reason: Input should be a valid string"),
    ],
    ids=["page", "event stream", "deep", "object as finish_reason"],
)
def test_an_unreadable_reply_says_why(content: bytes, told: str, tmp_path: Path) -> None:
    with serving(lambda *_: (200, content, {})) as url:
        answers = teacher(url, tmp_path / "t").ask(make_requests(1), accept)
    (answer,) = answers.values()
    assert answer.reasons[0].startswith("no answer: unreadable response: ") and told in answer.reasons[0]


def test_the_engine_outlives_odd_bytes_over_the_wire(tmp_path: Path) -> None:
    requests, left = make_requests(3 * len(ODD)), iter(range(10**6))
    wire = [(status, content, {}) for content in ODD for status in (200, 500)]
    headers = [{"retry_after": "nan"}, {"content_encoding": "br"}, {"x_ratelimit_limit_tokens": "9" * 15}, {}]
    with serving(lambda *_: (*wire[(n := next(left)) % len(wire)][:2], headers[n % 4])) as url:
        asking = teacher(url, tmp_path / "t", max_attempts=1, concurrency=2)
        try:
            asking.ask(requests, accept)
        except UserError as error:
            assert "most requests to the teacher" in str(error)
    with Store(tmp_path / "t") as store:
        assert store.ledger()["attempts"] == asking.summary.attempts
        ended = asking.summary.ok + sum(asking.summary.quarantined.values())
        assert store.read("SELECT count(*) FROM answers") == [(ended,)] and ended >= 20


@pytest.mark.parametrize("paid", [False, True])
def test_bad_lines_of_a_batch_cost_neither_the_others_nor_later_runs(paid: bool, tmp_path: Path) -> None:
    requests, sent = make_requests(12, "gpt-4o-mini"), list[int]()

    def results(lines: list[dict[str, Any]]) -> bytes:
        sent.append(len(lines))
        good = [result(line) for line in lines]
        if len(sent) > 1:
            return b"".join(good)
        bad = [content.replace(b"\n", b" ") + b"\n" for content in ODD if content]
        huge = result(lines[0], completion(usage={"prompt_tokens": 10**40, "completion_tokens": 1}))
        odd = result(lines[1], completion("\ud83d")), result(lines[2], completion(usage=[1]))
        other = json.dumps({"custom_id": [1], "response": None}).encode() + b"\n"
        long = b'{"custom_id": "' + b"x" * 10_000_000 + b'"}\n'
        return b"".join([*bad, huge, *odd, other, *good[3:-2], long, *good[-2:-1]])

    heard: list[str] = []
    odd_batch = {"usage": {"input_tokens": "many", "output_tokens": -1}, "request_counts": 7, "errors": {"data": 3}}
    with serving(batch_server(results, **odd_batch)) as url:
        asking = teacher(url, tmp_path / "t", via="batch", log=heard.append, paid=paid, budget_usd=1.0)
        answers = asking.ask(requests, accept)
        assert {a.status for a in answers.values()} == {"ok"} and sent == [12, 2]
        assert sum("lines of its results are unusable" in line for line in heard) == 1
        again = teacher(url, tmp_path / "t", via="batch")
        again.ask(requests, accept)
    assert again.summary.asked == 0
    with Store(tmp_path / "t") as store:
        assert store.read("SELECT state FROM batches") == [("read",), ("read",)]
        assert store.ledger()["prompt_tokens"] < 10**6
