"""Explaining test flows in the assets: both ways of decoding, or the one that a base allows of."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.defs.evaluation.assets import written_by
from iot_pipeline.inference.grounding import NotGroundable
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.settings import load_settings


class Writer:
    """Says what it was asked, or that its tokenizer cannot be held to numbers."""

    def __init__(self, groundable: bool) -> None:
        self.groundable = groundable

    def explain(self, prompts: list[str], longest: int, grounded_in: list[str] | None = None) -> list[tuple[str, bool]]:
        if grounded_in is not None and not self.groundable:
            raise NotGroundable("the base's tokenizer has no token for 7")
        return [(f"{longest} {grounded_in}", True) for _ in prompts]


def step() -> tuple[Any, dict[str, Any]]:
    noted: dict[str, Any] = {}
    settings = load_settings({"IOT_EXPLANATION_WORDS": "100", "IOT_FACTS": "plain"})
    return SimpleNamespace(
        settings=settings,
        artefact=ArtefactId("explanation_quality_10K", "2027|original"),
        context=SimpleNamespace(log=logging.getLogger("explanations")),
        summarise=lambda **facts: noted.update(facts),
    ), noted


def test_flows_are_explained_freely_and_held_to_themselves() -> None:
    asked, noted = step()
    ways = written_by(asked, Writer(True), ["a: 1", "b: 2"])  # type: ignore[arg-type]
    assert ways == {"free": [("464 None", True)] * 2, "grounded": [("464 ['a: 1', 'b: 2']", True)] * 2}
    assert noted == {}


def test_a_base_that_cannot_be_held_is_measured_freely_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    asked, noted = step()
    ways = written_by(asked, Writer(False), ["a: 1"])  # type: ignore[arg-type]
    assert list(ways) == ["free"]
    assert "not measured" in noted["grounded_decoding"] and "no token for 7" in noted["grounded_decoding"]
    assert "only free writing is measured" in caplog.text
