"""The results table, its verdict sentences, and the cost table."""

from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.reporting import comparison, cost
from iot_pipeline.reporting.comparison import track_comparison
from iot_pipeline.vocabulary import Partition
from iot_pipeline_tests.reporting.example import POPULATION, evaluation, student_evaluation, study

BASELINES = {"10K": {"automl": evaluation(0.95), "hash_lookup": evaluation(0.4)}, "ALL": {"automl": evaluation(0.96)}}


ORIGINAL, PARAPHRASED = Partition("10K", "original"), Partition("10K", "paraphrased")


def test_rows_and_ratios_at_equal_data() -> None:
    found = track_comparison({ORIGINAL: student_evaluation(0.90)}, BASELINES, trained_rows={"10K": 10000})
    assert [(row["name"], row["stage"], row["trained_rows"]) for row in found["rows"]] == [
        ("original", "10K", 10000),
        ("AutoML", "10K", 10000),
        ("hash lookup", "10K", 10000),
        ("AutoML", "ALL", None),
    ]
    scored = found["rows"][0]["views"]["distinct"]
    assert (scored["lowest_recall"], scored["lowest_class"]) == (0.45, "HTTP_Flood")
    assert scored["of_automl"] == pytest.approx(
        {"accuracy": 0.90 / 0.95, "macro_f1": 0.86 / 0.91, "lowest_recall": 0.45 / 0.475}
    )


def test_accuracy_never_stands_alone() -> None:
    said = track_comparison({ORIGINAL: student_evaluation(0.90)}, BASELINES)["verdicts"]
    assert said[:3] == [
        "Chosen on validation flows: original at 10K; on test flows it reaches accuracy 0.9000 [0.89, 0.91], macro-F1"
        " 0.8600 [0.84, 0.88] and a lowest recall of 0.450 (HTTP_Flood).",
        "AutoML on the same rows reaches accuracy 0.9500 [0.94, 0.96], macro-F1 0.9100 [0.89, 0.93] and a lowest recall"
        " of 0.475 (HTTP_Flood); the student reaches 0.947, 0.945, 0.947 times these.",
        "AutoML on the whole train pool reaches accuracy 0.9600 [0.95, 0.97], macro-F1 0.9200 [0.90, 0.94] and a lowest"
        " recall of 0.480 (HTTP_Flood).",
    ]
    assert said[-1] == "Looking flows up by their text reaches 0.4000: test flows were never seen."


def test_a_ceiling_of_one_is_no_limit() -> None:
    student = student_evaluation(0.90)
    student["views"]["distinct"]["ceiling"] = 1.0
    said = " ".join(track_comparison({ORIGINAL: student}, BASELINES)["verdicts"])
    assert "can reach 1.0000 here; this student is 10.00 percentage points below." in said
    assert "different labels" not in said


def test_what_a_deployed_model_meets_is_an_estimate_with_bounds() -> None:
    made = track_comparison({ORIGINAL: student_evaluation(0.90)}, BASELINES, populations={"10K": POPULATION})
    student, automl, lookup, whole = (row["population"] for row in made["rows"])
    # Over test rows 0.88 of a ceiling of 0.95; half the rows are of trained flows, whose ceiling is 0.8.
    bounds = {"low": 0.44, "estimate": 0.4 * 0.88 / 0.95 + 0.44, "high": 0.84}
    assert student == pytest.approx({"seen_share": 0.5, "ceiling": 0.875, **bounds})
    assert automl["high"] > student["high"] and whole is None
    assert [lookup[name] for name in bounds] == pytest.approx([0.5 * 0.7 + 0.5 * 0.38] * 3)
    assert made["verdicts"][-2] == (
        "Over the rows of the whole table, of which 50.00 % have a flow that was trained on, its accuracy is estimated,"
        " not measured: 0.8105, between 0.4400 and 0.8400; the ceiling there is 0.8750."
    )


def test_the_best_student_is_chosen_on_the_validation_side() -> None:
    evals = {
        ORIGINAL: student_evaluation(0.90, validation=0.93),
        PARAPHRASED: student_evaluation(0.92, validation=0.91),
    }
    assert track_comparison(evals, BASELINES)["best"] == {"name": "original", "stage": "10K"}


def test_what_is_said_of_tracks_comes_from_the_study() -> None:
    evals = {ORIGINAL: student_evaluation(0.90), PARAPHRASED: student_evaluation(0.93)}

    def said(made: dict[str, Any] | None) -> list[str]:
        return track_comparison(evals, BASELINES, made)["on_tracks"]

    assert said(None) == ["No verdict on tracks: the study has not been made in this lake."]
    (one,) = said(study(1))
    assert one.startswith("One seed: no verdict on tracks.") and "better" not in one
    accuracy, macro_f1 = said(study(3))
    assert accuracy == (
        "paraphrased 10K minus original 10K, accuracy over 3 seeds: +0.0040 [-0.0020, +0.0100], spread of training"
        " 0.0050: no difference shown."
    )
    assert "macro-F1 over 3 seeds" in macro_f1
    assert track_comparison({ORIGINAL: student_evaluation(0.9)}, BASELINES, None)["on_tracks"] == []


def test_parts_that_are_absent() -> None:
    assert track_comparison({}, BASELINES)["best"] is None
    assert track_comparison({}, {})["verdicts"] == [
        "No student has been evaluated in this lake, so there is nothing to compare."
    ]
    alone = track_comparison({ORIGINAL: student_evaluation(0.9)}, {})
    assert alone["verdicts"][1] == "AutoML has not been trained on the same rows in this lake."
    empty = student_evaluation(0.9)
    empty["views"]["clean"] = None
    assert track_comparison({ORIGINAL: empty}, {})["rows"][0]["views"]["clean"] is None


def test_results_rows_are_ready_to_print() -> None:
    found = comparison.results_rows(track_comparison({ORIGINAL: student_evaluation(0.90)}, BASELINES))
    assert found[0] == {
        "model": "original",
        "stage": "10K",
        "accuracy, distinct flows": "0.9000 [0.89, 0.91]",
        "of AutoML": pytest.approx(0.90 / 0.95),
        "macro-F1": "0.8600 [0.84, 0.88]",
        "F1 of AutoML": pytest.approx(0.86 / 0.91),
        "lowest recall": "0.450 HTTP_Flood",
        "recall of AutoML": pytest.approx(0.45 / 0.475),
        "accuracy, rows": "0.8800 [0.87, 0.89]",
        "ceiling": 0.972,
        "row ceiling": 0.95,
    }


SUMMARY = {
    "rows": 10000,
    "requests": 4000,
    "distinct_requests": 5000,
    "prompt_tokens": 4_000_000,
    "completion_tokens": 1_000_000,
    "billed_usd": 1.2,
    "model": "gpt-4o-mini",
    "embedded": False,
    "quarantined": 0,
}


def test_cost_of_paid_and_embedded_answers() -> None:
    found = cost.cost_report(
        {Partition("10K", "original"): SUMMARY, Partition("10K", "paraphrased"): SUMMARY | {"embedded": True}},
        {"original": 150},
    )
    paid, free = found["rows"]
    assert (paid["billed_usd"], paid["hypothetical_sync_usd"], paid["hypothetical_batch_usd"], paid["claimed_usd"]) == (
        1.2,
        pytest.approx(1.2),
        pytest.approx(0.6),
        150,
    )
    assert (free["billed_usd"], free["claimed_usd"], free["teacher"]) == (0.0, None, "gpt-4o-mini (embedded, free)")
    assert found["totals"]["billed_usd"] == 1.2
    assert found["notes"][0].startswith("The answers of 1 of 2 tracks were written by the embedded rule-based teacher")
    assert "20,000 rows needed 10,000 distinct requests" in found["notes"][1]


def test_cost_names_what_is_missing() -> None:
    with pytest.raises(UserError, match="the summary of original at 10K lacks rows, model"):
        cost.cost_report(
            {Partition("10K", "original"): {k: v for k, v in SUMMARY.items() if k not in ("rows", "model")}}
        )
    assert cost.cost_report({})["notes"] == ["No track has been made in this lake, so nothing was asked of a teacher."]


def test_cost_counts_every_request_of_the_ledger_once() -> None:
    taken = {
        ("a", "s"): (1, 100, 10, 0.1),
        ("b", "s"): (3, 300, 30, 0.3),  # failed twice
        ("c", "s"): (1, 100, 10, 0.1),
        ("old", "s"): (2, 200, 0, 0.0),
    }
    asked = {
        Partition("10K", "original"): {("a", "s"), ("b", "s")},
        Partition("30K", "original"): {("b", "s"), ("c", "s"), ("imported", "s")},
        Partition("10K", "paraphrased"): {("imported", "t")},
    }
    usage, beyond = cost.by_ledger(dict.fromkeys(asked, SUMMARY), asked, taken, {})
    found = cost.cost_report(usage, beyond=beyond)
    told = [(row["requests"], row["prompt_tokens"], row["billed_usd"]) for row in found["rows"]]
    assert told == [(4, 400, pytest.approx(0.4)), (1, 100, pytest.approx(0.1)), (4000, 4_000_000, 1.2)]
    assert found["beyond"] == {"requests": 2, "prompt_tokens": 200, "completion_tokens": 0, "billed_usd": 0.0}
    assert found["notes"][-1].endswith("what was given up: 4,007 in all, $1.70.")
    # Stages whose requests were all counted before took nothing more; without a ledger the answers tell.
    two, same = {Partition("x", "original"): SUMMARY, Partition("y", "original"): SUMMARY}, {("a", "s")}
    again, _ = cost.by_ledger(two, {Partition("x", "original"): same, Partition("y", "original"): same}, taken, {})
    assert [summary["requests"] for summary in again.values()] == [1, 0]
    moved = cost.by_ledger(two, {Partition("x", "original"): same, Partition("y", "original"): same}, {}, {})[0]
    assert moved == {name: {**summary, "imported": 0} for name, summary in two.items()}


def test_imported_answers_cost_what_their_file_tells_and_are_counted_apart() -> None:
    taken = {("a", "s"): (2, 200, 20, 0.2), ("old", "s"): (1, 1, 1, 0.1)}
    told = {("b", "s"): (3, 300, 30, 0.3), ("never asked", "s"): (1, 100, 10, 0.1)}
    asked = {Partition("10K", "original"): {("a", "s"), ("b", "s")}, Partition("30K", "original"): {("b", "s")}}
    usage, beyond = cost.by_ledger(dict.fromkeys(asked, SUMMARY), asked, taken, told)
    found = cost.cost_report(usage, beyond=beyond)
    told_rows = [(row["requests"], row["imported"], row["billed_usd"]) for row in found["rows"]]
    assert told_rows == [(5, 1, pytest.approx(0.5)), (0, 0, 0.0)]
    assert beyond == {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1, "billed_usd": 0.1}
    assert any(note.startswith("1 answers were imported: ") for note in found["notes"])
