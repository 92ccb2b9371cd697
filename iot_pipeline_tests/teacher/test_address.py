"""Addresses of servers: one server is one source, Azure gets its query and its header, nothing follows elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher.address import key_header, normalise, source_name
from iot_pipeline.teacher_factory import address_of, open_teacher
from iot_pipeline_tests.teacher.flows import make_requests
from iot_pipeline_tests.teacher.hostile import Said, accept, completion, said, serving, teacher

AZURE = "https://me.openai.azure.com/openai/deployments/gpt4o?api-version=2024-10-21"


def settings(tmp_path: Path, address: str, **more: str) -> Any:
    return load_settings({"IOT_LAKE": str(tmp_path), "IOT_TEACHER": address, **more})


@pytest.mark.parametrize(
    ("spellings", "source"),
    [
        (
            [
                "http://h:8000/v1", "http://h:8000/v1/", "HTTP://H:8000/v1//", "http://h:8000/v1/chat/completions",
                " http://h:8000//v1/chat/completions/ ", "http://me:pw@h:8000/v1?token=x", "http://h.:8000/v1#x",
                "http://h:8000", "http://h:8000/", "http://h:8000/chat/completions",
            ],
            "http://h:8000/v1",
        ),
        (["https://api.x.org/v1", "https://API.X.org:443/v1"], "https://api.x.org/v1"),
        (["http://x.org:80/a", "http://x.org/a"], "http://x.org/a"),
        (["https://x.org:80/a"], "https://x.org:80/a"),
        (["http://[::1]:80/v1", "http://[0:0:0:0:0:0:0:1]/v1"], "http://[::1]/v1"),
        (["http://[2001:DB8::1]:8000/v1"], "http://[2001:db8::1]:8000/v1"),
        (["https://münchen.example/v1", "https://xn--mnchen-3ya.example/v1"], "https://xn--mnchen-3ya.example/v1"),
        ([AZURE, AZURE.replace("?", "/chat/completions?"), AZURE.replace("?", "/?") + "#x"], AZURE.partition("?")[0]),
    ],
)  # fmt: skip
def test_one_server_is_one_source_however_it_is_spelt(spellings: list[str], source: str, tmp_path: Path) -> None:
    assert {source_name(address_of(settings(tmp_path, spelling))) for spelling in spellings} == {source}
    for spelling in spellings:
        assert normalise(normalise(spelling)) == normalise(spelling)


def test_a_slash_or_another_spelling_does_not_ask_again(tmp_path: Path) -> None:
    paths: list[str] = []

    def answer(_method: str, path: str, _body: bytes) -> Said:
        paths.append(path)
        return said(completion())

    with serving(answer) as url:
        for spelling in (url, url + "/", url.replace("http", "HTTP"), url + "/chat/completions"):
            with open_teacher(settings(tmp_path, spelling)) as asking:
                asking.ask(make_requests(3), accept)
    assert paths == ["/v1/chat/completions"] * 3


@pytest.mark.parametrize(
    ("path", "asked", "header"),
    [
        ("/openai/deployments/gpt4o?api-version=2024-10-21", "/openai/deployments/gpt4o", "api-key"),
        ("/openai/deployments/gpt4o/chat/completions?api-version=2024-10-21", "/openai/deployments/gpt4o", "api-key"),
        ("/openai/v1?api-version=preview", "/openai/v1", "api-key"),
        ("/openai/v1", "/openai/v1", "Authorization"),  # Groq has this path too
    ],
)
def test_azure_gets_its_query_and_its_header(path: str, asked: str, header: str, tmp_path: Path) -> None:
    seen: list[str] = []
    with serving(lambda _, path, __: seen.append(path) or said(completion())) as url:  # type: ignore[func-returns-value]
        address = normalise(url.removesuffix("/v1") + path)
        asking = teacher(address, tmp_path / "t", source=source_name(address))
        assert {a.status for a in asking.ask(make_requests(1), accept).values()} == {"ok"}
    query = "?" + path.partition("?")[2] if "?" in path else ""
    assert seen == [f"{asked}/chat/completions{query}"]
    assert [*key_header(address, "k1")] == [header]
    assert asking.source.endswith(asked) and "k1" not in asking.source


@pytest.mark.parametrize("host", ["me.openai.azure.com", "me.cognitiveservices.azure.com", "gate.azure-api.net"])
def test_hosts_of_azure_get_its_header_and_a_token_of_entra_goes_as_one(host: str) -> None:
    assert key_header(f"https://{host}/openai/v1", "0123456789abcdef") == {"api-key": "0123456789abcdef"}
    assert key_header(f"https://{host}/openai/v1", "eyJh.eyJi.sig") == {"Authorization": "Bearer eyJh.eyJi.sig"}
    assert key_header("https://api.openai.com/v1", "eyJ.x") == {"Authorization": "Bearer eyJ.x"}


@pytest.mark.parametrize(
    ("address", "more", "told"),
    [
        ("https://me.openai.azure.com", {}, "names no deployment of Azure"),
        ("https://me.openai.azure.com/openai/deployments/gpt4o", {}, r"api-version=2024-10-21 or https"),
        (
            "https://me.openai.azure.com/openai/deployments?api-version=1",
            {},
            "IOT_TEACHER_MODEL is then the deployment",
        ),
        (AZURE, {"IOT_TEACHER_VIA": "batch"}, "IOT_TEACHER_VIA=batch is not supported on Azure"),
        ("http://h:0/v1", {}, "IOT_TEACHER is no URL"),
        ("http://h:99999/v1", {}, "IOT_TEACHER is no URL"),
        ("http://[::1/v1", {}, "IOT_TEACHER is no URL"),
        (f"http://{'a' * 70}.org/v1", {}, "IOT_TEACHER is no URL"),
    ],
)
def test_an_address_that_cannot_work_is_one_sentence(
    address: str, more: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told), open_teacher(settings(tmp_path, address, **more)):
        pass


@pytest.mark.parametrize(
    ("path", "status", "content", "told"),
    [
        ("", 404, "404 page not found", r"nothing at http://\S+/chat/completions \(HTTP 404: 404 page not.*/v1\)"),
        ("/v1", 404, {"detail": "Not Found"}, r"nothing at \S+/v1/chat/completions .*the part before /chat"),
        ("/v1", 404, "<html><title>404</title>our model is gone</html>", "nothing at"),
        ("/v1", 404, {"error": "model 'm' not found"}, "IOT_TEACHER_MODEL"),
        ("/v1", 405, {"detail": "Method Not Allowed"}, "nothing at"),
        ("/v1", 403, "<html><title>Attention Required! | Cloudflare</title>blocked</html>",
         r"a firewall or proxy .* refused access to \S+/chat/completions \(HTTP 403: Attention Required! \| Cloud"),
        ("/v1", 403, b"", "a firewall or proxy"),
        ("/v1", 403, {"error": {"message": "Country, region, or territory not supported"}}, "Country, region"),
        ("/v1", 407, "<html>Proxy login</html>", "http_proxy"),
        ("/openai/deployments/d?api-version=1", 404, {"error": {"code": "404", "message": "Resource not found"}},
         r"nothing at \S+/d/chat/completions\?api-version=1 .*NAME.openai.azure.com"),
        ("/openai/deployments/d?api-version=1", 404,
         {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
         "no such deployment at"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_told_as_such(path: str, status: int, content: Any, told: str, tmp_path: Path) -> None:
    body = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
    with serving(lambda *_: (status, body, {}) if body is not None else said(content, status)) as url:
        asking = teacher(url.removesuffix("/v1") + path, tmp_path / "t")
        with pytest.raises(UserError, match=told) as caught:
            asking.ask(make_requests(2), accept)
    assert "\n" not in str(caught.value) and "D15T" not in str(caught.value)


# -- redirects ---------------------------------------------------------------------------------------------

ELSEWHERE = [
    "http://elsewhere.example/v1/chat/completions", "//elsewhere.example/x", "https://127.0.0.2/v1", "ftp://127.0.0.1/",
    "http://127.0.0.1:1/v1/chat/completions", "http://me:pw@elsewhere.example/\x1b[31m", "http://[bad", "javascript:0",
]  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_on_the_same_server_keeps_the_body(status: int, tmp_path: Path) -> None:
    seen: list[tuple[str, str, bool]] = []

    def answer(method: str, path: str, body: bytes) -> Said:
        seen.append((method, path, b"messages" in body))
        return said(completion()) if path.startswith("/new") else (status, b"", {"location": "/new/chat/completions"})

    with serving(answer) as url:
        asking = teacher(url, tmp_path / "t", concurrency=1)
        assert {a.status for a in asking.ask(make_requests(2), accept).values()} == {"ok"}
    old, new = ("POST", "/v1/chat/completions", True), ("POST", "/new/chat/completions", True)
    assert seen == ([old, new, new] if status in (301, 308) else [old, new] * 2)


@pytest.mark.parametrize("via", ["requests", "batch"])
@pytest.mark.parametrize("location", ELSEWHERE)
def test_prompts_and_keys_do_not_follow_to_another_server(location: str, via: str, tmp_path: Path) -> None:
    with serving(lambda *_: (307, b"", {"location": location})) as url:
        asking = teacher(url, tmp_path / "t", via=via)
        with pytest.raises(UserError, match=rf"{url[:-3]} redirects to .*do not follow") as caught:
            asking.ask(make_requests(2), accept)
    assert caught.value.args[0].isprintable() and "pw" not in str(caught.value)
    assert via == "batch" or asking.summary.attempts <= 2


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    seen: list[str] = []
    round_about = {"location": "/v1/chat/completions"}
    with serving(lambda _, path, __: seen.append(path) or (307, b"", round_about)) as url:  # type: ignore[func-returns-value]
        with pytest.raises(UserError, match="in a circle"):
            teacher(url, tmp_path / "t", concurrency=1).ask(make_requests(1), accept)
    assert len(seen) == 6


# -- replies that do not end, and keys that no header carries -----------------------------------------------


def test_a_reply_that_drips_has_an_end(tmp_path: Path) -> None:
    drops = iter(range(1000))

    def drip() -> Iterator[bytes]:
        for _ in drops:
            time.sleep(0.05)
            yield b" "

    with serving(lambda *_: (200, drip(), {})) as url:
        answers = teacher(url, tmp_path / "t", timeout_s=0.1, max_attempts=1).ask(make_requests(1), accept)
    assert [a.reasons for a in answers.values()] == [("no answer: timeout",)]
    assert next(drops, None)  # it was left before its end


def test_a_key_is_stripped_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1234567890\r\n")
    with open_teacher(settings(tmp_path, "http://127.0.0.1:9/v1")) as asking:
        assert asking.config.api_key == "sk-1234567890"
    for broken in ("sk-12\n34", "sk-1234\u201d"):
        monkeypatch.setenv("OPENAI_API_KEY", broken)
        with pytest.raises(UserError, match="OPENAI_API_KEY has a sign") as caught:
            with open_teacher(settings(tmp_path, "http://127.0.0.1:9/v1")):
                pass
        assert "1234" not in str(caught.value)


def test_no_connection_says_why(tmp_path: Path) -> None:
    answers = teacher("http://127.0.0.1:9/v1", tmp_path / "t").ask(make_requests(1), accept)
    (answer,) = answers.values()
    assert answer.reasons[0].startswith("no answer: no connection: Cannot connect to host 127.0.0.1:9")


# -- shapes of an answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"content": None, "tool_calls": [{"id": "1"}]}, "no text: tool calls came in its place"),
        ({"content": "", "reasoning_content": "Let me see. fine"}, "no text: all of it came as thoughts"),
        ({"content": None, "reasoning": "hm"}, "no text: all of it came as thoughts"),
        ({"content": None}, "no text"),
    ],
)
def test_what_came_in_place_of_a_text_is_told(message: dict[str, Any], told: str, tmp_path: Path) -> None:
    content = completion(choices=[{"message": message, "finish_reason": "stop"}])
    with serving(lambda *_: said(content)) as url:
        answers = teacher(url, tmp_path / "t").ask(make_requests(1), accept)
    assert [a.reasons[0].startswith(f"no answer: {told}") for a in answers.values()] == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"choices": [{"message": {"content": "fine"}}]},
        {"choices": [{"message": {"content": "fine"}, "finish_reason": None}]},
        {"choices": [{"message": {"content": "fine"}, "finish_reason": "eos_token"}, {"message": {"content": "x"}}]},
        {"choices": [{"message": {"content": {"type": "text", "text": "fine"}}, "finish_reason": "stop"}]},
        {"usage": {"prompt_tokens": 60.0, "completion_tokens": 20.0}},
        {"choices": [{"message": {"content": "fine", "reasoning_content": "x", "tool_calls": []}}]},
    ],
)
def test_an_answer_of_an_unusual_shape_is_read(change: dict[str, Any], tmp_path: Path) -> None:
    with serving(lambda *_: said(completion(**change))) as url:
        asking = teacher(url, tmp_path / "t")
        assert [a.status for a in asking.ask(make_requests(1), accept).values()] == ["ok"]
    assert (asking.summary.prompt_tokens, asking.summary.completion_tokens) == (60, 20)


def test_a_content_that_is_the_object_itself_is_read(tmp_path: Path) -> None:
    content = {"classification": "Normal", "value": "0.500"}
    heard: list[str] = []
    with serving(lambda *_: said(completion(content))) as url:  # type: ignore[arg-type]
        teacher(url, tmp_path / "t").ask(make_requests(1), lambda _, text: heard.append(text) or [])  # type: ignore[func-returns-value]
    assert [json.loads(text) for text in heard] == [content]


def test_a_page_in_place_of_an_answer_is_not_taken_for_a_bill(tmp_path: Path) -> None:
    with serving(lambda *_: (200, b"\xef\xbb\xbf<!DOCTYPE html><title>Sign in</title>", {})) as url:
        asking = teacher(url, tmp_path / "t", paid=True, budget_usd=1.0)
        answers = asking.ask(make_requests(1), accept)
    assert "a page in place of JSON: Sign in" in next(iter(answers.values())).reasons[0]
    assert asking.summary.usd == 0
