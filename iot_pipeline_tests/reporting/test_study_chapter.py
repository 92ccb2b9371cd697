"""The study's chapter: the data-by-steps grid as a table, or that it was not made."""

from typing import Any

from iot_pipeline.reporting.gather import Facts
from iot_pipeline.reporting.report import render
from iot_pipeline.reporting.rows import arms
from iot_pipeline_tests.reporting.example import study, zero_shot

CELLS = [("10K", "10K"), ("30K", "30K"), ("10K", "30K")]


def grid(seeds: int) -> dict[str, Any]:
    """A grid of two stages, of which one cell was not trained."""
    found = study(seeds)
    (metrics, *_), (row, *_) = found["arms"].values(), found["contrasts"]
    names = [f"{rows} rows, tokens of {tokens}" for rows, tokens in CELLS]
    pair = {"first": names[1], "second": names[2], "question": "more data at equal tokens"}
    cells = [
        {"rows": rows, "tokens": tokens, "arm": name, "passes": 3.0 if rows != tokens else None}
        for (rows, tokens), name in zip(CELLS, names, strict=True)
    ]
    return found | {
        "stages": ["10K", "30K"],
        "cells": cells,
        "arms": dict.fromkeys(names, metrics),
        "contrasts": [row | pair],
        "left_out": ["30K rows, tokens of 10K"],
    }


def chapter(**parts: Any) -> str:
    return render("study.md.j2", Facts(study=study(3) | parts))


def test_the_grid_is_a_table_of_rows_and_tokens_with_the_spread_of_training() -> None:
    text = chapter(grid=grid(3))
    assert "| accuracy: mean (spread) | tokens of 10K | tokens of 30K |\n| --- | ---: | ---: |\n" in text
    assert "| rows of 10K | 0.9300 (0.0040) | 0.9300 (0.0040) |\n| rows of 30K | not made | 0.9300 (0.0040) |\n" in text
    assert "- 10K rows, tokens of 30K: 3.00 passes over its rows." in text
    assert "| more data at equal tokens | 30K rows, tokens of 30K minus 10K rows, tokens of 30K | accuracy |" in text
    assert "over the 1 tests" in text and "Left out, since not trained with every seed: 30K rows, tokens of 10K" in text
    assert "| rows of 10K | 0.9300 (–) |" in chapter(grid=grid(1))


def test_a_study_without_a_grid_says_how_to_make_one() -> None:
    for text in (chapter(grid=None), chapter()):
        assert "Not made: `IOT_GRID=true`" in text and "tokens of" not in text


def test_the_zero_shot_teacher_stands_beside_the_students_and_an_embedded_one_is_named() -> None:
    text = render("study.md.j2", Facts(study=study(3), zero_shot_teacher=zero_shot(False)))
    assert "class of 200 distinct test flows" in text
    assert "Outcomes: named a class 190, no valid class 9, refused 1." in text
    told = "0.9300 [0.92, 0.94] | 0.9300 [0.92, 0.94] | 0.9300 [0.92, 0.94]"
    assert f"| zero-shot some-model | {told} | | | |\n" in text
    assert f"| original 10K | {told} | +0.0040 [-0.0020, +0.0100] | 0.7600 | no difference shown |\n" in text
    assert "EMBEDDED" not in text
    embedded = render("study.md.j2", Facts(study=study(3), zero_shot_teacher=zero_shot(True)))
    assert "**EMBEDDED teacher**" in embedded and "says nothing about any LLM" in embedded


def test_a_teacher_that_was_not_asked_is_said_to_be() -> None:
    text = render("study.md.j2", Facts(study=study(1), zero_shot_teacher={"asked": 0}))
    assert "Not asked: `IOT_ZERO_SHOT_FLOWS=200`" in text


def test_shares_of_explanations_stand_with_their_spread() -> None:
    text = chapter()
    once = render("study.md.j2", Facts(study=study(1)))
    assert "| original 10K | free | 1 | 0.481 | 0.864 | 0.784 | – |\n" in once and "±" not in once
    assert "| original 10K | free | 3 | 0.481 ± 0.013 | 0.864 ± 0.011 | 0.784 ± 0.013 | – |\n" in text


def test_arms_stand_by_stage_with_students_before_baselines() -> None:
    names = ["AutoML 10K", "original 30K", "paraphrased 10K", "untrained 10K", "LightGBM 10K", "original 10K"]
    found = {"arms": {name: {} for name in names}}
    students = ["original 10K", "paraphrased 10K", "AutoML 10K", "LightGBM 10K", "original 30K"]
    assert [name for name, _ in arms(found, False)] == students
    assert [name for name, _ in arms(found, True)] == ["untrained 10K"]
