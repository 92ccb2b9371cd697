"""Real automation ticks on the project's own graph: an edited prompt requests exactly what hangs on it."""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iot_pipeline import settings as settings_module
from iot_pipeline.definitions import defs
from iot_pipeline.defs.automation import prompt_files
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.vocabulary import TRACKS

SELECTION = dg.AssetSelection.groups("augmentation", "prompts") | dg.AssetSelection.keys("training_split_10K")
PLAIN = ["raw_flows", "flows", "evaluation_split", "training_order", "flow_texts", "base_model", "validation_answers"]


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
        made(instance, track, "10K")
        made(instance, "training_split_10K", track)
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
    assert requested == {"paraphrased[10K]"}
    made(instance, "paraphrased", "10K", version="2")
    requested, cursor = tick(instance, cursor)
    assert requested == {"training_split_10K[paraphrased]"}


@pytest.mark.parametrize(("failing", "requested"), [(True, set()), (False, {"training_split_10K[paraphrased]"})])
def test_a_track_that_did_not_pass_its_check_goes_no_further(failing: bool, requested: set[str]) -> None:
    instance = world()
    _, cursor = tick(instance)
    made(instance, "paraphrased", "10K", version="2", passed=not failing)
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
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of prompt files, and a lake with a snapshot of each."""
    shutil.copytree(settings_module.load_settings({}).teacher.prompts, tmp_path / "prompts")
    monkeypatch.setenv("IOT_PROMPTS", str(tmp_path / "prompts"))
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    settings_module.settings.cache_clear()
    for track in TRACKS:
        freeze(track)
    yield tmp_path / "prompts"
    settings_module.settings.cache_clear()


def freeze(track: str) -> None:
    """Write the snapshot of a track's prompt, as a requested run does (test_daemon.py has real ones)."""
    chosen = settings_module.settings()
    with Lake(chosen.lake_path).replacing(ArtefactId("prompt", track)) as folder:
        shutil.copy(chosen.teacher.prompts / f"{track}.md", folder / "prompt.md")
        finish_artefact(folder, Manifest("prompt", track, "", "1", {}, {}, {}), set())


def edit(path: Path, text: str = "Be brief.") -> str:
    """Add a line to a prompt; its text before."""
    before = path.read_text()
    path.write_text(f"{before}\n{text}\n")
    return before


@cache
def empty_instance() -> dg.DagsterInstance:
    """One instance for all ticks of the sensor, which keeps nothing in it."""
    return dg.DagsterInstance.ephemeral()


def sense(cursor: str | None) -> tuple[list[str], str, str]:
    """One tick through Dagster's own check of a sensor: tracks requested, cursor, reason of a tick without requests."""
    context = dg.build_sensor_context(
        cursor=cursor, instance=empty_instance(), repository_def=definitions().get_repository_def()
    )
    tick = prompt_files.evaluate_tick(context)
    requested = [str(request.partition_key) for request in tick.run_requests or []]
    return requested, tick.cursor or cursor or "", tick.skip_message or ""


def test_the_first_tick_requests_nothing_where_prompts_equal_their_snapshots(prompts: Path) -> None:
    requested, cursor, reason = sense(None)
    assert (requested, reason) == ([], "every prompt equals its snapshot")
    assert sense(cursor)[0] == []


def test_an_edit_made_while_the_daemon_was_down_is_requested_once_and_again_when_set_back(prompts: Path) -> None:
    path = prompts / "paraphrased.md"
    before = edit(path)
    requested, cursor, _ = sense(None)
    assert requested == ["paraphrased"]
    requested, cursor, reason = sense(cursor)
    assert requested == [] and "paraphrased was requested before" in reason
    freeze("paraphrased")
    requested, cursor, _ = sense(cursor)
    assert requested == []
    path.write_text(before)
    requested, cursor, _ = sense(cursor)
    assert requested == ["paraphrased"]
    freeze("paraphrased")
    edit(path)
    assert sense(cursor)[0] == ["paraphrased"]


def test_a_prompt_set_back_while_its_edit_is_being_frozen_is_requested_again(prompts: Path) -> None:
    path = prompts / "paraphrased.md"
    before = edit(path)
    _, cursor, _ = sense(None)
    edited = path.read_text()
    path.write_text(before)  # the snapshot is still the old one: nothing to do yet
    requested, cursor, _ = sense(cursor)
    assert requested == []
    path.write_text(edited)
    freeze("paraphrased")  # the run that was requested first has read the edited text
    path.write_text(before)
    assert sense(cursor)[0] == ["paraphrased"]


@pytest.mark.parametrize("text", [None, "no front matter", b"\xff\xfe"])
def test_an_unreadable_prompt_is_told_and_the_others_go_on(prompts: Path, text: str | bytes | None) -> None:
    path = prompts / "original.md"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    requested, cursor, reason = sense(None)
    assert requested == [] and str(path) in reason
    edit(prompts / "paraphrased.md")
    assert sense(cursor)[0] == ["paraphrased"]


def test_a_prompt_that_nobody_has_frozen_is_left_to_a_first_run(prompts: Path) -> None:
    shutil.rmtree(settings_module.settings().lake_path / "prompt" / "feature_varied")
    edit(prompts / "feature_varied.md")
    assert sense(None)[0] == []


def test_a_snapshot_that_lost_its_file_is_made_again(prompts: Path) -> None:
    (settings_module.settings().lake_path / "prompt" / "original" / "prompt.md").unlink()
    assert sense(None)[0] == ["original"]


def test_a_lake_that_is_not_there_makes_no_red_tick(prompts: Path) -> None:
    shutil.rmtree(settings_module.settings().lake_path)
    assert sense(None)[0] == []


def test_a_mistake_in_the_settings_is_the_reason_of_the_tick(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_STAGES", "11K")
    settings_module.settings.cache_clear()
    requested, _, reason = sense(None)
    assert requested == [] and "IOT_STAGES" in reason


def test_a_lake_that_cannot_be_there_makes_no_red_tick(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_LAKE", "/dev/null/lake")
    settings_module.settings.cache_clear()
    assert sense(None)[0] == []


def test_a_damaged_manifest_is_told_and_the_others_go_on(prompts: Path) -> None:
    (settings_module.settings().lake_path / "prompt" / "original" / "manifest.json").write_text("{")
    edit(prompts / "paraphrased.md")
    assert sense(None)[0] == ["paraphrased"]


def test_every_sensor_and_schedule_is_off_until_switched_on_and_known_here() -> None:
    repository = definitions().get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} == {"prompt_files", "changed_inputs"}
    assert all(sensor.default_status is dg.DefaultSensorStatus.STOPPED for sensor in repository.sensor_defs)
    assert repository.schedule_defs == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["edit to A", "edit to B", "tick", "run"]), max_size=12))
@example(steps=["edit to A", "tick", "edit to B", "run", "edit to A"])
def test_after_every_order_of_edits_ticks_and_runs_the_snapshot_becomes_the_file(
    prompts: Path, steps: list[str]
) -> None:
    path = prompts / "original.md"
    base = path.read_text().split("\nText ")[0]
    path.write_text(base)
    freeze("original")
    cursor, queued = "", 0
    for step in [*steps, "tick", "run", "tick", "run"]:
        if step == "tick":
            requested, cursor, _ = sense(cursor)
            queued += len(requested)
        elif step == "run":
            for _ in range(queued):
                freeze("original")
            queued = 0
        else:
            path.write_text(f"{base}\nText {step[-1]}\n")
    snapshot = settings_module.settings().lake_path / "prompt" / "original" / "prompt.md"
    assert snapshot.read_text() == path.read_text()
    assert sense(cursor)[0] == []


def test_the_zero_shot_prompt_is_frozen_anew_where_there_is_a_snapshot(prompts: Path) -> None:
    edit(prompts / "zero_shot.md")
    assert sense(None)[0] == []
    freeze("zero_shot")
    edit(prompts / "zero_shot.md")
    assert sense(None)[0] == ["zero_shot"]
