"""A classifier gives numbers or nothing: scores that are NaN, and JSON that would hold NaN, are errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iot_pipeline.commands import console
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving.classifier import Classifier, Fitted, Origin
from iot_pipeline.settings import load_settings

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


def test_printed_json_holds_no_nan() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.facts({"x": value}, as_json=True)
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.rows([{"x": value}], as_json=True)
