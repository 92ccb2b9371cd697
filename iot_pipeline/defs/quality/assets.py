"""Asset group quality: defects and properties of the data, each as JSON, table and figure."""

import dagster as dg
import pyarrow as pa

from iot_pipeline.defs.inputs import flows_of, records_of, told_spec
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.lake.atomic import write_table, write_text
from iot_pipeline.quality.conflicts import label_conflicts as find_conflicts
from iot_pipeline.quality.duplicates import dedup_report as count_duplicates
from iot_pipeline.quality.mismatch import dataset_mismatch as find_mismatches
from iot_pipeline.quality.patterns import attack_patterns as learn_patterns
from iot_pipeline.quality.profile import flow_profile as profile_flows
from iot_pipeline.quality.samples import sample_comparison as compare_samples
from iot_pipeline.reporting import figures, figures_data


@dg.asset(group_name="quality", deps=["flows"])
def dedup_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Duplicate rows by feature values and by flow text: overall and by class, next to the published shares."""
    with lake.step(context) as step:
        report = count_duplicates(flows_of(step), step.spec)
        step.json("dedup_report.json", report)
        for kind in ("raw", "text"):
            counts = ("duplicate_share", "distinct")
            step.summarise(**{f"{name}_{kind}": report[kind][name] for name in counts})
        step.table("by_class", [{"class": name, **facts} for name, facts in report["by_class"].items()])
        step.png("duplicates.png", figures_data.duplicates(report), "Duplicate rows by class")
    return step.result()


@dg.asset(group_name="quality", deps=["flows"])
def label_conflicts(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Identical flows with different labels: the confused classes, and the accuracy ceiling for any model."""
    with lake.step(context) as step:
        report = find_conflicts(flows_of(step), step.spec)
        step.json("label_conflicts.json", report)
        step.summarise(**{f"ceiling_{view}": value for view, value in report["ceilings"].items() if value is not None})
        step.table("pairs", report["pairs"])
        step.png("conflicts.png", figures.conflicts(report), "Rows in conflicting groups by label and majority")
    return step.result()


@dg.asset(group_name="quality", deps=["flows"])
def dataset_mismatch(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Disagreements of the published counts with the rows found, and with each other."""
    with lake.step(context) as step:
        report = find_mismatches(flows_of(step), told_spec(step))
        step.json("dataset_mismatch.json", report)
        step.summarise(checked=report["checked"], findings=len(report["findings"]))
        step.table("findings", report["findings"])
        step.png("mismatches.png", figures_data.mismatches(report), "Found figures against published ones")
    return step.result()


@dg.asset(group_name="quality", deps=["flows"])
def flow_profile(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Profile of each feature in each class: quantiles, zero variance, outliers and recovered scale."""
    with lake.step(context) as step:
        report, table = profile_flows(flows_of(step), told_spec(step))
        step.json("flow_profile.json", report)
        write_table(step.folder / "flow_profile.parquet", pa.Table.from_pandas(table, preserve_index=False))
        constant = sorted({feature for features in report["zero_variance"].values() for feature in features})
        recovered = [name for name, scale in report["scales"].items() if scale["recovered"]]
        step.summarise(constant_in_a_class=", ".join(constant) or "none", scales_recovered=len(recovered))
        step.table(
            "outliers", table[["class", "feature", "outlier_share"]].nlargest(20, "outlier_share").to_dict("records")
        )
        step.preview("flow_profile.parquet")
        step.png("profile.png", figures_data.profile(table), "Quartiles of telling features by class")
    return step.result()


@dg.asset(group_name="quality", deps=["flows", "evaluation_split"])
def attack_patterns(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Readable rules for each class, learned on the train pool; coverage and precision are of the test side."""
    with lake.step(context) as step:
        flows, records = flows_of(step), records_of(step)
        report = learn_patterns(flows, records, told_spec(step), seed=step.settings.data.seed)
        step.json("attack_patterns.json", report)
        step.metadata["guide"] = dg.MetadataValue.md(report["guide"])
        write_text(step.folder / "guide.md", report["guide"])
        step.table("rules", figures_data.rule_rows(report))
        step.table("prior_rules", figures_data.prior_rule_rows(report))
        step.png("patterns.png", figures_data.patterns(report), "Coverage and precision of rules on the test side")
    return step.result()


@dg.asset(group_name="quality", deps=["flows"])
def sample_comparison(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Seeded sample rows of each class side by side, scaled and raw; the features that differ most are marked."""
    with lake.step(context) as step:
        report, table = compare_samples(flows_of(step), told_spec(step), seed=step.settings.data.seed)
        step.json("sample_comparison.json", report)
        write_table(step.folder / "sample_comparison.parquet", pa.Table.from_pandas(table, preserve_index=False))
        step.summarise(marked=", ".join(report["marked"]))
        marked = table[table["marked"] & (table["sample"] == 0)]
        shown = marked[["class", "feature", "printed", "raw", "unit"]].astype(str)
        step.table("samples", shown.to_dict("records"))
        step.preview("sample_comparison.parquet")
        image = figures.samples(table, list(report["rows"]), report["marked"])
        step.png("samples.png", image, "Sampled flows of each class, features that differ most")
    return step.result()
