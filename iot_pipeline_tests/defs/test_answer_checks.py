"""Checks of a track's answers: a class that the teacher fails at, and answers that copy each other, raise a warning."""

from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.augmentation.join import share, variations_by_class
from iot_pipeline.defs.augmentation.assets import answered, judge


def verdicts(
    by_class: dict[str, tuple[int, int]], near: float | None, asset: str = "original", **more: Any
) -> dict[str, bool]:
    """Verdicts on a track with these (rows, quarantined) by class and this share of near-copies."""
    found: dict[str, bool] = {}
    step = SimpleNamespace(
        artefact=SimpleNamespace(asset=asset),
        settings=SimpleNamespace(teacher=SimpleNamespace(max_quarantined_share=0.02)),
        check=lambda name, passed, **facts: found.update({name: passed}),
    )
    rows = [
        {"class": name, "rows": good, "quarantined": bad}
        | dict(zip(("yield", "yield_low", "yield_high"), share(good, good + bad), strict=True))
        for name, (good, bad) in by_class.items()
    ]
    report: dict[str, Any] = {
        "rows": sum(good for good, _ in by_class.values()), "quarantined": sum(bad for _, bad in by_class.values()),
        "by_class": rows, "diversity": {"masked": {"near_duplicates": near}}, **more,
    }  # fmt: skip
    judge(step, report)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("by_class", "near", "failed"),
    [
        ({"a": (1000, 0), "b": (500, 5)}, 0.01, set()),
        ({"a": (1000, 0), "b": (2, 1)}, 0.01, set()),  # one of three is no evidence
        ({"a": (5000, 0), "b": (100, 20)}, 0.01, {"yield_by_class"}),  # the whole track is well under the limit
        ({"a": (1000, 0), "b": (100, 50)}, 0.2, {"quarantine_rate", "yield_by_class", "near_copies"}),
        ({"a": (1, 0)}, None, set()),
    ],
)
def test_yield_by_class_and_near_copies(by_class: dict[str, tuple[int, int]], near: float, failed: set[str]) -> None:
    assert {name for name, passed in verdicts(by_class, near).items() if not passed} == failed


def test_a_track_of_which_nothing_could_be_varied_fails_its_check() -> None:
    counted = [("a", "unchanged: the model doubts the label", 60), ("a", "varied", 40)]
    for more, passed in (
        (variations_by_class(counted), False),
        (variations_by_class([*counted, ("b", "varied", 20)]), True),
        (variations_by_class([("a", "unchanged: no timing", 10)]), False),
        (variations_by_class([]), False),  # no repeat row, so nothing was varied
    ):
        assert verdicts({"a": (100, 0)}, 0.0, "feature_varied", **more)["share_varied"] is passed
    assert "share_varied" not in verdicts({"a": (100, 0)}, 0.0)


def test_only_the_quarantine_rate_blocks() -> None:
    assert {spec.name: spec.blocking for spec in answered("original")} == {
        "quarantine_rate": True, "yield_by_class": False, "near_copies": False
    }  # fmt: skip
    assert {spec.name: spec.blocking for spec in answered("feature_varied")}["share_varied"] is False
