"""Cells of the data-by-steps grid, read for the study: trained ones, and the ordinary students of its diagonal."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from iot_pipeline.defs.recording import Step
from iot_pipeline.evaluation.evaluate import align
from iot_pipeline.evaluation.grid import Cell, cell_name, compare_grid
from iot_pipeline.evaluation.metrics import predict
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.evaluation.views import Ints, Side
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.vocabulary import STAGES, TRACKS, partition_parts, unstaged


def grid_of(step: Step, side: Side, students: Mapping[str, list[Ints]]) -> dict[str, Any] | None:
    """Compare the cells that were trained with every seed; None if no cell beside the diagonal was trained.

    Args:
        step: The step of the study.
        side: Records of the test side.
        students: Predictions of the ordinary students by arm (`original 10K`), the diagonal of the grid.
    """
    cells: dict[Cell, dict[int, Ints]] = defaultdict(dict)
    passes: dict[Cell, list[float]] = defaultdict(list)
    seeds = step.settings.seeds
    for artefact, folder in step.inputs("data_grid").items():
        seed, tokens = partition_parts(artefact.partition)
        cell = unstaged(artefact.asset)[1], tokens
        runs = cells[cell]  # without a run, if it was trained with other seeds alone
        if int(seed) not in seeds:
            continue
        predictions = read_predictions(folder / "predictions.parquet", step.spec.classes)
        runs[int(seed)] = predict(align(side, *predictions))
        told = read_json(folder / "cell.json")
        passes[cell].append(told["tokens_read"] / told["pass"])
    whole = {cell: [runs[seed] for seed in seeds] for cell, runs in cells.items() if len(runs) == len(seeds)}
    for cell in (left_out := [cell for cell in cells if cell not in whole]):
        step.log(f"left out: {cell_name(cell)}, trained with {len(cells[cell])} of {len(seeds)} seeds")
    if not whole:
        return None
    used = {stage for cell in whole for stage in cell}
    diagonal = {(s, s): students[f"{TRACKS[0]} {s}"] for s in STAGES if s in used and f"{TRACKS[0]} {s}" in students}
    found = compare_grid(side, diagonal | whole, step.settings.data.seed)
    for cell in found["cells"]:
        read = passes.get((cell["rows"], cell["tokens"]))
        cell["passes"] = fmean(read) if read else None
    step.table("grid", grid_rows(found))
    return found | {"left_out": [cell_name(cell) for cell in left_out]}


def grid_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the cells of a compared grid with mean and spread of each metric, for a table."""
    return [
        {key: cell[key] for key in ("rows", "tokens", "passes")}
        | {
            f"{metric}_{part}": of[part]
            for metric, of in found["arms"][cell["arm"]].items()
            for part in ("mean", "spread")
        }
        for cell in found["cells"]
    ]
