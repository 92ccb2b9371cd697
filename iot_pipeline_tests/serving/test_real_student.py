"""A real model behind HTTP: the verdicts of many clients at once are those in process, also while it explains."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from iot_pipeline.flows.rows import RowReader
from iot_pipeline.inference.student import Student
from iot_pipeline.serving.classifier import Classifier
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.serving.served import fake, flow, served
from iot_pipeline_tests.tiny_model import make_base


def test_http_equals_in_process_while_explanations_are_written(tmp_path: Path) -> None:
    known = fake()
    student = Student.load(make_base(tmp_path / "base"), None, device="cpu", threads=1)
    chosen = load_settings({"IOT_EXPLANATION_WORDS": "30"})
    classifier = Classifier(student, known.spec, known.writer, chosen, known.fitted, known.origin)
    flows = [flow(number / 3) for number in range(24)]
    frame, _ = RowReader(known.spec).read(flows)
    wanted = classifier.classify(frame)
    explained = classifier.explain(frame.iloc[:2], wanted[:2])

    def ask(path: str, part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answer = client.post(path, json={"flows": part})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])

    with served(classifier, batch_tokens=4096) as url, httpx2.Client(base_url=url, timeout=60) as client:
        with ThreadPoolExecutor(8) as pool:
            writing = pool.submit(ask, "/v1/explain", flows[:2])
            singles = list(pool.map(lambda one: ask("/v1/classify", [one])[0], flows))
            together = ask("/v1/classify", flows)
            written = writing.result()
    for one, among, verdict in zip(singles, together, wanted, strict=True):
        assert one["probabilities"] == pytest.approx(verdict.probabilities, abs=1e-6)
        assert among["probabilities"] == pytest.approx(verdict.probabilities, abs=1e-6)
        assert one["class"] == among["class"] == verdict.label
    for said, verdict in zip(written, explained, strict=True):
        assert verdict.explanation is not None
        assert said["explanation"]["text"] == verdict.explanation.text
