"""A classifier gives numbers or nothing: scores that are NaN, and JSON that would hold NaN, are errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iot_pipeline.commands import console
from iot_pipeline.commands import explain as command
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving.classifier import Classifier, Fitted, Origin, Strangeness
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.serving.factories import classifier, csv_rows

SPEC = load_spec("farm_flow")


class Scorer:
    """A student whose scores are given."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score_labels(self, *_: Any, **__: Any) -> np.ndarray:
        return self.scores


@pytest.mark.parametrize("fitted", [None, Fitted(2.0, 0.5)])
def test_scores_that_are_nan_are_no_answer(fitted: Fitted | None) -> None:
    scores = np.log(np.full((3, len(SPEC.classes)), 1 / len(SPEC.classes)))
    student: Any = Scorer(scores)
    origin = Origin("10K", "original", "tiny", "", {}, "", [])
    writer: Any = None  # texts are given
    classifier = Classifier(student, SPEC, writer, load_settings({}), fitted, origin)
    assert np.allclose(np.exp(classifier.scores(["a", "b", "c"])), 1 / len(SPEC.classes))
    scores[1, 2] = np.nan
    with pytest.raises(UserError, match="scores 1 of 3 distinct flows as NaN: its weights are damaged"):
        classifier.scores(["a", "b", "c"])


def test_a_file_of_verdicts_says_which_flows_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = classifier()
    monkeypatch.setattr(command, "open_classifier", lambda *_: made)
    (tmp_path / "flows.csv").write_text(csv_rows(4, 4))
    strange = Strangeness(0.001, True, ["orig_pkts is out of range"])
    plain = made.classify
    monkeypatch.setattr(made, "classify", lambda *a: [replace(v, strange=strange) for v in plain(*a)])
    flows, out = str(tmp_path / "flows.csv"), tmp_path / "out.jsonl"
    told = command.explain(made.settings, "10K", "original", flows, out, True, lambda _: None)
    (first, *_) = map(json.loads, out.read_text().splitlines())
    assert first["class"] == "unknown" and first["nearest_class"] in SPEC.classes
    assert first["unknown_because"] == strange.reasons and told["classes"] == {"unknown": 4}


def test_a_file_that_cannot_be_written_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_classifier", None)
    with pytest.raises(OSError, match="/proc"):
        command.explain(load_settings({}), "10K", "original", "x.csv", Path("/proc/out.jsonl"), True, lambda _: None)


def test_printed_json_holds_no_nan() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.facts({"x": value}, as_json=True)
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.rows([{"x": value}], as_json=True)
