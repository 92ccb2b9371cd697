"""Checks of a track's answers: a class that the teacher fails at, and answers that copy each other, raise a warning."""

from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.augmentation.join import share, variations_by_class
from iot_pipeline.defs.augmentation.assets import judge
from iot_pipeline.defs.recording import verdicts as dagster_verdicts
from iot_pipeline.lake.store import Manifest


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
        "exact_copies": 0.0,
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


def test_answers_that_repeat_each_other_word_for_word_are_near_copies_too() -> None:
    assert verdicts({"a": (100, 0)}, 0.01, exact_copies=0.3)["near_copies"] is False
    assert verdicts({"a": (100, 0)}, None, exact_copies=0.99)["near_copies"] is False
    assert verdicts({"a": (100, 0)}, 0.01, exact_copies=0.01)["near_copies"] is True


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


def test_a_blocked_track_tells_its_reasons_with_counts_and_an_example() -> None:
    found: dict[str, Any] = {}
    step = SimpleNamespace(
        artefact=SimpleNamespace(asset="original"),
        settings=SimpleNamespace(teacher=SimpleNamespace(max_quarantined_share=0.02)),
        check=lambda name, passed, **facts: found.update(
            {name: {"passed": passed, "blocking": name == "quarantine_rate", "facts": facts}}
        ),
    )
    report = {"rows": 1, "quarantined": 9, "by_class": [], "exact_copies": 0.0,
              "diversity": {"masked": {"near_duplicates": None}}}  # fmt: skip
    evil = "mislabelled: \x1b[31m[bold]<b>Normal</b>\n" + "x " * 5_000_000
    kinds = [("mislabelled", 6, evil), ("no answer", 2, "no answer: timeout"), ("refused", 1, "refused")]
    kinds += [(f"kind{n}", 1, f"kind{n}: x") for n in range(9)]
    judge(step, report, kinds)  # type: ignore[arg-type]
    told = Manifest("original", "10K", "", "", {}, {}, {}, checks=found).describe_failures()
    assert "6 rows mislabelled, such as: [31m[bold] Normal x x" in told and "| 1 row refused |" in told
    assert "2 rows no answer, such as: timeout" in told and "teacher retry" in told and "kind7" not in told
    assert told.isprintable() and len(told) < 900
    (shown,) = [one for one in dagster_verdicts(found) if one["check_name"] == "quarantine_rate"]
    assert "timeout" in shown["metadata"]["reasons"] and "\x1b" not in shown["metadata"]["reasons"]
    judge(step, report | {"quarantined": 0}, ())  # type: ignore[arg-type]
    assert "reasons" not in found["quarantine_rate"]["facts"]
