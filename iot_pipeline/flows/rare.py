"""Rare classes: those with too few distinct flows for every side of the split, grouped or left out as the spec says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import FlowsReport
from iot_pipeline.flows.rare_rule import MINIMUM, RareClasses
from iot_pipeline.flows.spec import FEWEST_CLASSES, DatasetSpec
from iot_pipeline.flows.sql import connect, literal, one, scan, write_query
from iot_pipeline.lake.atomic import read_json, write_json
from iot_pipeline.vocabulary import SIDES

RARE = "rare_classes.json"
NAMED = 6  # classes named in an error


@dataclass(frozen=True)
class RareClass:
    """One rare class with its rows and distinct flows, before anything was done with it."""

    name: str
    rows: int
    distinct_flows: int


@dataclass(frozen=True)
class Outcome:
    """Rare classes of a table, what was done with them (`group`, `leave_out`, `keep`), and the classes that it has."""

    needed: int  # distinct flows of a class
    done: str
    into: str | None
    rare: list[RareClass]
    classes: list[str]

    @property
    def undecided(self) -> list[str]:
        """Rare classes that the spec says nothing of."""
        return [each.name for each in self.rare] if self.done == "keep" else []

    @property
    def told(self) -> str:
        """One sentence for logs and reports; empty if no class is rare."""
        if not self.rare:
            return ""
        done = {"group": f"were grouped into {self.into}", "leave_out": "were left out", "keep": "were kept"}[self.done]
        few = f"Classes with too few distinct flows for every side of the split, {self.needed} at least,"
        return f"{few} {done}: {listed(self.rare, len(self.rare))}."


def listed(rare: Sequence[RareClass], most: int = NAMED) -> str:
    """List classes with their distinct flows and rows."""
    parts = [f"{each.name} ({each.distinct_flows:,} distinct of {each.rows:,} rows)" for each in rare[:most]]
    return ", ".join(parts) + (f" and {len(rare) - most} more" if len(rare) > most else "")


def treat_rare(
    spec: DatasetSpec,
    flows: Path,
    report: FlowsReport,
    test_rows: Path | None = None,
    log: Callable[[str], None] | None = None,
    tolerated: bool = False,
) -> tuple[FlowsReport, Outcome]:
    """Group or leave out the rare classes of flows.parquet as the spec says, in place.

    A class is rare if it cannot have the minimum of distinct flows on each side; a flow under several labels counts for
    its commonest one, as in the split. RARE beside the file holds the outcome, where a class is rare or the spec has
    the key.

    Args:
        spec: Spec of the data set.
        flows: flows.parquet.
        report: Report of the build.
        test_rows: The publisher's test rows (row_id), rewritten with the file; None if the test side is drawn.
        log: Receives what was done.
        tolerated: True to keep rare classes that the spec says nothing of.

    Returns:
        The report of the file as it is now, and the outcome.

    Raises:
        UserError: A class is rare and the spec does not say what to do, the grouped class is rare itself, or fewer than
            two classes are left.
    """
    rule = spec.rare_classes
    minimum, into = (rule.minimum, rule.into) if rule else (MINIMUM, None)
    with connect(flows, *filter(None, [test_rows])) as connection:
        connection.execute(f"CREATE TEMP TABLE counted AS {counts_query(flows, test_rows)}")
        rows = dict(connection.execute("SELECT label, sum(n)::BIGINT FROM counted GROUP BY label").fetchall())
        found = rare_labels(connection, spec.classes, minimum, rule, test_rows is not None)
        # A declared class without any row is told by the build's own check, unless the spec says what to do with it.
        rare = [RareClass(name, rows.get(name, 0), count) for name, count in found.items() if rule or name in rows]
        if rare and rule is None and not tolerated:
            raise UserError(unsaid(spec, rare))
        outcome = Outcome(minimum * len(SIDES), rule.then if rule else "keep", into, rare, rest(spec, rare))
        if rare and rule is not None:
            check_rest(connection, spec, outcome, minimum, test_rows is not None)
            report = rewritten(connection, flows, report, outcome, test_rows)
    if rare or rule is not None:
        write_json(flows.with_name(RARE), asdict(outcome))
    if log is not None and outcome.told:
        log(outcome.told)
    return report, outcome


def counts_query(flows: Path, test_rows: Path | None) -> str:
    """Return SQL for flow_group, label, tested and number n of the rows that the split puts on a side."""
    table = scan(flows)
    if test_rows is None:
        return f"SELECT flow_group, label, false AS tested, count(*) AS n FROM {table} GROUP BY ALL"
    tested = f"(SELECT * FROM {table} WHERE row_id IN (SELECT row_id FROM {scan(test_rows)}))"
    return f"""
        SELECT flow_group, label, true AS tested, count(*) AS n FROM {tested} GROUP BY ALL
        UNION ALL SELECT flow_group, label, false AS tested, count(*) AS n FROM {table}
        WHERE flow_group NOT IN (SELECT flow_group FROM {tested}) GROUP BY ALL"""


def rare_labels(
    connection: duckdb.DuckDBPyConnection,
    classes: Sequence[str],
    minimum: int,
    rule: RareClasses | None,
    published: bool,
) -> dict[str, int]:
    """Return the rare classes with their distinct flows, and relabel them in the table `counted`.

    Grouping may take a flow's commonest label from another class, so it is repeated until no class is rare.

    Args:
        connection: DuckDB connection with `counted`.
        classes: Classes of the spec.
        minimum: Distinct flows of a class on each side.
        rule: The spec's rule, if it has one.
        published: True if the test side is the publisher's.
    """
    found: dict[str, int] = {}
    into = rule.into if rule else None
    while True:
        flows = distinct_flows(connection, minimum, published)
        new = {name: flows.get(name, (0, True))[0] for name in classes if flows.get(name, (0, True))[1]}
        new = {name: count for name, count in new.items() if name not in found and name != into}
        if not new:
            return {name: found[name] for name in classes if name in found}
        found |= new
        names = ", ".join(map(literal, new))
        if rule is None:
            continue
        if into is None:
            connection.execute(f"DELETE FROM counted WHERE label IN ({names})")
        else:
            connection.execute(f"UPDATE counted SET label = {literal(into)} WHERE label IN ({names})")


def distinct_flows(connection: duckdb.DuckDBPyConnection, minimum: int, published: bool) -> dict[str, tuple[int, bool]]:
    """Return for each label of `counted` its distinct flows, and whether they are too few for a side."""
    sides = len(SIDES) - published
    enough = f"count(*) FILTER (NOT tested) >= {sides * minimum}"
    if published:
        enough += f" AND count(*) FILTER (tested) >= {minimum}"
    query = f"""
        SELECT label, count(*), NOT ({enough}) FROM (
            SELECT flow_group, tested, first(label ORDER BY n DESC, label) AS label FROM (
                SELECT flow_group, tested, label, sum(n) AS n FROM counted GROUP BY ALL) GROUP BY ALL)
        GROUP BY label"""
    return {label: (count, few) for label, count, few in connection.execute(query).fetchall()}


def rest(spec: DatasetSpec, rare: Sequence[RareClass]) -> list[str]:
    """Return the classes that a table has once its rare ones are treated."""
    rule = spec.rare_classes
    if rule is None:
        return spec.classes
    gone = {each.name for each in rare}
    kept = [name for name in spec.classes if name not in gone]
    return [*kept, rule.into] if rare and rule.into is not None and rule.into not in kept else kept


def unsaid(spec: DatasetSpec, rare: Sequence[RareClass]) -> str:
    """Return the sentence about rare classes that the spec says nothing of."""
    many = f"{len(rare)} classes have" if len(rare) > 1 else "a class has"
    needed = MINIMUM * len(SIDES)
    group, leave_out = (
        f"`rare_classes: {{minimum: {MINIMUM}, then: {then}}}`" for then in ("group, into: Rare", "leave_out")
    )
    enough = sum(each.distinct_flows for each in rare) >= needed
    return (
        f"data set {spec.name}: {many} too few distinct flows for every side of the split ({', '.join(SIDES)}), "
        f"{needed} at least: {listed(rare)}. Say in its file what to do: "
        f"{f'{group} or {leave_out}' if enough else leave_out}."
    )


def check_rest(
    connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, outcome: Outcome, minimum: int, published: bool
) -> None:
    """Raise UserError if the grouped class is rare itself, or fewer than two classes are left.

    Args:
        connection: DuckDB connection with `counted`, relabelled.
        spec: Spec of the data set.
        outcome: Outcome for the table.
        minimum: Distinct flows of a class on each side.
        published: True if the test side is the publisher's.
    """
    where = f"data set {spec.name}: rare_classes"
    if outcome.into is not None:
        count, few = distinct_flows(connection, minimum, published).get(outcome.into, (0, True))
        if few:
            raise UserError(
                f"{where}: grouped into {outcome.into}, the rare classes have {count} distinct flows together, still "
                f"fewer than {outcome.needed}: lower the minimum, group them into a larger class, or use then: "
                f"leave_out. They are {listed(outcome.rare)}."
            )
    if len(outcome.classes) < FEWEST_CLASSES:
        raise UserError(
            f"{where}: fewer than {FEWEST_CLASSES} classes have {outcome.needed} distinct flows or more: lower the "
            f"minimum. Rare are {listed(outcome.rare)}."
        )


def rewritten(
    connection: duckdb.DuckDBPyConnection, flows: Path, report: FlowsReport, outcome: Outcome, test_rows: Path | None
) -> FlowsReport:
    """Rewrite flows.parquet, and the publisher's test rows, without or with relabelled rare classes.

    Args:
        connection: DuckDB connection that may read and write both files.
        flows: flows.parquet.
        report: Report of the build.
        outcome: Outcome for the table.
        test_rows: The publisher's test rows, if the split is theirs.

    Returns:
        The report of the file as it is now.
    """
    gone = ", ".join(literal(each.name) for each in outcome.rare)
    table = scan(flows)
    # Of a publisher's table also the rows that its split leaves out, of which `counted` knows nothing.
    every = dict(connection.execute(f"SELECT label, count(*) FROM {table} GROUP BY label").fetchall())
    if outcome.into is not None:
        label = f"CASE WHEN label IN ({gone}) THEN {literal(outcome.into)} ELSE label END"
        query = f"SELECT * REPLACE ({label} AS label) FROM {table} ORDER BY row_id"
    else:
        connection.execute(f"""
            CREATE TEMP TABLE renumbered AS SELECT row_id AS old,
                row_number() OVER (ORDER BY row_id) - 1 AS row_id,
                CAST(row_number() OVER (PARTITION BY flow_group ORDER BY occurrence) - 1 AS INTEGER) AS occurrence
            FROM {table} WHERE label NOT IN ({gone})""")
        query = f"""
            SELECT f.* REPLACE (r.row_id AS row_id, r.occurrence AS occurrence)
            FROM {table} f JOIN renumbered r ON f.row_id = r.old ORDER BY r.row_id"""
        if test_rows is not None:
            kept = f"SELECT r.row_id FROM {scan(test_rows)} t JOIN renumbered r ON t.row_id = r.old ORDER BY r.row_id"
            write_query(connection, kept, test_rows)
    write_query(connection, query, flows)
    with connect(flows) as fresh:  # the first connection may remember the file as it was
        counted = dict(fresh.execute(f"SELECT label, count(*) FROM {table} GROUP BY label").fetchall())
        (groups,) = one(fresh, f"SELECT count(DISTINCT flow_group) FROM {table}")
    lost = {each.name: every[each.name] for each in outcome.rare if each.name in every}
    left_out = {} if outcome.into is not None else lost
    return replace(
        report,
        rows_kept=sum(counted.values()),
        left_out=report.left_out | left_out,
        rows_by_class={name: counted.get(name, 0) for name in outcome.classes},
        distinct_groups=groups,
    )


def with_kept_classes(spec: DatasetSpec, flows: Path) -> DatasetSpec:
    """Return the spec with the classes that the flows have, which the folder of the artefact `flows` says.

    Labels of a grouped class lead to the class that it became, and those of one left out are known as absent.
    """
    file = flows / RARE
    if spec.rare_classes is None or not file.is_file():
        return spec
    found = read_json(file)
    gone, into = [each["name"] for each in found["rare"]], found["into"]
    labels, absent = dict(spec.labels), list(spec.absent_classes)
    if into is None:
        absent += [name for name in spec.classes if name in gone]
    else:
        labels = {code: into if name in gone else name for code, name in labels.items()} | dict.fromkeys(gone, into)
    evidence = {name: items for name, items in spec.expected_evidence.items() if name in found["classes"]}
    return spec.model_copy(
        update={
            "classes": found["classes"], "labels": labels, "absent_classes": absent, "expected_evidence": evidence,
        }
    )  # fmt: skip
