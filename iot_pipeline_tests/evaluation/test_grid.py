"""The data-by-steps grid on made predictions: which cells are compared, and what is said of data and of tokens."""

import numpy as np

from iot_pipeline.evaluation.grid import MORE_DATA, MORE_TOKENS, compare_grid, grid_contrasts
from iot_pipeline.evaluation.study import LEAST_SEEDS, ONE_SEED
from iot_pipeline_tests.evaluation.simulated_runs import side_of

FLOWS = 2_000
LABELS = np.zeros(FLOWS, np.int64)
CELLS = [(rows, tokens) for rows in ("10K", "30K") for tokens in ("10K", "30K")]


def runs(errors: int, seeds: int = LEAST_SEEDS) -> list[np.ndarray]:
    """Predictions of several seeds, with about so many errors on the same flows."""
    return [np.where(np.arange(FLOWS) < errors + seed, 1, 0) for seed in range(seeds)]


def test_neighbours_are_compared_along_rows_and_along_tokens() -> None:
    asked = grid_contrasts(CELLS)
    assert asked == {
        (("30K", "10K"), ("10K", "10K")): MORE_DATA,
        (("30K", "30K"), ("10K", "30K")): MORE_DATA,
        (("10K", "30K"), ("10K", "10K")): MORE_TOKENS,
        (("30K", "30K"), ("30K", "10K")): MORE_TOKENS,
    }
    whole = [(rows, tokens) for rows in ("10K", "70K", "ALL") for tokens in ("10K", "70K", "ALL")]
    assert len(grid_contrasts(whole)) == 12
    assert grid_contrasts([("10K", "10K")]) == {}
    assert list(grid_contrasts([("10K", "10K"), ("ALL", "10K")])) == [(("ALL", "10K"), ("10K", "10K"))]


def test_what_tokens_bring_is_not_credited_to_the_data() -> None:
    """Here only tokens help: stage against stage would say that more data does."""
    cells = dict(zip(CELLS, map(runs, (200, 60, 200, 60)), strict=True))
    found = compare_grid(side_of(LABELS), cells, 1)
    said = {(row["question"], row["verdict"]) for row in found["contrasts"] if row["metric"] == "accuracy"}
    assert said == {
        (MORE_DATA, "equivalent within the margin"),
        (MORE_TOKENS, "10K rows, tokens of 30K is better"),
        (MORE_TOKENS, "30K rows, tokens of 30K is better"),
    }
    assert found["stages"] == ["10K", "30K"] and len(found["cells"]) == 4


def test_what_data_bring_is_found_at_equal_tokens() -> None:
    cells = dict(zip(CELLS, map(runs, (200, 200, 60, 60)), strict=True))
    found = compare_grid(side_of(LABELS), cells, 1)
    said = [(row["question"], row["verdict"]) for row in found["contrasts"] if row["metric"] == "accuracy"]
    assert said[:2] == [(MORE_DATA, f"30K rows, tokens of {stage} is better") for stage in ("10K", "30K")]
    assert {question for question, verdict in said[2:] if "better" not in verdict} == {MORE_TOKENS}


def test_one_seed_gives_no_verdict() -> None:
    cells = dict(zip(CELLS, (runs(n, 1) for n in (200, 60, 200, 60)), strict=True))
    assert {row["verdict"] for row in compare_grid(side_of(LABELS), cells, 1)["contrasts"]} == {ONE_SEED}
