"""Asset group splits: one evaluation split and one training order for all tracks and stages, and the leakage report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline.defs.checks import check_specs
from iot_pipeline.defs.column_lineage import order_columns, split_columns, texts_columns
from iot_pipeline.defs.inputs import dropped_of, flows_of, order_of, printed_spec, records_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.flows.dataset import count_split_texts
from iot_pipeline.flows.publisher import TEST_ROWS
from iot_pipeline.flows.rare_rule import MINIMUM
from iot_pipeline.flows.scaling import fit_scaling, keep_prompts_apart, refuse_lost_sides
from iot_pipeline.flows.split import (
    DROPPED,
    SplitReport,
    order_training,
    rows_out_of_pool,
    split_by_group,
    split_report,
)
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline.quality.leakage import leakage_report as measure_leakage
from iot_pipeline.quality.near_duplicates import near_duplicates
from iot_pipeline.reporting import figures_data


def make_split(step: Step, flows: Path, records: Path) -> tuple[SplitReport, Path | None]:
    """Write the split by flow group, or with the publisher's test side.

    Returns its report, and the file of the rows that a publisher's split leaves out.
    """
    by_publisher, seed = step.settings.data.split == "publisher", step.settings.data.split_seed
    test_rows = flows.with_name(TEST_ROWS) if by_publisher else None
    dropped = records.with_name(DROPPED) if by_publisher else None
    least = step.spec.rare_classes.minimum if step.spec.rare_classes else MINIMUM
    report = split_by_group(flows, records, seed=seed, test_rows=test_rows, least=least)
    if step.spec.scaling == "train_pool":
        before, report = report, scaled_on_train_pool(step, flows, records, dropped)
        refuse_lost_sides(before, report, least)
    return report, dropped


def scaled_on_train_pool(step: Step, flows: Path, records: Path, dropped: Path | None) -> SplitReport:
    """Fit scales on the train side, and move flow groups there whose texts become equal across sides.

    Args:
        step: Step of the asset, which notes the number of groups moved.
        flows: flows.parquet.
        records: records.parquet of the split.
        dropped: Rows that a publisher's split leaves out.

    Returns:
        The report of the new split.
    """
    fitted = fit_scaling(step.spec, flows, records)
    moved = keep_prompts_apart(fitted, flows, records, dropped)
    step.json("scaling.json", {name: scale.model_dump() for name, scale in fitted.fitted_scales.items()})
    step.summarise(scaling="fitted on the train pool", groups_moved_to_train=moved)
    return split_report(records, step.settings.data.split_seed)


def side_rows(report: SplitReport) -> list[dict[str, Any]]:
    """Return the split as table rows, one a side."""
    return [
        {"side": side, "rows": n, "distinct flows": report.groups[side], "row ceiling": report.row_ceiling.get(side)}
        for side, n in report.rows.items()
    ]


@dg.asset(
    group_name="splits",
    deps=["flows"],
    check_specs=check_specs("evaluation_split", "no_group_on_two_sides", "every_class_on_every_side"),
)
def evaluation_split(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Train pool, validation, calibration and test side: split by flow group, stratified by class and seeded."""
    with lake.step(context) as step:
        flows, records = flows_of(step), step.folder / "records.parquet"
        report, dropped = make_split(step, flows, records)
        seed = step.settings.data.split_seed
        verdict = measure_leakage(flows, records, step.spec, seed, with_model=False, dropped=dropped)
        step.json("split.json", asdict(report) | {key: verdict[key] for key in ("publisher",) if key in verdict})
        step.summarise(**{f"{side}_rows": n for side, n in report.rows.items()})
        step.table("sides", side_rows(report))
        step.preview("records.parquet", split_columns())
        step.png("sides.png", figures_data.sides(asdict(report)), "Distinct flows of each class by side")
        shared = sum(pair["groups"] for pair in verdict["pairs"])
        absent = [f"{c}: {s}" for s, found in report.by_class.items() for c in step.spec.classes if c not in found]
        step.check("every_class_on_every_side", not absent, absent="; ".join(absent) or "none")
        step.check("no_group_on_two_sides", verdict["passed"], shared_groups=shared)
    return step.result()


@dg.asset(
    group_name="splits",
    deps=["flows", "evaluation_split"],
    check_specs=check_specs("training_order", "train_pool_only"),
)
def training_order(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Seeded, class-stratified order of the train pool: each stage is a prefix of it, the same in every track."""
    with lake.step(context) as step:
        flows, records = flows_of(step), records_of(step)
        made, seed, order = step.folder / "order.parquet", step.settings.data.split_seed, step.settings.data.order
        report = order_training(flows, records, made, seed=seed, order=order)
        step.json("order.json", asdict(report))
        step.summarise(rows=report.rows, order=order)
        wrong = rows_out_of_pool(made, records)
        step.check("train_pool_only", not any(wrong.values()), **wrong)
        step.table("stages", [{"stage": s, "from": a, "to": b} for s, (a, b, _) in report.stages.items()])
        step.preview("order.parquet", order_columns())
    return step.result()


@dg.asset(
    group_name="splits",
    deps=["flows", "evaluation_split", "training_order"],
    check_specs=check_specs("flow_texts", "texts_are_complete_and_apart"),
)
def flow_texts(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Text of every distinct flow, as teacher and student see it, and the writer for flows outside the table."""
    with lake.step(context) as step:
        flows, records = flows_of(step), records_of(step)
        texts = step.folder / "texts.parquet"
        spec = printed_spec(step)
        writer = FlowTextWriter(spec, step.settings.data.serialisation, fit_ranks(spec, flows, records))
        writer.save(step.folder)
        step.summarise(rows=writer.write_texts(flows, records, texts), serialisation=writer.serialisation)
        wrong = count_split_texts(texts, records, order_of(step))
        step.check("texts_are_complete_and_apart", not any(wrong.values()), **wrong)
        step.preview("texts.parquet", texts_columns(spec))
    return step.result()


@dg.asset(group_name="splits", deps=["flows", "evaluation_split"])
def leakage_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Leakage of this split next to a row-wise 80:20 split: shared prompts, their effect, near-duplicates."""
    with lake.step(context) as step:
        flows, records = flows_of(step), records_of(step)
        seed = step.settings.data.split_seed
        report = measure_leakage(flows, records, step.spec, seed=seed, dropped=dropped_of(step))
        near = report["near_duplicates"] = near_duplicates(flows, records, printed_spec(step))
        step.json("leakage.json", report)
        step.summarise(known_leak=report["known_leak"] or "none")
        step.summarise(**{f"test_flows_within_{most}_features": share for most, share in near["within"].items()})
        step.table("leakage", figures_data.leakage_rows(report))
        step.table("near_duplicates", figures_data.near_duplicate_rows(near))
        step.png("leakage.png", figures_data.leakage(report), "Shared prompts and accuracy under both splits")
    return step.result()
