"""Asset group flows: the source as delivered, and the flows that everything else is derived from."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg

from iot_pipeline.defs.checks import check_specs
from iot_pipeline.defs.column_lineage import column_meanings, flows_columns
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.download import is_url
from iot_pipeline.flows.publisher import TEST_ROWS, publisher_split
from iot_pipeline.flows.rare import treat_rare
from iot_pipeline.flows.source import local_files, read_source
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.quality.mismatch import reconcile
from iot_pipeline.simulator.simulate import simulate_farm_flow


@dg.asset(group_name="flows")
def raw_flows(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Source rows as delivered, in Parquet: the user's files, or the simulator's Farm-Flow (labelled as simulated)."""
    with lake.step(context) as step:
        out, source = step.folder / "raw.parquet", step.settings.data.source
        if source == "simulate":
            simulate(step, out)
        else:
            read_files(step, source, out)
        step.preview("raw.parquet")
    return step.result()


def simulate(step: Step, out: Path) -> None:
    """Write simulated Farm-Flow; UserError for another data set."""
    if step.settings.data.split == "publisher":
        raise UserError(
            "IOT_SPLIT=publisher: simulated flows have no test rows of a publisher; name files in IOT_SOURCE"
        )
    edition = step.spec.simulated_as
    if edition is None:
        raise UserError(f"IOT_SOURCE: only Farm-Flow can be simulated; name your {step.spec.name} files")
    simulated = simulate_farm_flow(out, step.settings.data.rows, step.settings.data.seed, step.log, edition)
    step.json("source.json", asdict(simulated))
    step.summarise(rows=simulated.rows, source="simulated Farm-Flow")
    step.provenance["label"] = "SIMULATED flows: Farm-Flow as its paper describes it, no real capture"


def read_files(step: Step, source: str, out: Path) -> None:
    """Write the rows of files and URLs, and record which files were read."""
    by_publisher = step.settings.data.split == "publisher"
    if by_publisher:
        publisher_split(step.spec)  # an error before anything is read
    local = ",".join(part for part in source.split(",") if not is_url(part))
    files = local_files(source)
    if local:
        step.listing(local, files)
    for file in files:
        step.file(file.absolute())
    report = read_source(step.spec, source, out, step.log, step.settings.data.max_rejected_share, by_publisher)
    step.json("source.json", report.to_json())
    step.summarise(
        rows=report.rows,
        source=", ".join(file.get("url", file["name"]) for file in report.files),
        rejected_lines=sum(report.rejected.values()),
    )
    step.table("notes", [{"note": sentence} for sentence in report.notes])
    step.table("files", report.files)
    step.table("rejected_lines", report.examples)


@dg.asset(
    group_name="flows",
    deps=["raw_flows"],
    check_specs=check_specs("flows", "every_class_has_rows", "every_row_accounted_for"),
)
def flows(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Accepted rows, each with its features, label, flow group and number within the group."""
    with lake.step(context) as step:
        source = step.input("raw_flows")
        lost_lines = sum(read_json(source / "source.json").get("rejected", {}).values())
        raw, made, limit = source / "raw.parquet", step.folder / "flows.parquet", step.settings.data.max_rejected_share
        test_rows = step.folder / TEST_ROWS if step.settings.data.split == "publisher" else None
        report = build_flows(step.spec, raw, made, limit, step.log, lost_lines, test_rows)
        # Simulated rows are as few as IOT_ROWS says, a publisher's sides are its own: both go on, and tell it.
        tolerated = step.settings.data.source == "simulate" or test_rows is not None
        report, rare = treat_rare(step.spec, made, report, test_rows, step.log, tolerated)
        step.json("flows.json", report.to_json())
        rejected = sum(report.rejected.values())
        step.summarise(rows=report.rows_kept, distinct_flows=report.distinct_groups, rejected=rejected)
        step.table("rows_by_class", [{"class": c, "rows": n} for c, n in report.rows_by_class.items()])
        step.table("warnings", [{"warning": sentence} for sentence in report.warnings])
        step.table("rejected_rows", [{"reason": reason, "rows": n} for reason, n in report.rejected.items()])
        step.table("rare_classes", [{**asdict(each), "done": rare.done, "into": rare.into} for each in rare.rare])
        step.preview("flows.parquet", flows_columns(step.spec), column_meanings(step.spec))
        empty = [c for c in rare.classes if not report.rows_by_class.get(c)]
        step.check("every_class_has_rows", not empty, classes_without_rows=", ".join(empty) or "none")
        rows = reconcile(raw, made, report.rejected, report.left_out)
        step.check("every_row_accounted_for", rows["unaccounted"] == 0, **rows)
    return step.result()
