"""Rows of one flow group differ behind the last digit that a flow's text prints; they get one verdict."""

from dataclasses import replace

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.evaluation.unknown.choice import Choice
from iot_pipeline.evaluation.unknown.detector import Unknown
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.scores import Reference
from iot_pipeline.serving.classifier import Classifier
from iot_pipeline_tests.serving.factories import SPEC, classifier

NAMES, CLASSES = SPEC.feature_names, SPEC.classes
HEAD = np.zeros((len(CLASSES), 3), np.float32)


def drawn(count: int, seed: int) -> pd.DataFrame:
    """Flows whose published values have more digits than their texts."""
    return pd.DataFrame(np.random.default_rng(seed).normal(0, 1, (count, len(NAMES))), columns=NAMES)


def outputs(count: int) -> Outputs:
    return Outputs.of(np.full((count, len(CLASSES)), -np.log(len(CLASSES))), np.zeros((count, 2)), HEAD)


def with_detector(score: str) -> Classifier:
    labels = [CLASSES[row % len(CLASSES)] for row in range(60)]
    reference = Reference.of(drawn(60, 1), NAMES, SPEC.format, labels, outputs(60))
    fitted = Unknown.fit(Choice(score, {}), CLASSES, reference, HEAD, outputs(120), drawn(120, 2))
    return replace(classifier(), detector=fitted)


JUDGES = [with_detector(score) for score in ("features", "whitened", "features+whitened")]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(JUDGES), st.floats(-3, 3), st.integers(0, 10_000))
def test_two_rows_of_one_group_get_one_verdict(judge: Classifier, centre: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    shown = np.round(random.normal(centre, 0.5, len(NAMES)), 3)
    shown[: len(NAMES) // 2] = random.choice([-2.0, 2.0], len(NAMES) // 2)  # the ends of the train pool's range
    behind = random.uniform(-0.00049, 0.00049, (8, len(NAMES)))
    rows = pd.DataFrame(shown + behind, columns=NAMES)
    assert len(set(judge.groups(rows))) == 1
    first, *others = judge.classify(rows)
    assert first.strange is not None and all(other == first for other in others)
