"""One pass over all assets sets owner, code version, kinds and tags, so that no asset repeats them.

Freshness policies are not among them: the manifest decides what is stale, and Dagster's policies know only time. What
the manifests say stands on the page of the asset `lake_state`, which alone has a policy.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline.defs import plan
from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.errors import UserError
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.settings import settings
from iot_pipeline.vocabulary import TRACKS, unstaged

OWNERS = {
    "flows": "team:data",
    "quality": "team:data",
    "splits": "team:data",
    "baseline": "team:data",
    "prompts": "team:prompts",
    "augmentation": "team:prompts",
    "training": "team:student",
    "evaluation": "team:student",
    "report": "team:paper",
}
KINDS = {
    "raw_flows": {"parquet", "duckdb"},
    "flows": {"parquet", "duckdb"},
    "attack_patterns": {"duckdb", "sklearn"},
    "evaluation_split": {"parquet", "duckdb"},
    "training_order": {"parquet", "duckdb"},
    "flow_texts": {"parquet", "duckdb"},
    "leakage_report": {"duckdb", "lightgbm"},
    "automl_baseline": {"autogluon", "lightgbm"},
    "baseline_probabilities": {"autogluon"},
    "pseudo_label_baseline": {"autogluon"},
    **{name: {"openai", "jsonl"} for name in ("validation_answers", *TRACKS)},
    "base_model": {"pytorch", "huggingface"},
    "training_split": {"jsonl", "safetensors"},
    "lora_checkpoint": {"pytorch", "safetensors"},
    "paper_protocol": {"pytorch", "openai"},
    "data_grid": {"pytorch", "numpy"},
    "zero_shot_teacher": {"openai", "numpy"},
    "reason_baselines": {"lightgbm", "sklearn"},
    "reasons": {"pytorch", "sklearn"},
    "unknown_detection": {"pytorch", "sklearn"},
    "study": {"numpy"},
    "paper_report": {"html", "markdown"},
    "model_card": {"markdown", "huggingface"},
    plan.STATE: {"markdown"},
}
KINDS_OF_GROUP = {"quality": {"duckdb"}, "prompts": {"markdown"}, "evaluation": {"pytorch"}, "report": {"markdown"}}
# What these are made by, named one by one: hours follow, so nothing else of their group may make them stale.
CODE = {
    "base_model": ("iot_pipeline.tiny_base.__main__", "iot_pipeline.models.smollm2"),
    "training_split": (
        "iot_pipeline.defs.training.class_rows",
        "iot_pipeline.sft.check",
        "iot_pipeline.sft.controls",
        "iot_pipeline.sft.tasks",
        "iot_pipeline.sft.tensors",
    ),
    "lora_checkpoint": ("iot_pipeline.training.train",),
    "baseline_probabilities": ("iot_pipeline.defs.baseline.distil",),
    "pseudo_label_baseline": ("iot_pipeline.defs.baseline.distil",),
    "paper_protocol": ("iot_pipeline.defs.training.paper", "iot_pipeline.training.train"),
    "data_grid": ("iot_pipeline.defs.training.grid", "iot_pipeline.training.train"),
    "study": ("iot_pipeline.defs.evaluation.study",),
    "zero_shot_teacher": ("iot_pipeline.defs.evaluation.zero_shot",),
    "reason_baselines": ("iot_pipeline.defs.evaluation.reason_baselines",),
    "reasons": ("iot_pipeline.defs.evaluation.reasons",),
    "unknown_detection": ("iot_pipeline.defs.evaluation.unknown",),
}
version_of = cache(code_version)


def load() -> dg.Definitions:
    """Load everything in `defs/`; small steps run in the process of their run, which saves a second start of Python."""
    try:
        found = dg.load_from_defs_folder(path_within_project=Path(__file__).parent.parent)
    except Exception as error:  # Dagster wraps it, with a tree of all files; a wrong setting is one sentence
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    found = found.map_asset_specs(func=complete)
    assets = dg.with_source_code_references(list(found.assets or []))
    return dg.Definitions(
        assets=only_wanted(found, assets) if os.environ.get(ONLY_WANTED) else assets,
        jobs=found.jobs,
        schedules=found.schedules,
        sensors=found.sensors,
        resources=found.resources,
        executor=dg.in_process_executor,
    )


def only_wanted(definitions: dg.Definitions, assets: Sequence[Any]) -> list[Any]:
    """Leave assets that the settings do not ask for in the graph, but let no click make them.

    Those are other stages and tracks, and what only IOT_GRID, IOT_DISTIL or IOT_UNKNOWN needs: "Materialize all" would
    take them.
    """
    asked = {p.artefact.asset for p in plan.wanted(definitions, settings())}
    shown_only = [isinstance(one, dg.AssetsDefinition) and one.key.to_user_string() not in asked for one in assets]
    return [unasked(one.get_asset_spec()) if only else one for one, only in zip(assets, shown_only, strict=True)]


def unasked(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Return an asset as one that is shown only; its description says how to ask for it."""
    asking = "IOT_STAGES, IOT_TRACKS, IOT_GRID, IOT_DISTIL, IOT_UNKNOWN"
    told = f"Not asked for by the settings ({asking}), so it is only shown. {spec.description}"
    return spec.replace_attributes(description=told, deps=[dep.asset_key for dep in spec.deps], partitions_def=None)


def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Add owner, code version, kinds and tags to an asset's spec."""
    (name, stage), group = unstaged(spec.key.to_user_string()), str(spec.group_name)
    return spec.replace_attributes(
        owners=[OWNERS[group]],
        code_version=version_of(*CODE.get(name, (f"iot_pipeline.defs.{group}.assets",))),
        kinds=KINDS.get(name) or KINDS_OF_GROUP[group],
    ).merge_attributes(tags={"stage": stage} if stage else {})
