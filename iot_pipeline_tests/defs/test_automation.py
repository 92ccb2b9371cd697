"""Real automation ticks on the project's own graph: an edited prompt requests exactly what hangs on it."""

import json
from functools import cache
from pathlib import Path

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.definitions import defs
from iot_pipeline.defs.automation import prompt_files
from iot_pipeline.defs.partitions import TRACKS

SELECTION = dg.AssetSelection.groups("augmentation", "prompts") | dg.AssetSelection.keys("training_split")
PLAIN = ["raw_flows", "flows", "evaluation_split", "training_order", "base_model", "validation_answers"]


@cache
def definitions() -> dg.Definitions:
    return defs()


def made(
    instance: dg.DagsterInstance, asset: str, partition: str | None = None, version: str = "1", passed: bool = True
) -> None:
    """A real run of a stand-in with the asset's key, partitions and checks, with this data version and verdict."""
    real = definitions().resolve_assets_def(dg.AssetKey(asset))

    specs = list(real.check_specs)

    @dg.asset(key=dg.AssetKey(asset), partitions_def=real.partitions_def, check_specs=specs)
    def stand_in() -> dg.MaterializeResult:
        results = [dg.AssetCheckResult(check_name=spec.name, passed=passed) for spec in specs]
        return dg.MaterializeResult(data_version=dg.DataVersion(version), check_results=results)

    dg.materialize([stand_in], partition_key=partition, instance=instance, raise_on_error=False)


def world() -> dg.DagsterInstance:
    """An instance in which everything of stage 10K is there and passed its checks."""
    instance = dg.DagsterInstance.ephemeral()
    for asset in PLAIN:
        made(instance, asset)
    for track in TRACKS:
        made(instance, "prompt", track)
        made(instance, track, f"10K|{track}")
        made(instance, "training_split", f"10K|{track}")
    return instance


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return world()


def tick(instance: dg.DagsterInstance, cursor: object = None) -> tuple[set[str], object]:
    """One tick of the automation; what it requests (asset, or asset[partition]) and the cursor for the next one."""
    result = dg.evaluate_automation_conditions(
        defs=definitions(), instance=instance, asset_selection=SELECTION, cursor=cursor
    )
    requested = set()
    for key in definitions().resolve_asset_graph().get_all_asset_keys():
        found = result.get_requested_partitions(key) if result.get_num_requested(key) else set()
        requested |= {f"{key.to_user_string()}[{p}]" if p else key.to_user_string() for p in found}
    return requested, result.cursor


def test_nothing_is_requested_while_nothing_changes(instance: dg.DagsterInstance) -> None:
    requested, cursor = tick(instance)
    assert requested == set()
    assert tick(instance, cursor)[0] == set()


def test_an_edited_prompt_requests_its_track_and_no_other(instance: dg.DagsterInstance) -> None:
    _, cursor = tick(instance)
    made(instance, "prompt", "paraphrased", version="2")
    requested, cursor = tick(instance, cursor)
    assert requested == {"paraphrased[10K|paraphrased]"}
    made(instance, "paraphrased", "10K|paraphrased", version="2")
    requested, cursor = tick(instance, cursor)
    assert requested == {"training_split[10K|paraphrased]"}


@pytest.mark.parametrize(("failing", "requested"), [(True, set()), (False, {"training_split[10K|paraphrased]"})])
def test_a_track_that_did_not_pass_its_check_goes_no_further(failing: bool, requested: set[str]) -> None:
    instance = world()
    _, cursor = tick(instance)
    made(instance, "paraphrased", "10K|paraphrased", version="2", passed=not failing)
    assert tick(instance, cursor)[0] == requested


def test_the_same_prompt_frozen_again_requests_nothing(instance: dg.DagsterInstance) -> None:
    _, cursor = tick(instance)
    made(instance, "prompt", "paraphrased", version="1")
    assert tick(instance, cursor)[0] == set()


def test_stages_that_nobody_has_made_are_not_made_by_a_prompt(instance: dg.DagsterInstance) -> None:
    _, cursor = tick(instance)
    made(instance, "prompt", "feature_varied", version="2")
    requested, _ = tick(instance, cursor)
    assert not any("30K" in name for name in requested)


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in settings_module.load_settings({}).prompts.glob("*.md"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setenv("IOT_PROMPTS", str(tmp_path))
    settings_module.settings.cache_clear()
    yield tmp_path
    settings_module.settings.cache_clear()


def sense(cursor: str | None) -> tuple[list[str], str]:
    context = dg.build_sensor_context(cursor=cursor)
    result = prompt_files(context)
    requests = result.run_requests if isinstance(result, dg.SensorResult) else []
    return [str(request.partition_key) for request in requests or []], context.cursor or ""


def test_the_sensor_asks_for_edited_prompts_only_and_again_when_set_back(prompts: Path) -> None:
    first, cursor = sense(None)
    assert sorted(first) == sorted(TRACKS)
    assert sense(cursor)[0] == []
    path = prompts / "paraphrased.md"
    before = path.read_text()
    path.write_text(before + "\nBe brief.\n")
    second, cursor = sense(cursor)
    assert second == ["paraphrased"]
    path.write_text(before)
    assert sense(cursor)[0] == ["paraphrased"]


def test_a_broken_prompt_is_left_and_the_others_go_on(prompts: Path) -> None:
    _, cursor = sense(None)
    (prompts / "original.md").write_text("no front matter")
    (prompts / "paraphrased.md").write_text((prompts / "paraphrased.md").read_text() + "\nBe brief.\n")
    requested, cursor = sense(cursor)
    assert requested == ["paraphrased"]
    assert set(json.loads(cursor)) == set(TRACKS)
