"""Scaling fitted on the train pool: z-scores whose mean and deviation no evaluation flow influences."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec, Scale
from iot_pipeline.flows.split import SplitReport
from iot_pipeline.flows.sql import connect, scan
from iot_pipeline.flows.texts import FlowTextWriter, RankTable, fit_ranks
from iot_pipeline.lake.atomic import write_table


def fit_scaling(spec: DatasetSpec, flows: Path, records: Path) -> DatasetSpec:
    """Fit a z-score scale for each number on the train rows, as printed; return the spec with the scales.

    A constant feature gets standard deviation 1. Sums are exact, so the result does not depend on the order of rows.
    """
    ranks = fit_ranks(spec, flows, records)
    return spec.with_scales({name: _scale(ranks, name) for name in spec.number_names})


def _scale(ranks: RankTable, name: str) -> Scale:
    values, upto = ranks.values[name], ranks.cumulative[name]
    counts = [after - before for before, after in zip([0, *upto], upto, strict=False)]
    mean = math.fsum(value * (n / ranks.rows) for value, n in zip(values, counts, strict=True))
    # Distances are divided by the longest before squaring: 1e300 squared overflows.
    longest = max(abs(value - mean) for value in values)
    if longest == 0:
        return Scale(kind="zscore", mean=mean, std=1.0, basis="fitted")
    square = math.fsum(((value - mean) / longest) ** 2 * n for value, n in zip(values, counts, strict=True))
    return Scale(kind="zscore", mean=mean, std=longest * math.sqrt(square / ranks.rows), basis="fitted")


def keep_prompts_apart(spec: DatasetSpec, flows: Path, records: Path, dropped: Path | None = None) -> int:
    """Move flow groups whose text occurs on several sides to the train side of records.parquet; return their number.

    Their values differ, but their texts under the fitted scales do not. The scales stay as fitted: every row that they
    were fitted on is still a train row. A publisher's test side stays whole: groups whose text occurs there are moved
    to `dropped` instead, train rows of the publisher that the scales were fitted on among them.

    Args:
        spec: Spec with the fitted scales.
        flows: flows.parquet.
        records: records.parquet of the split; written anew if a group moves.
        dropped: Rows that a publisher's split leaves out; None where the test side was drawn.
    """
    kept = "test" if dropped is not None else "train"
    with tempfile.TemporaryDirectory(prefix="iot_pipeline-") as folder:
        texts = Path(folder) / "texts.parquet"
        FlowTextWriter(spec, "values").write_texts(flows, records, texts)
        with connect(records, texts) as connection:
            found = connection.execute(f"""
                WITH shown AS (SELECT DISTINCT flow_group, side, sha256(text) AS prompt
                    FROM {scan(records)} r JOIN {scan(texts)} t USING (flow_group))
                SELECT flow_group, tested FROM shown JOIN (
                    SELECT prompt, bool_or(side = 'test') AS tested FROM shown GROUP BY prompt
                    HAVING count(DISTINCT side) > 1) USING (prompt)
                WHERE CASE WHEN tested THEN side <> '{kept}' ELSE side <> 'train' END""").fetchall()
    gone = {group for group, tested in found if tested and dropped is not None}
    moved = {group for group, _ in found} - gone
    if found:
        table = pd.read_parquet(records)
        table.loc[table["flow_group"].isin(moved), "side"] = "train"
        leaves = table["flow_group"].isin(gone)
        if dropped is not None:
            further = pd.concat([pd.read_parquet(dropped), table.loc[leaves, ["flow_group", "label", "rows"]]])
            write_table(dropped, pa.Table.from_pandas(further, preserve_index=False))
        write_table(records, pa.Table.from_pandas(table[~leaves], preserve_index=False))
    return len(moved)


def refuse_lost_sides(before: SplitReport, after: SplitReport, least: int) -> None:
    """Refuse a split in which moved flow groups leave a class below its minimum on a side; UserError names the class.

    Args:
        before: The split as it was drawn.
        after: The split after `keep_prompts_apart`.
        least: Fewest distinct flows of a class on each side; a class that had fewer must keep what it had.
    """
    for side, found in before.groups_by_class.items():
        for name, groups in found.items():
            left = after.groups_by_class.get(side, {}).get(name, 0)
            if left < min(groups, least):
                raise UserError(
                    f"scaling: train_pool: the fitted scales print flows of class {name} alike that stand on several "
                    f"sides; without them the {side} side has {left} of its distinct flows, {min(groups, least)} are "
                    "needed; print more decimals (format), set scaling: none, or raise the minimum of rare_classes so "
                    "that the class is grouped or left out"
                )
