"""What an asset body reads is recorded; a missing or failed input stops it before anything is spent."""

import os
from pathlib import Path

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.reads import file_version, present_value, recorded
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.errors import UserError
from iot_pipeline.lake import integrity, store
from iot_pipeline.lake.atomic import sha256_file, write_text
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import PROJECT_ROOT


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    settings_module.settings.cache_clear()
    yield Lake(tmp_path)
    settings_module.settings.cache_clear()


@dg.asset(check_specs=[dg.AssetCheckSpec("good", asset="up", blocking=True)], code_version="1")
def up(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        write_text(step.folder / "x.txt", f"seed {step.settings.data.seed}")
        step.json("timing.json", {"seconds": 2027}, volatile=True)
        step.check("good", step.settings.data.seed != 13, seed=step.settings.data.seed)
        step.provenance["label"] = "SIMULATED"
    return step.result()


@dg.asset(deps=["up"], code_version="1")
def down(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        write_text(step.folder / "y.txt", (step.input("up") / "x.txt").read_text())  # has the seed in it: 2027
        step.summarise(rows=3)
    return step.result()


@dg.asset(code_version="1")
def mistaken(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context):
        raise UserError("column x is missing from y.csv; name it in the spec")


def make(*assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [up, down, far, mistaken],
        selection=list(assets),
        resources={"lake": LakeResource()},
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )


def test_reads_are_recorded_as_inputs_and_settings(lake: Lake) -> None:
    assert make(up, down).success
    first, second = lake.manifest(ArtefactId("up")), lake.manifest(ArtefactId("down"))
    assert first is not None and second is not None
    assert first.settings == {"setting seed": 2027}
    assert second.inputs == {"up@": first.data_version}
    assert first.provenance["labels"] == second.provenance["labels"] == ["SIMULATED"]
    assert second.settings == {}


def test_dagster_gets_the_data_version_and_the_row_count(lake: Lake) -> None:
    result = make(up, down)
    (event,) = [m for m in result.get_asset_materialization_events() if m.asset_key == dg.AssetKey("down")]
    manifest = lake.manifest(ArtefactId("down"))
    assert manifest is not None
    assert event.materialization.tags["dagster/data_version"] == manifest.data_version
    assert event.materialization.metadata["dagster/row_count"].value == 3


def test_a_changed_setting_makes_stale_only_what_read_it(lake: Lake) -> None:
    make(up, down)
    changed = present_value(lake, settings_module.load_settings({"IOT_SEED": "7"}))
    assert lake.stale_reasons(ArtefactId("up"), "1", changed) == ["setting seed changed"]
    assert lake.stale_reasons(ArtefactId("down"), "1", changed) == []


def test_a_missing_input_is_named(lake: Lake) -> None:
    result = make(down)
    assert not result.success
    assert "up has not been made" in str(result.all_events)


def test_a_failed_blocking_check_stops_a_later_run_too(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_SEED", "13")
    settings_module.settings.cache_clear()
    make(up)
    result = make(down)
    assert not result.success
    assert "did not pass: good (seed: 13)" in str(result.all_events)
    assert lake.manifest(ArtefactId("down")) is None


def test_a_user_error_becomes_a_failure_with_its_sentence_and_no_retry(lake: Lake) -> None:
    result = make(mistaken)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data.description.startswith("column x is missing from y.csv")


@dg.asset(code_version="1")
def forgetful(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.input("up")
    return step.result()


def test_an_input_that_is_not_declared_is_refused_so_that_lineage_is_whole(lake: Lake) -> None:
    make(up)
    result = dg.materialize(
        [up, forgetful],
        selection=[forgetful],
        resources={"lake": LakeResource()},
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert "forgetful reads up, which is not among its deps" in str(result.all_events)


def test_an_input_that_no_longer_follows_from_its_own_inputs_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(up, down)
    monkeypatch.setenv("IOT_SEED", "7")
    settings_module.settings.cache_clear()
    result = make(down)
    assert not result.success
    assert "stale input (up: setting seed changed)" in str(result.all_events)
    assert make(up, down).success


@dg.asset(deps=["down"], code_version="1")
def far(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.json("read.json", (step.input("down") / "y.txt").read_text())
    return step.result()


@pytest.mark.parametrize("file", ["up/x.txt", "up/timing.json", "up/manifest.json", "down/y.txt"])
def test_a_changed_byte_of_an_input_or_of_anything_upstream_is_refused_by_artefact_and_file(
    lake: Lake, file: str
) -> None:
    assert make(up, down, far).success
    path = lake.root / file
    data = path.read_bytes()
    path.write_bytes(data.replace(b"2027", b"2028"))
    assert path.read_bytes() != data
    result = make(far)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data.description
    artefact, _, name = file.partition("/")
    changed = "manifest was changed" if name == "manifest.json" else f"file {name} was changed"
    assert told.startswith(f"stale input ({artefact}: {changed} (") and "`iot-pipeline run` makes it again" in told
    path.write_bytes(data)
    assert make(far).success


def test_a_file_of_a_gathered_artefact_that_was_changed_is_left_out(lake: Lake) -> None:
    make(up, down)
    step = object.__new__(Step)
    step.lake, step._seen, step._lineage = lake, {}, {}
    step._present, lines = present_value(lake, settings_module.settings()), []
    step.log = lines.append  # type: ignore[method-assign]
    (lake.folder(ArtefactId("up")) / "x.txt").write_text("seed 2028")
    assert step.upstream_artefacts("up") == []
    assert lines[0].startswith("left out, stale: up: file x.txt was changed (expected sha256 ")


def test_a_query_is_told_by_its_digest_and_a_password_not_at_all() -> None:
    first, second = (recorded(f"http://me:secret@host/flows?file={name}.csv") for name in ("train", "test"))
    assert first != second
    assert first.startswith("http://host/flows (") and "train" not in first and "secret" not in first
    assert recorded("http://me:secret@host/flows") == recorded("http://host/flows")


@pytest.mark.parametrize("scheme", ["http", "s3", "gs", "abfs"])
def test_a_changed_query_is_noticed_in_a_url_of_any_scheme(scheme: str) -> None:
    first, second = (recorded(f"{scheme}://host/flows.csv?sig={text}") for text in ("secret", "other"))
    assert first != second and first.startswith(f"{scheme}://host/flows.csv (") and "secret" not in first


def test_a_large_file_is_known_by_its_content_and_read_once(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LARGE_BYTES", 5)
    file, read = tmp_path / "source.csv", []
    file.write_text("content 1")
    monkeypatch.setattr(integrity, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    before = file_version(file, lake)
    facts = file.stat()
    assert file_version(file, lake) == before == sha256_file(file) and len(read) == 1
    file.write_text("content 2")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file_version(file, lake) == sha256_file(file) != before


def test_a_folder_of_the_project_is_told_from_its_root_so_that_a_checkout_can_move() -> None:
    assert recorded(PROJECT_ROOT / "iot_pipeline" / "prompts") == "iot_pipeline/prompts"


def test_a_further_file_that_a_glob_matches_is_noticed(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    present = present_value(lake, settings_module.load_settings({}))
    before = present(f"files {tmp_path}/*.csv")
    (tmp_path / "b.csv").write_text("x")
    assert before == [str(tmp_path / "a.csv")]
    assert present(f"files {tmp_path}/*.csv") == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
