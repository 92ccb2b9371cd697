"""Sentences on causes follow from the figures: the split by row's accuracy, and an ECE that calibration made worse."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.reporting import causes, report
from iot_pipeline.vocabulary import Partition
from iot_pipeline_tests.reporting import example
from iot_pipeline_tests.reporting.example_facts import make_facts

SHARE = st.floats(0, 1)


def leaks(here: float, ceiling: float, there: float, other: float) -> dict[str, Any]:
    found = example.leakage()
    found["leak_free"]["model"] |= {"row": here}
    found["row_wise"]["model"] |= {"row": there, "seen_rows": 0.97, "never_seen_rows": 0.81, "distinct": 0.91}
    found["leak_free"]["row_ceiling"], found["row_wise"]["row_ceiling"] = ceiling, other
    return found


@given(SHARE, SHARE, SHARE, SHARE)
def test_ceiling_and_misses_add_up_to_the_difference(a: float, b: float, c: float, d: float) -> None:
    found = causes.row_split(leaks(a, b, c, d), "model")
    assert found is not None
    assert found["of_ceiling"] + found["of_model"] == pytest.approx(found["difference"])
    assert found["missed_by_group"] - found["missed_by_row"] == pytest.approx(found["of_model"])
    part = found["of_ceiling" if found["cause"] == "ceiling" else "of_model"]
    assert part * found["difference"] >= 0  # the cause points the way of the difference


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            (0.95, 1.0, 0.93, 0.97),
            "2.00 percentage points lower over rows that way: -3.00 by the ceiling of the rows that each split tests "
            "(0.9700 by row, 1.0000 here), +1.00 by what is missed below that ceiling (0.0400 by row, 0.0500 here). So "
            "it scores lower by the rows that are tested more than by what is learnt: equal flows with different "
            "labels can never all be right, and the split by row tests more rows of such flows, the largest of which "
            "stay in the train pool here.",
        ),
        ((0.95, 0.97, 0.93, 0.97), "So it scores lower by its own misses, although 91.80 % of its test rows have"),
        ((0.90, 0.97, 0.95, 0.97), "over rows whose prompt was trained on it reaches 0.9700, over the others 0.8100."),
        ((0.90, 0.93, 0.95, 0.98), "by the rows that are tested more than by what is learnt"),
    ],
)
def test_the_report_says_why_the_split_by_row_scores_as_it_does(values: tuple[float, ...], told: str) -> None:
    facts = make_facts()
    facts.leakage_report = leaks(*values)
    assert told in report.render("split.md.j2", facts)


def test_the_report_names_every_model_whose_ece_calibration_made_worse_and_why() -> None:
    facts = make_facts()
    assert " worse for 0 of " in report.render("evaluation.md.j2", facts)
    student = copy.deepcopy(facts.evaluation[Partition("10K", "original")])
    view = student["views"]["distinct"]  # mean confidence 0.753, accuracy 0.921
    lower = [row | {"confidence": row["confidence"] - 0.1} for row in view["reliability"]]
    view["calibrated"] |= {"ece": 0.2, "reliability": lower}
    facts.evaluation[Partition("10K", "original")] = student
    text = report.render("evaluation.md.j2", facts)
    assert " worse for 1 of " in text
    assert (
        "- original 10K: from 0.0310 to 0.2000. The temperature 1.310 took the mean confidence from 0.7530 to 0.6530, "
        "and the accuracy is 0.9210: what suits the calibration flows leads away from these test flows." in text
    )
    view["calibrated"]["reliability"] = [row | {"confidence": 0.9} for row in view["reliability"]]
    assert "nearer on the whole, but not bin by bin, of about 93 flows each" in report.render("evaluation.md.j2", facts)
