"""What answers cost stays what it is when a track is made again from the cache; what a run spent is told apart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.flows import assets as flows
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.report import assets as report
from iot_pipeline.defs.resources import LakeResource, TeacherResource
from iot_pipeline.defs.splits import assets as splits
from iot_pipeline.lake.store import ArtefactId, Lake

ASSETS = [
    flows.raw_flows,
    flows.flows,
    splits.evaluation_split,
    splits.training_order,
    splits.flow_texts,
    prompts.prompt,
    augmentation.original,
    report.cost_report,
]
TRACK = ArtefactId("original", "10K")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    monkeypatch.setenv("IOT_ROWS", "300")
    settings_module.settings.cache_clear()
    yield Lake(tmp_path)
    settings_module.settings.cache_clear()


def make(*names: str, partition: str | None = None) -> dict[str, Any]:
    """Make assets; the metadata that Dagster was told of the last one."""
    done = dg.materialize(
        ASSETS,
        selection=list(names),
        partition_key=partition,
        instance=dg.DagsterInstance.ephemeral(),
        resources={"lake": LakeResource(), "teacher": TeacherResource()},
    )
    assert done.success
    told = done.asset_materializations_for_node(names[-1])[-1].metadata
    return {name: value.value for name, value in told.items()}


def cost(lake: Lake) -> tuple[str, Any]:
    manifest = lake.manifest(ArtefactId("cost_report"))
    assert manifest is not None
    folder = lake.folder(ArtefactId("cost_report"))
    return manifest.data_version, json.loads((folder / "cost_report.json").read_text())


def test_a_track_made_again_from_the_cache_costs_what_it_did(lake: Lake) -> None:
    make("raw_flows", "flows", "evaluation_split", "training_order", "flow_texts")
    make("prompt", partition="original")
    first = make("original", partition=str(TRACK.partition))
    make("cost_report")
    track, before = lake.manifest(TRACK), cost(lake)
    again = make("original", partition=str(TRACK.partition))
    make("cost_report")
    remade = lake.manifest(TRACK)
    assert track is not None and remade is not None and remade.data_version == track.data_version
    assert cost(lake) == before
    asked = before[1]["rows"][0]["requests"]
    assert asked == first["requests"] == again["requests"] == before[1]["totals"]["requests"] > 50
    assert [told["requests_of_this_run"] for told in (first, again)] == [asked, 0]
    assert [told["taken_from_cache_by_this_run"] for told in (first, again)] == [0, asked]
    calls = [told["openai.embedded-analyst.calls"] for told in (first, again)]
    assert calls == [asked, 0]
