"""The server over real HTTP: verdicts equal those in process, and what is wrong with a request is said in a 4xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pytest

from iot_pipeline.flows.rows import RowReader
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline_tests.serving.served import FakeClassifier, fake, flow, served


@pytest.fixture(scope="module")
def classifier() -> FakeClassifier:
    return fake()


@pytest.fixture(scope="module")
def client(classifier: FakeClassifier) -> Iterator[httpx2.Client]:
    with served(classifier, body_bytes=400_000, flows=300) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client


def in_process(classifier: FakeClassifier, flows: list[dict[str, Any]]) -> list[dict[str, float]]:
    frame, faults = RowReader(classifier.spec).read(flows)
    assert faults == {}
    return [verdict.probabilities for verdict in classifier.classify(frame)]


def test_http_equals_in_process(classifier: FakeClassifier, client: httpx2.Client) -> None:
    flows = [flow(number / 7) for number in range(250)]
    wanted = in_process(classifier, flows)

    def ask(part: range) -> list[dict[str, Any]]:
        answer = client.post("/v1/classify", json={"flows": [flows[place] for place in part]})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])

    parts = [range(250), *(range(place, place + 1) for place in range(60)), range(60, 190)]
    with ThreadPoolExecutor(16) as pool:
        for part, results in zip(parts, pool.map(ask, parts), strict=True):
            for place, result in zip(part, results, strict=True):
                assert result["probabilities"] == pytest.approx(wanted[place], abs=1e-6)
                assert result["class"] == max(wanted[place], key=lambda name: wanted[place][name])
                assert abs(sum(result["probabilities"].values()) - 1) < 1e-5


def test_requests_share_batches_and_one_thread_has_the_model(classifier: FakeClassifier) -> None:
    shared = fake(label_seconds=0.05)
    with served(shared) as url, httpx2.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: client.post("/v1/classify", json={"flows": [flow(n)]}), range(48)))
        answers.append(client.post("/v1/explain", json={"flows": [flow()]}))
    assert {answer.status_code for answer in answers} == {200}
    assert len(shared.batches) < 30
    assert len(shared.threads) == 1


@pytest.mark.parametrize("dataset", ["farm_flow", "rt_iot2022_categories"])
def test_text_is_read_in_every_form(dataset: str) -> None:
    known = fake(dataset)
    row = flow(1.5, dataset)
    frame, _ = RowReader(known.spec).read([row])
    (text,) = known.writer.texts(frame)
    table = pd.DataFrame([row])
    wide = pd.DataFrame([row | {f"x{number}": number for number in range(99)}])
    texts = [
        json.dumps(row), json.dumps({"event": [{"unmapped": row}]}), table.to_csv(index=False),
        table.to_csv(index=False, sep=";"), wide.to_csv(), f"What is this?\n{json.dumps(row)}\nThank you.",
        f"Record:\n<flow>\n{text}\n</flow>\n\nName the class of this flow.", text,
    ]  # fmt: skip
    with served(known) as url, httpx2.Client(base_url=url, timeout=30) as client:
        found = [client.post("/v1/classify", json={"text": one}).json()["results"] for one in texts]
    assert [len(results) for results in found] == [1] * len(texts)
    assert all(results == found[0] for results in found)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "either flows or text"), ({"flows": []}, "at least 1 item"), ({"flows": [{}]}, "lacks 29"),
        ({"flows": [flow(), {**flow(), "orig_pkts": "x"}]}, "flows[1]: not a number ('x') in orig_pkts"),
        ({"flows": [flow()], "text": "x"}, "either"), ({"text": "nothing"}, "no flow is given"), ([], "valid dict"),
        ({"flows": [1]}, "dictionary"), ({"flows": [flow()], "extra": 1}, "Extra"),
        ({"flows": [{**flow(), "orig_pkts": "\ud800"}]}, "orig_pkts is neither"),
        (
            {"flows": [{("Orig_pkts" if n == "orig_pkts" else n): v for n, v in flow().items()} | {"ORIG_PKTS": 7}]},
            "it has the column orig_pkts twice, in two spellings, with different values",
        ),
    ],
)  # fmt: skip
def test_a_bad_body_is_told(client: httpx2.Client, body: Any, told: str) -> None:
    answer = client.post("/v1/classify", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"flows": [{"a": NaN}]}', "application/json", 400), (b"1" * 5000, "application/json", 400),
        (b"a,b", "text/csv", 415), (b"{}", "application/x-www-form-urlencoded", 415), (b"{}", "", 415),
        (b'"\xe4"', "application/json", 400), (b" " * 500_000, "application/json", 413),
    ],
)  # fmt: skip
def test_malformed_and_oversized_bodies_are_refused(
    client: httpx2.Client, content: bytes, kind: str, status: int
) -> None:
    answer = client.post("/v1/classify", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    told = {400: "the body is not valid JSON", 413: "bytes", 415: "Content-Type: application/json"}[status]
    assert told in answer.json()["error"]["message"] or b"NaN" in content
    chunked = client.post("/v1/classify", content=iter([content]), headers={"content-type": kind})
    assert chunked.status_code == status


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/explain", "/v1/chat/completions", "/v1/responses", "/v1/score"])
def test_a_key_that_stands_twice_is_refused_by_name(client: httpx2.Client, path: str) -> None:
    one = json.dumps(flow())
    hidden = one[:-1] + ', "orig_pkts": 9}'
    model = client.get("/v1/models").json()["data"][0]
    name, classes = model["id"], model["classes"]
    bodies = {
        "/v1/chat/completions": {"model": name, "messages": [{"role": "user", "content": hidden}]},
        "/v1/responses": {"model": name, "input": hidden},
        "/v1/score": {"model": name, "query": hidden, "items": classes},
    }
    texts = [json.dumps(bodies.get(path, {"text": hidden}))]
    texts += [f'{{"flows": [{hidden}]}}', f'{{"flows": [{one}], "units": "raw", "units": "scaled"}}']
    for content, key in zip(texts, ["orig_pkts", "orig_pkts", "units"], strict=True):
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert f"the key '{key}' stands twice" in answer.json()["error"]["message"]


def test_too_many_flows_are_refused(client: httpx2.Client) -> None:
    assert client.post("/v1/classify", json={"flows": [flow()] * 301}).status_code in (400, 413)
    assert client.post("/v1/explain", json={"flows": [flow()] * 33}).status_code == 413


def test_unknown_paths_and_methods_are_answered_in_json(client: httpx2.Client) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/v1/classify"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_head_is_answered_as_get_without_a_body(client: httpx2.Client) -> None:
    """Load balancers ask for health so, and `curl -I`."""
    for path, status in (("/healthz", 200), ("/", 200), ("/v1/models", 200), ("/nowhere", 404), ("/v1/classify", 405)):
        asked, told = client.get(path), client.head(path)
        assert told.status_code == asked.status_code == status
        assert told.content == b"" and told.headers["content-length"] == asked.headers["content-length"]


def test_explanations_come_with_the_verdict(client: httpx2.Client) -> None:
    answer = client.post("/v1/explain", json={"flows": [flow(), flow(5)]}).json()
    assert answer["model"]["id"] == "farm_flow-10K-original"
    for result in answer["results"]:
        assert result["explanation"]["text"].startswith(f"CLASSIFICATION: {result['class']}\n")
        assert "missed_bytes" not in result["out_of_range"] or result["evidence_from"]


def test_health_metrics_and_reference(client: httpx2.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    figures = client.get("/metrics").text
    for name in ("iot_serve_requests_total{", "iot_serve_flows_total{", "process_resident_memory_bytes", "a" * 64):
        assert name in figures
    assert 'route="/v1/classify",status="400"' in figures
    reference = client.get("/docs").text
    assert "/v1/classify" in reference and "http://" not in reference and "https://" not in reference
    flow_schema = client.get("/openapi.json").json()["components"]["schemas"]["Flow"]
    assert "orig_pkts" in flow_schema["required"]


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_script(client: httpx2.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for path in ("/", "/page.js", "/page.css"):
        text = client.get(path).text
        assert "http:" not in text and "https:" not in text and "//" not in text.replace("// Page", "")
        assert "innerHTML" not in text and "onclick" not in text and "style=" not in text


def test_verdicts_are_kept_and_a_cache_that_fails_is_left_out(tmp_path: Path) -> None:
    classifier = fake()
    cache = VerdictCache(tmp_path / "verdicts.sqlite", "key")
    with served(classifier, cache=cache) as url, httpx2.Client(base_url=url, timeout=30) as client:
        classifier.batches.clear()
        first = client.post("/v1/classify", json={"flows": [flow(), flow(2), flow()]}).json()["results"]
        assert classifier.batches == [2]
        explained = client.post("/v1/explain", json={"flows": [flow()]}).json()["results"][0]
        assert explained["explanation"] is not None
        assert client.post("/v1/explain", json={"flows": [flow()]}).json()["results"] == [explained]
        assert client.post("/v1/classify", json={"flows": [flow(), flow(2), flow()]}).json()["results"] == first
        assert classifier.batches == [2] and first[0]["explanation"] is None
        assert "iot_serve_known_flows_total 5.0" in client.get("/metrics").text
        cache.close()
        again = client.post("/v1/classify", json={"flows": [flow(), flow(3)]})
        assert again.status_code == 200 and again.json()["results"][0] == first[0]
