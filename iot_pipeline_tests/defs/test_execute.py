"""What `run` makes of kills and of failures that are no asset's: nothing is made twice, nothing passes for done."""

from pathlib import Path

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs import execute
from iot_pipeline.defs.plan import Planned, recorded_versions
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings


@dg.asset(
    code_version="1",
    partitions_def=dg.StaticPartitionsDefinition(["10K", "30K"]),
    check_specs=[dg.AssetCheckSpec("long_enough", asset="made")],
)
def made(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        text = step.lake.root / "text"
        write_text(step.folder / "x.txt", text.read_text() if text.exists() else "x")
        with (step.lake.root / "count").open("a") as count:
            count.write("x")
        step.check("long_enough", passed=False, letters=1)
    return step.result()


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    settings_module.settings.cache_clear()
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def planned() -> list[Planned]:
    return [Planned(ArtefactId("made", "10K"), "group", "1")]


def told(instance: dg.DagsterInstance) -> list[tuple[object, ...]]:
    """What Dagster knows of the check, latest first."""
    key = dg.AssetCheckKey(dg.AssetKey("made"), "long_enough")
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    found = [record.evaluation for record in history]
    return [(e.passed, e.severity, e.partition, e.metadata["letters"].value) for e in found if e is not None]


def definitions() -> dg.Definitions:
    return dg.Definitions(assets=[made], resources={"lake": LakeResource()})


def test_what_was_finished_but_not_told_to_dagster_is_recorded_and_not_made_again(chosen: Settings) -> None:
    # Made for another instance: to the lake's own it looks as after a kill between the swap and the event.
    with dg.DagsterInstance.ephemeral() as elsewhere:
        dg.materialize([made], partition_key="10K", resources={"lake": LakeResource()}, instance=elsewhere)
        told_elsewhere = told(elsewhere)
    outcome = execute.execute(definitions(), chosen, planned())
    assert [str(artefact) for artefact in outcome.fresh] == ["made[10K]"]
    assert (chosen.lake_path / "count").read_text() == "x"
    manifest = Lake(chosen.lake_path).manifest(ArtefactId("made", "10K"))
    assert manifest is not None
    with dg.DagsterInstance.get() as instance:
        assert recorded_versions(instance, planned()) == {ArtefactId("made", "10K"): manifest.data_version}
        event = instance.get_latest_materialization_event(dg.AssetKey("made"))
        assert event is not None and event.asset_materialization is not None
        assert event.asset_materialization.tags["dagster/data_version"] == manifest.data_version
        assert told(instance) == told_elsewhere == [(False, dg.AssetCheckSeverity.WARN, None, 1)]


def test_what_was_made_again_but_not_told_to_dagster_gets_its_new_version_recorded(chosen: Settings) -> None:
    execute.execute(definitions(), chosen, planned())
    write_text(chosen.lake_path / "text", "y")
    with dg.DagsterInstance.ephemeral() as elsewhere:
        dg.materialize([made], partition_key="10K", resources={"lake": LakeResource()}, instance=elsewhere)
    assert execute.execute(definitions(), chosen, planned()).made == []
    manifest = Lake(chosen.lake_path).manifest(ArtefactId("made", "10K"))
    assert manifest is not None
    with dg.DagsterInstance.get() as instance:
        assert recorded_versions(instance, planned()) == {ArtefactId("made", "10K"): manifest.data_version}


def test_other_code_makes_an_artefact_stale_unless_it_is_accepted(chosen: Settings) -> None:
    execute.execute(definitions(), chosen, planned())
    other = [Planned(ArtefactId("made", "10K"), "group", "2")]
    assert execute.execute(definitions(), chosen, other, accept_code=True).made == []
    assert [str(a) for a in execute.execute(definitions(), chosen, other).made] == ["made[10K]"]


def test_a_run_that_fails_outside_of_every_asset_is_a_failure(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dg.Definitions(assets=[made], resources={"lake": dg.ResourceDefinition(lambda _: 1 / 0)})
    outcome = execute.execute(broken, chosen, planned())
    assert [str(artefact) for artefact, _ in outcome.failed] == ["made[10K]"]
    assert outcome.made == []


@dg.asset(code_version="1", check_specs=[dg.AssetCheckSpec("good", asset="blocked", blocking=True)])
def blocked(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.json("x.json", 1)
        step.check("good", passed=False, share=1 / 3, reasons=["3 rows malformed, such as: x", "1 row refused"])
    return step.result()


def test_a_blocking_check_that_failed_is_told_with_its_facts(chosen: Settings) -> None:
    found = dg.Definitions(assets=[blocked], resources={"lake": LakeResource()})
    outcome = execute.execute(found, chosen, [Planned(ArtefactId("blocked", ""), "group", "1")])
    told = "good (reasons: 3 rows malformed, such as: x | 1 row refused, share: 0.3333)"
    assert outcome.failed == [(ArtefactId("blocked", ""), f"blocking check did not pass: {told}")]
