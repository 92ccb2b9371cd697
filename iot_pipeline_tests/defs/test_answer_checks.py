"""Checks of a track's answers: a class that the teacher fails at, and answers that copy each other, raise a warning."""

from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.augmentation.join import share
from iot_pipeline.defs.augmentation.assets import answered, judge


def verdicts(by_class: dict[str, tuple[int, int]], near: float | None) -> dict[str, bool]:
    """Verdicts on a track with these (rows, quarantined) by class and this share of near-copies."""
    found: dict[str, bool] = {}
    step = SimpleNamespace(
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
        "by_class": rows, "diversity": {"masked": {"near_duplicates": near}},
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


def test_only_the_quarantine_rate_blocks() -> None:
    assert {spec.name: spec.blocking for spec in answered("original")} == {
        "quarantine_rate": True, "yield_by_class": False, "near_copies": False
    }  # fmt: skip
