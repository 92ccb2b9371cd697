"""Data-by-steps grid: more rows at equal tokens told apart from more tokens on equal rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import Ints, Side
from iot_pipeline.vocabulary import STAGES

MORE_DATA, MORE_TOKENS = "more data at equal tokens", "more tokens on equal data"
Cell = tuple[str, str]  # the stage whose rows are trained on, and the stage whose tokens are read


def compare_grid(side: Side, cells: Mapping[Cell, Sequence[Ints]], seed: int) -> dict[str, Any]:
    """Compare the cells of a grid, each with its neighbours, under the rules of a study; its tests are one family.

    Args:
        side: Records of one side of the split.
        cells: Predicted class index [n_groups] of each training seed, by cell.
        seed: Seed of the bootstrap.

    Returns:
        What compare_seeds returns, each contrast with its `question`, and `stages` and `cells`: [{rows, tokens, arm}].
    """
    asked = grid_contrasts(cells)
    arms = {cell_name(cell): runs for cell, runs in cells.items()}
    found = compare_seeds(side, arms, [(cell_name(one), cell_name(other)) for one, other in asked], seed)
    questions = {(cell_name(one), cell_name(other)): question for (one, other), question in asked.items()}
    for row in found["contrasts"]:
        row["question"] = questions[row["first"], row["second"]]
    return found | {
        "stages": [stage for stage in STAGES if any(stage in cell for cell in cells)],
        "cells": [{"rows": rows, "tokens": tokens, "arm": cell_name((rows, tokens))} for rows, tokens in cells],
    }


def grid_contrasts(cells: Collection[Cell]) -> dict[tuple[Cell, Cell], str]:
    """Pair neighbouring cells, the one of more data or tokens first, with the question that each pair answers."""
    at_equal_tokens = [[(rows, tokens) for rows in STAGES if (rows, tokens) in cells] for tokens in STAGES]
    on_equal_data = [[(rows, tokens) for tokens in STAGES if (rows, tokens) in cells] for rows in STAGES]
    return {
        (larger, smaller): question
        for question, lines in ((MORE_DATA, at_equal_tokens), (MORE_TOKENS, on_equal_data))
        for line in lines
        for smaller, larger in pairwise(line)
    }


def cell_name(cell: Cell) -> str:
    """Name a cell: `10K rows, tokens of 30K`."""
    return f"{cell[0]} rows, tokens of {cell[1]}"
