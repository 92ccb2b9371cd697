"""Asset group prompts: snapshots of the prompt files that users edit."""

import dagster as dg

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.defs.asset_page import LAKE_URL
from iot_pipeline.defs.partitions import prompt_partitions
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.escaping import fenced
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import SNAPSHOTS


@dg.asset(group_name="prompts", partitions_def=prompt_partitions)
def prompt(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Snapshot of a prompt file, versioned by its sha256; downstream reads the snapshot, never the file."""
    with lake.step(context) as step:
        path = step.file((step.settings.teacher.prompts / f"{context.partition_key}.md").absolute())
        parsed = load_prompt(path)
        write_text(step.folder / "prompt.md", parsed.source)
        kept = step.lake.keep_snapshot(parsed.source)
        step.metadata["snapshot"] = dg.MetadataValue.md(f"[{kept.name}]({LAKE_URL}{SNAPSHOTS}/{kept.name})")
        step.summarise(sha256=parsed.sha256, model=parsed.model, temperature=parsed.settings.temperature)
        step.metadata["prompt"] = dg.MetadataValue.md(fenced(parsed.source))
    return step.result()
