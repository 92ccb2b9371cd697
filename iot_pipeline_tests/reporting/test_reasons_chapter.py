"""The chapter on right reasons: verdicts, chance and human anchor stand in it; without the asset that is said."""

from iot_pipeline.reporting.gather import Facts
from iot_pipeline.reporting.report import CHAPTERS, render
from iot_pipeline_tests.reporting.example import HOSTILE
from iot_pipeline_tests.reporting.example_facts import make_facts


def test_verdicts_chance_and_the_human_anchor_stand_in_the_chapter() -> None:
    assert "reasons.md.j2" in CHAPTERS
    text = render("reasons.md.j2", make_facts())
    assert "original 10K: Over 48 flows the student is worse in evidence share" in text and HOSTILE not in text
    assert "of 3 explanations: cannot be judged: the spec has no expected evidence" in text
    assert "right in 83.00 % of decisions" in text and "the right reason in 39.00 %" in text
    rows = [line for line in text.splitlines() if "evidence share" in line and line.startswith("|")]
    assert len(rows) == 6 and sum("worse" in row for row in rows) == 3
    assert "| 10K | faultless |" in text


def test_without_reasons_the_chapter_says_so() -> None:
    assert "*reasons: not materialised in this lake.*" in render("reasons.md.j2", Facts())
