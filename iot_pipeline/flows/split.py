"""Leak-free split by flow group, and the nested order of the train pool."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import duckdb
import pyarrow as pa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import connect, scan, write_query
from iot_pipeline.vocabulary import SIDES, STAGE_ROWS, STAGES, previous_stage

# File beside records.parquet with the rows that a publisher's split leaves out.
DROPPED = "dropped.parquet"
FRACTIONS: Mapping[str, float] = {"train": 0.80, "validation": 0.05, "calibration": 0.05, "test": 0.10}
ORDERS = ("natural", "distinct_first")
# The order in which a class too small for the rule gives one group to each side.
EVALUATION_SIDES = ("test", "validation", "calibration")
# From this many rows on a group is large: it moves the row shares of a class, and there are few of them.
LARGE = 16
# However many rows the evaluation sides lack, the train pool keeps this share of the large groups that are dealt.
TRAIN_KEEPS = 0.5


@dataclass(frozen=True)
class SplitReport:
    """Rows and groups per side, both also by class (a group counts for its majority label).

    `by_class[side][class]` has rows, groups, share (of the class's rows) and row_ceiling (share of those rows that have
    the majority label of their group); `row_ceiling` is the same for whole sides.
    """

    seed: int
    fractions: dict[str, float]
    rows: dict[str, int]
    groups: dict[str, int]
    rows_by_class: dict[str, dict[str, int]]
    groups_by_class: dict[str, dict[str, int]]
    conflicting_groups: dict[str, int]
    row_ceiling: dict[str, float]
    by_class: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class OrderReport:
    """The order of the train pool: rows, groups, and (start, stop, requested size or None) of each stage."""

    seed: int
    order: str
    rows: int
    groups: int
    stages: dict[str, tuple[int, int, int | None]]


def split_by_group(
    flows: Path,
    out: Path,
    seed: int = 42,
    fractions: Mapping[str, float] = FRACTIONS,
    test_rows: Path | None = None,
    least: int = 1,
) -> SplitReport:
    """Assign flow groups to sides; write records.parquet (flow_group, label, rows, group_rows, side, row_id).

    The groups of a class are ordered by size (largest power of two first), then by sha256(seed, flow_group), and
    assigned by the rule of `assign_class`; the order of rows in the source has no effect. A group with conflicting
    labels is assigned as a whole, by its majority label (ties: the first by name).

    With `test_rows` the test side is those rows, and the other sides divide the flow groups without a test row in
    proportion to their fractions. A row of a test group that is no test row is on no side, since a model trained on it
    would know a test flow; such rows are counted in DROPPED beside `out` (flow_group, label, rows).

    Args:
        flows: flows.parquet.
        out: File to write.
        seed: Seed of the order of the groups.
        fractions: Share of each side.
        test_rows: The publisher's test rows (row_id); None to draw the test side like the others.
        least: Fewest groups of a class on each drawn side, where it has as many for all of them.

    Raises:
        UserError: The fractions are not one positive share for each side, or do not sum to 1; or every row that is no
            test row repeats one.
    """
    if set(fractions) != set(SIDES) or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise UserError(f"split fractions must be a positive share for each of {', '.join(SIDES)} and sum to 1.")
    with connect(flows, *filter(None, [test_rows])) as connection:
        counted = scan(flows)
        connection.execute("CREATE TEMP TABLE tested (flow_group VARCHAR)")
        if test_rows is not None:
            fractions = {side: share / (1 - fractions["test"]) for side, share in fractions.items()} | {"test": 0.0}
            counted = keep_test_rows(connection, flows, test_rows, out.with_name(DROPPED))
        connection.execute(f"""
            CREATE TEMP TABLE records AS
            SELECT flow_group, label, count(*) AS rows, min(occurrence) AS first,
                arg_min(row_id, occurrence) AS first_row
            FROM {counted} GROUP BY ALL""")
        connection.execute(f"""
            CREATE TEMP TABLE walk AS
            SELECT *, row_number() OVER (
                ORDER BY majority, length(bin(group_rows)) DESC, sha256('{seed}:' || flow_group), flow_group) - 1
                AS place
            FROM (
                SELECT flow_group, CAST(sum(rows) AS BIGINT) AS group_rows, arg_min(first_row, first) AS row_id,
                    count(*) AS labels, first(label ORDER BY rows DESC, label) AS majority
                FROM records GROUP BY flow_group)""")
        walk = connection.execute(
            "SELECT majority, group_rows, flow_group IN (FROM tested) FROM walk ORDER BY place"
        ).fetchall()
        sides: list[str] = []
        for _, groups in itertools.groupby(walk, key=itemgetter(0)):
            sizes = [(size, is_test) for _, size, is_test in groups]
            dealt = iter(assign_class([size for size, is_test in sizes if not is_test], fractions, least))
            sides += ["test" if is_test else next(dealt) for _, is_test in sizes]
        if "train" not in sides and test_rows is not None:
            raise UserError(
                "IOT_SPLIT=publisher: every train row of the publisher repeats a test flow; use IOT_SPLIT=groups."
            )
        connection.register("sides", pa.table({"place": pa.array(range(len(sides)), pa.int64()), "side": sides}))
        query = """
            SELECT flow_group, label, rows, group_rows, side, row_id
            FROM records JOIN walk USING (flow_group) JOIN sides USING (place) ORDER BY flow_group, label"""
        write_query(connection, query, out)
    return split_report(out, seed, fractions)


def keep_test_rows(connection: duckdb.DuckDBPyConnection, flows: Path, test_rows: Path, dropped: Path) -> str:
    """Return SQL for the rows of a split with given test rows; fill the table `tested` with the groups of these.

    Args:
        connection: DuckDB connection that may read both files.
        flows: flows.parquet.
        test_rows: The test rows (row_id).
        dropped: File to write, with the rows of test groups that are no test rows.
    """
    table, tests = scan(flows), f"(FROM {scan(test_rows)})"
    connection.execute(f"INSERT INTO tested SELECT DISTINCT flow_group FROM {table} SEMI JOIN {tests} USING (row_id)")
    query = f"""
        SELECT flow_group, label, count(*) AS rows FROM {table} SEMI JOIN tested USING (flow_group)
        ANTI JOIN {tests} USING (row_id) GROUP BY ALL ORDER BY ALL"""
    write_query(connection, query, dropped)
    return f"""(
        SELECT * FROM {table} SEMI JOIN {tests} USING (row_id) UNION ALL
        SELECT * FROM {table} ANTI JOIN tested USING (flow_group))"""


def assign_class(sizes: Sequence[int], fractions: Mapping[str, float], least: int = 1) -> list[str]:
    """Return the side of each group of one class.

    `sizes` are rows per group: larger powers of two first, seeded order within a power.

    1. A group with more rows than the largest evaluation side's full share of the class stays in train.
    2. Every other group goes, in the order given, to the side furthest behind its share of the rows assigned so far,
       among the sides whose full share the group does not exceed. Groups of each size are thus split in the same
       proportions, and sides hold their shares both of rows and of distinct flows.
    3. The large groups (LARGE rows or more) compensate for the rows that rule 1 holds in train: for them the evaluation
       sides' shares are raised in proportion, but train keeps at least TRAIN_KEEPS of those rows. Without that limit,
       the train pool of a class that is mostly one group would lose every other pattern of the class.
    4. A class with four times `least` groups or more has at least `least` on every side, whatever their sizes.

    A side with share 0 gets no group, and rule 4 counts the other sides only.
    """
    total = sum(sizes)
    most = {side: fractions[side] * total for side in SIDES} | {"train": float(total)}
    oversized = max(most[side] for side in EVALUATION_SIDES)
    raised = boosted_fractions(sizes, oversized, fractions)
    behind = dict.fromkeys(SIDES, 0.0)
    sides = []
    for size in sizes:
        if size > oversized:
            sides.append("train")
            continue
        for side, share in (raised if size >= LARGE else fractions).items():
            behind[side] += share * size
        # On a tie the first of SIDES: train.
        side = max((side for side in SIDES if size <= most[side]), key=behind.__getitem__)
        behind[side] -= size
        sides.append(side)
    return some_on_every_side(sides, [side for side in (*EVALUATION_SIDES, "train") if fractions[side]], least)


def boosted_fractions(sizes: Sequence[int], oversized: float, fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Return raised evaluation shares for large groups, to compensate for groups above `oversized` rows."""
    held = sum(size for size in sizes if size > oversized)
    large = sum(size for size in sizes if LARGE <= size <= oversized)
    if not held or not large:
        return fractions
    wanted = 1 - fractions["train"]
    factor = max(1.0, min(1 + held / large, (1 - TRAIN_KEEPS) / wanted))
    return {"train": 1 - factor * wanted} | {side: factor * fractions[side] for side in EVALUATION_SIDES}


def some_on_every_side(sides: list[str], wanted: Sequence[str], least: int = 1) -> list[str]:
    """Give each side of `wanted` below `least` groups the smallest groups of a side above it; train donates first."""
    if len(sides) < least * len(wanted):
        return sides
    dealt = list(sides)
    for poor in wanted:
        while dealt.count(poor) < least:
            donor = next(side for side in ("train", *EVALUATION_SIDES) if dealt.count(side) > least)
            # The smallest groups stand last.
            dealt[len(dealt) - 1 - dealt[::-1].index(donor)] = poor
    return dealt


def split_report(records: Path, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> SplitReport:
    """Count the rows and groups of each side of records.parquet."""
    with connect(records) as connection:
        connection.execute(f"""
            CREATE TEMP TABLE parts AS
            SELECT *, first(label) OVER (g ORDER BY rows DESC, label) AS majority, count(*) OVER g AS labels
            FROM {scan(records)} WINDOW g AS (PARTITION BY flow_group)""")
        counted = connection.execute("""
            SELECT side, label, sum(rows)::BIGINT, coalesce(sum(rows) FILTER (label = majority), 0)::BIGINT,
                count(*) FILTER (label = majority)
            FROM parts GROUP BY ALL ORDER BY ALL""").fetchall()
        conflicts = connection.execute("""
            SELECT side, count(DISTINCT flow_group) FROM parts WHERE labels > 1 GROUP BY side""").fetchall()
    # Rows, rows with the majority label of their group, and groups by majority label, of each side and label.
    table = {side: {label: counts for at, label, *counts in counted if at == side} for side in SIDES}
    total = Counter[str]()
    for _, label, rows, *_ in counted:
        total[label] += rows
    rows = {side: sum(counts[0] for counts in labels.values()) for side, labels in table.items()}
    return SplitReport(
        seed=seed,
        fractions=dict(fractions),
        rows=rows,
        groups={side: sum(counts[2] for counts in labels.values()) for side, labels in table.items()},
        rows_by_class={side: {label: counts[0] for label, counts in labels.items()} for side, labels in table.items()},
        groups_by_class={
            side: {label: counts[2] for label, counts in labels.items() if counts[2]} for side, labels in table.items()
        },
        conflicting_groups={side: dict(conflicts).get(side, 0) for side in SIDES},
        row_ceiling={
            side: sum(counts[1] for counts in labels.values()) / rows[side] for side, labels in table.items() if labels
        },
        by_class={
            side: {
                label: {"rows": n, "groups": groups, "share": n / total[label], "row_ceiling": right / n}
                for label, (n, right, groups) in labels.items()
            }
            for side, labels in table.items()
        },
    )


def order_training(flows: Path, records: Path, out: Path, seed: int = 42, order: str = "natural") -> OrderReport:
    """Write order.parquet: one class-stratified order of all train rows; every stage is a prefix of it.

    Each class is shuffled by a seeded hash, then classes are merged by fractional rank (i + 0.5) / n, so every prefix
    contains each class in its share.

    Args:
        flows: flows.parquet.
        records: records.parquet of the split.
        out: File to write.
        seed: Seed of the order.
        order: `natural`, or `distinct_first`: the first row of each (group, label) precedes all repeats.

    Raises:
        UserError: The order is unknown, or the train side is empty.
    """
    if order not in ORDERS:
        raise UserError(f"unknown training order {order!r}; use one of {', '.join(ORDERS)}.")
    part = "CAST(nth > 0 AS INTEGER)" if order == "distinct_first" else "0"
    with connect(flows, records) as connection:
        connection.execute(f"""
            CREATE TEMP TABLE pool AS
            SELECT row_id, flow_group, label, {part} AS part,
                sha256('{seed}:' || flow_group || ':' || label || ':' || nth) AS key
            FROM (SELECT row_id, flow_group, label,
                    row_number() OVER (PARTITION BY flow_group, label ORDER BY occurrence) - 1 AS nth
                FROM {scan(flows)} SEMI JOIN (SELECT flow_group FROM {scan(records)} WHERE side = 'train')
                USING (flow_group))""")
        rows, groups = connection.execute("SELECT count(*), count(DISTINCT flow_group) FROM pool").fetchall()[0]
        if rows == 0:
            raise UserError("the train side of the split is empty: there is nothing to order.")
        connection.execute("""
            CREATE TEMP TABLE ordered AS
            SELECT row_number() OVER (ORDER BY part, rank, label) - 1 AS position, row_id, flow_group, label
            FROM (
                SELECT *, (row_number() OVER (PARTITION BY part, label ORDER BY key, row_id) - 0.5)::DOUBLE
                    / count(*) OVER (PARTITION BY part, label) AS rank FROM pool)""")
        query = """
            SELECT position, row_id, flow_group, label, CAST(row_number() OVER (
                PARTITION BY flow_group, label ORDER BY position) - 1 AS INTEGER) AS repeat
            FROM ordered ORDER BY position"""
        write_query(connection, query, out)
    return OrderReport(seed, order, rows, groups, {stage: stage_rows(stage, rows) for stage in STAGES})


def stage_rows(stage: str, pool: int) -> tuple[int, int, int | None]:
    """Return (start, stop, requested) of a stage: its increment is positions [start, stop) of the order.

    The whole stage is [0, stop). `requested` is its nominal size, None for ALL; if the pool is smaller, the stage is
    the whole pool. Raises UserError for an unknown stage.
    """
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}; use one of {', '.join(STAGES)}.")
    previous, requested = previous_stage(stage), STAGE_ROWS[stage]
    before = (STAGE_ROWS[previous] or 0) if previous else 0
    return min(before, pool), pool if requested is None else min(requested, pool), requested


def rows_out_of_pool(order: Path, records: Path) -> dict[str, int]:
    """Count the rows by which an order differs from the train pool; all 0 if it matches.

    `of_other_sides`: rows of groups that are not on the train side; `repeated`: rows that occur again; `missing`: train
    rows that do not occur.
    """
    with connect(order, records) as connection:
        found = connection.execute(f"""
            WITH placed AS (SELECT row_id, flow_group FROM {scan(order)}),
                train AS (SELECT DISTINCT flow_group FROM {scan(records)} WHERE side = 'train')
            SELECT (SELECT count(*) FROM placed ANTI JOIN train USING (flow_group)),
                (SELECT count(*) - count(DISTINCT row_id) FROM placed),
                (SELECT coalesce(sum(rows), 0) FROM {scan(records)} WHERE side = 'train')
                    - (SELECT count(DISTINCT row_id) FROM placed SEMI JOIN train USING (flow_group))""").fetchall()[0]
    return dict(zip(("of_other_sides", "repeated", "missing"), map(int, found), strict=True))
