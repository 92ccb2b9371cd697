"""Snapshot of the graph: every asset with group, dependencies, partitions, kinds, owners and checks.

A change of the graph shows up as a change of snapshot.json; `python -m iot_pipeline_tests.defs.test_definitions`
writes it anew once the change is meant.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import iot_pipeline
from iot_pipeline.definitions import defs
from iot_pipeline.defs.plan import PARTS, Planned
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import STAGES, TRACKS, Trained, staged, unstaged

SNAPSHOT = Path(__file__).with_name("snapshot.json")


@cache
def definitions() -> dg.Definitions:
    return defs()


def snapshot() -> dict[str, Any]:
    checks = {
        str(check.key.asset_key.to_user_string()) + ":" + check.name: check.blocking
        for asset in definitions().assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for check in asset.check_specs
    }
    return {"assets": {spec.key.to_user_string(): describe(spec) for spec in specs()}, "blocking_checks": checks}


def specs() -> list[dg.AssetSpec]:
    return sorted(definitions().resolve_all_asset_specs(), key=lambda spec: spec.key)


def describe(spec: dg.AssetSpec) -> dict[str, Any]:
    return {
        "group": spec.group_name,
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partitions": len(spec.partitions_def.get_partition_keys()) if spec.partitions_def else None,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
    }


def test_the_graph_is_as_recorded() -> None:
    assert snapshot() == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.key.to_user_string())
def test_every_asset_is_described_owned_and_versioned(spec: dg.AssetSpec) -> None:
    assert spec.description
    assert spec.owners
    assert spec.kinds
    assert spec.code_version
    assert spec.group_name != "default"


def test_groups_are_the_steps_of_the_method() -> None:
    assert {spec.group_name for spec in specs()} == {
        "flows",
        "quality",
        "splits",
        "baseline",
        "prompts",
        "augmentation",
        "training",
        "evaluation",
        "report",
    }


def test_every_asset_is_made_by_the_job_of_one_part() -> None:
    parts = {
        spec.key.to_user_string(): Planned(ArtefactId(spec.key.to_user_string()), str(spec.group_name), "").part
        for spec in specs()
    }
    assert set(parts.values()) == set(PARTS)
    trains = {name for name, part in parts.items() if part == "train_track"}
    assert {unstaged(name)[0] for name in trains} == {"base_model", "lora_checkpoint", "data_grid", "paper_protocol"}
    jobs = {job.name for job in definitions().get_repository_def().get_all_jobs()}
    assert jobs == {*PARTS, "everything", "__ASSET_JOB"}


def test_partition_keys_are_those_of_the_vocabulary() -> None:
    keys = {
        spec.key.to_user_string(): set(map(str, spec.partitions_def.get_partition_keys()))
        for spec in specs()
        if spec.partitions_def is not None
    }
    assert keys["paraphrased"] == set(STAGES)
    assert keys[staged("training_split", "30K")] == set(TRACKS)
    students = {Trained(seed, track).key for seed in load_settings().seeds for track in TRACKS}
    for name in ("lora_checkpoint", "eval_metrics", "explanation_quality", "reasons"):
        assert keys[staged(name, "ALL")] == students


@pytest.mark.parametrize("track", TRACKS)
def test_a_track_s_increment_feeds_only_its_own_later_stages(track: str) -> None:
    graph = definitions().resolve_asset_graph()
    downstream = {
        (key.asset_key.to_user_string(), key.partition_key)
        for key in graph.get_children_partitions(dg.AssetKey(track), "30K")
    }
    tensors = {(name, key) for name, key in downstream if unstaged(name)[0] == "training_split"}
    assert tensors == {(staged("training_split", stage), track) for stage in ("30K", "70K", "150K", "ALL")}


def test_what_of_dagster_is_not_public_is_called_in_one_module() -> None:
    private = re.compile(r"dagster\._|\.event_log_storage|\.run_storage|implicit_global|instigator_state|\.op\.pool")
    package = Path(iot_pipeline.__file__).parent
    found = {path.name for path in package.rglob("*.py") if private.search(path.read_text())}
    assert found == {"dagster_internals.py"}


def test_no_asset_group_imports_another() -> None:
    folder = Path(iot_pipeline.__file__).parent / "defs"
    groups = {path.name for path in folder.iterdir() if (path / "assets.py").is_file()}
    found = {
        (path.parent.name, other)
        for path in folder.rglob("*/*.py")
        for other in re.findall(r"iot_pipeline\.defs\.(\w+)", path.read_text())
        if other in groups - {path.parent.name}
    }
    assert len(groups) > 5 and found == set()


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(), indent=1, sort_keys=True) + "\n")
