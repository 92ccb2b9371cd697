"""Population view: an estimate of a model's accuracy over the rows of the whole table, with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import connect, scan
from iot_pipeline.flows.sql import records as rows_of


def describe_population(records: Path, order: Path, stop: int, dropped: Path | None = None) -> dict[str, Any]:
    """Divide the rows of the whole table into those whose flow group a stage trained on (seen) and the others.

    Drawn sides hold no group above their share of a class, so the most frequent flows are never tested: this is what
    the views of the test side cannot show. Returns {rows, seen_share, seen_groups, seen_ceiling, seen_lookup,
    unseen_ceiling, ceiling}. A ceiling is the share of rows with the majority label of their group; `seen_lookup` is
    the share of seen rows with the majority label of their group among the trained rows (ties: the first by name),
    which is what a table lookup answers.

    Args:
        records: records.parquet of the split.
        order: order.parquet.
        stop: Position after the stage's last.
        dropped: Rows of the table that a publisher's split leaves out; None if there are none.

    Raises:
        UserError: The stage trained on no row of the table, or on every flow group.
    """
    files = [records, *filter(None, [dropped])]
    table = " UNION ALL ".join(f"SELECT flow_group, label, rows FROM {scan(file)}" for file in files)
    with connect(*files, order) as connection:
        (found,) = rows_of(
            connection,
            f"""WITH answers AS (
                SELECT flow_group, first(label ORDER BY n DESC, label) AS answer
                FROM (SELECT flow_group, label, count(*) AS n FROM {scan(order)} WHERE position < {stop} GROUP BY ALL)
                GROUP BY flow_group),
            counted AS (SELECT flow_group, label, sum(rows) AS rows FROM ({table}) GROUP BY ALL),
            groups AS (
                SELECT sum(rows) AS size, max(rows) AS best, any_value(answer) IS NOT NULL AS seen,
                    coalesce(sum(rows) FILTER (label = answer), 0) AS answered
                FROM counted LEFT JOIN answers USING (flow_group) GROUP BY flow_group)
            SELECT sum(size)::BIGINT AS rows, (sum(size) FILTER (seen) / sum(size))::DOUBLE AS seen_share,
                count(*) FILTER (seen) AS seen_groups,
                (sum(best) FILTER (seen) / sum(size) FILTER (seen))::DOUBLE AS seen_ceiling,
                (sum(answered) FILTER (seen) / sum(size) FILTER (seen))::DOUBLE AS seen_lookup,
                (sum(best) FILTER (NOT seen) / sum(size) FILTER (NOT seen))::DOUBLE AS unseen_ceiling,
                (sum(best) / sum(size))::DOUBLE AS ceiling FROM groups""",
        )
    if found["seen_share"] is None or found["unseen_ceiling"] is None:
        raise UserError("the stage trained on none or on all of the table's flows: there is no population to estimate")
    return found


def estimate_population(
    population: Mapping[str, Any], scored: Mapping[str, Any], looks_up: bool = False
) -> dict[str, float]:
    """Estimate a model's accuracy over the rows of the whole table; returns {low, estimate, high}.

    With s the share of seen rows, C_seen and C_unseen the ceilings of seen and unseen rows, A and C the accuracy and
    ceiling measured over test rows, and U = min(A, C_unseen) for the unseen rows:

        low      = (1 - s) U                           every seen row wrong
        estimate = s C_seen min(1, A / C) + (1 - s) U  as far below its ceiling on seen rows as on test rows
        high     = s C_seen + (1 - s) U                the majority label on every seen row

    It is no measurement: a model is not asked about seen flows, and test rows stand for all unseen rows, though only
    flows of moderate size are tested. `high` never exceeds the table's row ceiling. A table lookup's answers to seen
    flows are known (`seen_lookup`), so its three values are one: s seen_lookup + (1 - s) U.

    `population` is of `describe_population`, `scored` is the row view of an evaluation.
    """
    share, seen = population["seen_share"], population["seen_share"] * population["seen_ceiling"]
    unseen = (1 - share) * min(scored["accuracy"], population["unseen_ceiling"])
    if looks_up:
        return dict.fromkeys(("low", "estimate", "high"), share * population["seen_lookup"] + unseen)
    reached = min(1.0, scored["accuracy"] / scored["ceiling"])
    return {"low": unseen, "estimate": seen * reached + unseen, "high": seen + unseen}
