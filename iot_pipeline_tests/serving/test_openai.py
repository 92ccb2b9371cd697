"""An unmodified OpenAI client talks to the server: chat and responses, whole and streamed, and errors by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from iot_pipeline.serving.classifier import Strangeness
from iot_pipeline_tests.serving.served import HOSTILE, FakeClassifier, fake, flow, served

MODEL = "farm_flow-10K-original"


@pytest.fixture(scope="module")
def classifier() -> FakeClassifier:
    return fake()


@pytest.fixture(scope="module")
def client(classifier: FakeClassifier) -> Iterator[openai.OpenAI]:
    with served(classifier) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text: str = "", **more: Any) -> dict[str, Any]:
    """Arguments of a chat about one flow."""
    content = text or json.dumps(flow())
    turns = [{"role": "system", "content": "You are an analyst."}, {"role": "user", "content": content}]
    return {"model": MODEL, "messages": turns, **more}


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**asked(temperature=0, seed=1, user="me"))
    text = whole.choices[0].message.content or ""
    assert text.startswith("CLASSIFICATION: ") and HOSTILE in text
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.total_tokens == whole.usage.prompt_tokens + len(text.split())
    assert whole.model_extra is not None and whole.model_extra["verdict"]["class"] in text
    chunks = list(client.chat.completions.create(**asked(stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len(chunks) > 4


def test_responses_and_their_stream_say_the_same(client: openai.OpenAI) -> None:
    content: Any = [{"role": "user", "content": [{"type": "input_text", "text": json.dumps(flow())}]}]
    whole = client.responses.create(model=MODEL, input=json.dumps(flow()), instructions="Be brief.")
    assert whole.status == "completed" and whole.output_text.startswith("CLASSIFICATION: ")
    assert whole.usage is not None and whole.usage.output_tokens == len(whole.output_text.split())
    events = list(client.responses.create(model=MODEL, input=content, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text
    event = {"class_uid": 4001, "unmapped": {"zeek": flow()}, "proto": "tcp"}  # as Tenzir sends one
    within = client.responses.create(model=MODEL, input=f"Assess this event.\n{json.dumps(event)}", instructions="Do.")
    assert within.output_text == whole.output_text
    with client.responses.stream(model=MODEL, input=json.dumps(flow())) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_what_json_cannot_hold_is_refused_before_it_would_be_in_the_answer(client: openai.OpenAI) -> None:
    for name, value in (("metadata", '{"a": NaN}'), ("instructions", "[Infinity]")):
        body = f'{{"model": "{MODEL}", "input": "x", "{name}": {value}}}'
        answer = httpx2.post(f"{client.base_url}responses", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and name in answer.json()["error"]["message"]


def test_limits_and_stops_cut_an_answer(client: openai.OpenAI, classifier: FakeClassifier) -> None:
    cut = client.chat.completions.create(**asked(max_completion_tokens=4)).choices[0]
    assert cut.finish_reason == "length" and len((cut.message.content or "").split()) == 4
    stopped = client.chat.completions.create(**asked(stop="\nANALYSIS")).choices[0]
    assert stopped.finish_reason == "stop" and len((stopped.message.content or "").split()) == 2
    label = (stopped.message.content or "").split()[1]
    for stop, wanted in ((f"{label}\nANALYSIS", "CLASSIFICATION: "), ("ANALYSIS", f"CLASSIFICATION: {label}\n")):
        whole = client.chat.completions.create(**asked(stop=stop)).choices[0].message.content
        chunks = client.chat.completions.create(**asked(stop=stop, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole == wanted
    alone = client.responses.create(model=MODEL, input=json.dumps(flow()), max_output_tokens=2)
    assert alone.status == "completed" and alone.output_text == stopped.message.content
    short = client.responses.create(model=MODEL, input=json.dumps(flow()), max_output_tokens=3)
    assert short.status == "incomplete" and short.incomplete_details is not None


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_value"), ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"extra_body": {"spoon": 1}}, "spoon", "unknown_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction", "unsupported_parameter"),
        ({"temperature": 7}, "temperature", "invalid_value"), ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"text": "no flow"}, "messages[1].content", "invalid_value"),
        ({"text": json.dumps({**flow(), "orig_pkts": None})}, "messages[1].content", "invalid_value"),
        ({"text": json.dumps([flow(), flow(2)])}, "messages[1].content", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"), ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type", "invalid_value",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_student_cannot_do_is_refused_as_openai_does(
    client: openai.OpenAI, more: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    arguments = {**asked(str(more.get("text", ""))), "stream": stream}
    arguments |= {name: value for name, value in more.items() if name != "text"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**arguments)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"


def test_other_models_and_missing_parameters_are_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**asked(), "model": "gpt-4o"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="model"):
        client.post("/chat/completions", cast_to=object, body={"messages": []})
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_1")


def test_a_flow_of_no_known_class_is_called_unknown() -> None:
    strange = Strangeness(0.001, True, ["orig_pkts is out of range"])
    with served(fake(strange=strange)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(**asked())
        text = answer.choices[0].message.content or ""
        verdict = (answer.model_extra or {})["verdict"]
        chunks = list(client.chat.completions.create(**asked(stream=True)))
        figures = httpx2.get(f"{url}/metrics").text
    nearest = verdict["nearest_class"]
    head = f"CLASSIFICATION: unknown\nNEAREST_CLASS: {nearest}\nUNKNOWN_BECAUSE: orig_pkts is out of range\nANALYSIS: "
    assert text.startswith(head) and verdict["class"] == "unknown" and verdict["unknown"] is True
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert 'iot_serve_flows_total{class="unknown"} 2.0' in figures


def test_scores_have_sglangs_shape(client: openai.OpenAI, classifier: FakeClassifier) -> None:
    http = httpx2.Client(base_url=str(client.base_url))
    probabilities = http.post("classify", json={"flows": [flow()]}).json()["results"][0]["probabilities"]
    names = list(probabilities)

    def score(**body: Any) -> dict[str, Any]:
        return dict(http.post("score", json=body).json())

    item = json.dumps(flow())
    found = score(query="Which class? ", items=[item, item], label_token_ids=[102, 100], apply_softmax=False)
    wanted = [probabilities[names[2]], probabilities[names[0]]]
    assert found["object"] == "scoring" and found["model"] == MODEL
    assert found["scores"] == [pytest.approx(wanted, abs=1e-6)] * 2
    for name, label in (("labels", names[0]), ("label_token_ids", 100)):
        assert score(items=item, **{name: [label] * 8})["error"]["code"] == "too_many"
    shared = score(items=item, labels=[names[2], names[0]], apply_softmax=True)["scores"][0]
    assert shared == pytest.approx([one / sum(wanted) for one in wanted], abs=1e-5)
    assert sum(score(items=[item])["scores"][0]) == pytest.approx(1)
    classes = score(query=item, items=[names[2], names[0]])["scores"]
    assert [row[0] for row in classes] == pytest.approx(wanted, abs=1e-6)
    for body in ({"items": [item], "label_token_ids": [5]}, {"items": [[1, 2]]}, {"items": []}, {"items": ["x"]},
                 {"query": item, "items": names, "labels": names}, {"items": [item], "spoon": 1}):  # fmt: skip
        assert "error" in score(**body), body
