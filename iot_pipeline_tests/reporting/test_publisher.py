"""The chapter on the split under IOT_SPLIT=publisher: what is tested, what is left out, and the split of papers."""

from dataclasses import replace

from iot_pipeline.reporting import figures_data, report
from iot_pipeline_tests.reporting.example import leakage
from iot_pipeline_tests.reporting.example_facts import make_facts

COUNTS = {
    "train_rows": 278_148, "test_rows": 69_537, "shared_groups": 4_102, "test_groups": 9_876,
    "shared_test_rows": 63_000, "dropped_rows": 201_345,
}  # fmt: skip


def test_the_rows_left_out_and_the_share_seen_are_told() -> None:
    facts = make_facts()
    own = leakage()["row_wise"] | COUNTS
    shown = replace(
        facts,
        evaluation_split=facts.evaluation_split | {"publisher": own},
        leakage_report=leakage() | {"publisher": own},
    )
    text = " ".join(report.render("split.md.j2", shown).split())
    assert "all 69,537 rows of it (`IOT_SPLIT=publisher`)" in text
    assert "91.80 % of these rows, 4,102 of 9,876 distinct flows, repeat a flow of the publisher's train rows" in text
    assert "the 201,345 of 278,148 train rows that repeat a test flow are on no side" in text
    assert "the LightGBM scores 0.9210 over all of the publisher's test rows and 0.8800 over those never" in text
    assert "that repeat a test flow 0.9010 over all." in text
    assert "publisher" not in report.render("split.md.j2", facts)


def test_the_publishers_split_is_a_row_of_its_own_beside_the_other_two() -> None:
    rows = figures_data.leakage_rows(leakage() | {"publisher": leakage()["row_wise"]})
    assert [row["split"] for row in rows] == [
        "publisher's test rows (here)", "by row (prior work)", "publisher's train and test rows"
    ]  # fmt: skip
    assert [row["split"] for row in figures_data.leakage_rows(leakage())] == [
        "by flow group (here)", "by row (prior work)"
    ]  # fmt: skip


def test_the_population_view_does_not_say_that_frequent_flows_are_untested() -> None:
    facts = make_facts()
    drawn = "The test side holds no flow above its share of a class"
    own = replace(facts, evaluation_split=facts.evaluation_split | {"publisher": leakage()["row_wise"] | COUNTS})
    assert drawn in report.render("results.md.j2", facts)
    text = report.render("results.md.j2", own)
    assert drawn not in text and "A flow that a stage trained on is never tested, and the views above" in text
