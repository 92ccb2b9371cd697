"""Real ticks of the project's own schedule and sensors: what they request, what it may spend, and what they tell."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iot_pipeline import settings as settings_module
from iot_pipeline.definitions import defs
from iot_pipeline.defs.automation import automation, ledger_limit, nightly, prompt_files
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.teacher.request import Usage
from iot_pipeline.teacher.store.store import Attempt, Store
from iot_pipeline.vocabulary import TRACKS


@cache
def definitions() -> dg.Definitions:
    return defs()


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


def tick_of_sensor(cursor: str | None) -> Any:
    """One tick of the prompt sensor through Dagster's own check of its requests."""
    repository = definitions().get_repository_def()
    context = dg.build_sensor_context(cursor=cursor, instance=empty_instance(), repository_def=repository)
    return repository.get_sensor_def("prompt_files").evaluate_tick(context)


def making(request: dg.RunRequest) -> dict[str, Any]:
    """What a requested run is configured to make."""
    return request.run_config["ops"][f"make_{request.job_name}"]["config"]


def sense(cursor: str | None) -> tuple[list[str], str, str]:
    """One tick of the prompt sensor: tracks requested, cursor, reason of a tick without requests."""
    tick = tick_of_sensor(cursor)
    requested = [track for request in tick.run_requests or [] for track in making(request)["prompts"]]
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


def test_what_starts_runs_is_off_until_switched_on_and_says_what_it_may_spend() -> None:
    repository = definitions().get_repository_def()
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert sensors.keys() == {"prompt_files", "failed_runs"}
    assert sensors["prompt_files"].default_status is dg.DefaultSensorStatus.STOPPED
    assert sensors["failed_runs"].default_status is dg.DefaultSensorStatus.RUNNING  # it starts nothing
    (schedule,) = repository.schedule_defs
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    for told in (schedule.description, sensors["prompt_files"].description):
        assert "at most $0 a day" in str(told) and "within $5 in all" in str(told) and "Trains nothing" in str(told)


def test_one_setting_switches_both_on_and_a_cron_line_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings_module.load_settings(
        {"IOT_AUTOMATION": "on", "IOT_SCHEDULE_CRON": "30 1 * * 1-5", "IOT_SCHEDULE_TIMEZONE": "Europe/Lisbon"}
    )
    schedule, sensor = nightly(chosen), prompt_files(chosen)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 1 * * 1-5", "Europe/Lisbon")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    with pytest.raises(UserError, match="IOT_SCHEDULE_TIMEZONE=Mars"):
        settings_module.load_settings({"IOT_SCHEDULE_TIMEZONE": "Mars"})
    monkeypatch.setenv("IOT_SCHEDULE_CRON", "at night")
    settings_module.settings.cache_clear()
    with pytest.raises(UserError, match="IOT_SCHEDULE_CRON=at night"):
        automation()


def tick_of_schedule(instance: dg.DagsterInstance) -> Any:
    repository = definitions().get_repository_def()
    context = dg.build_schedule_context(instance=instance, repository_def=repository)
    return repository.get_schedule_def("nightly").evaluate_tick(context)


def test_the_schedule_requests_what_is_stale_and_trains_only_where_it_may(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (asked,) = tick_of_schedule(instance).run_requests
        assert asked.job_name == "everything" and making(asked)["parts"] == ["data", "augment", "report"]
        assert making(asked)["missing"] is False and making(asked)["budget_usd"] is None  # the embedded teacher is free
        monkeypatch.setenv("IOT_SCHEDULE_TRAINING", "true")
        settings_module.settings.cache_clear()
        (asked,) = tick_of_schedule(instance).run_requests
        assert set(making(asked)["parts"]) == {"data", "augment", "train_track", "evaluate", "report"}
        job = definitions().resolve_job_def("everything")
        instance.create_run_for_job(job, tags=dict(asked.tags), run_config=asked.run_config)
        assert "is not finished" in tick_of_schedule(instance).skip_message
        shutil.rmtree(settings_module.settings().lake_path)
        assert "the lake is empty" in tick_of_schedule(instance).skip_message


def test_a_prompt_that_was_edited_asks_for_its_track_and_the_reports_within_the_budget(
    prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOT_TEACHER", "openai")
    monkeypatch.setenv("IOT_SCHEDULE_BUDGET_USD", "0.25")
    settings_module.settings.cache_clear()
    edit(prompts / "paraphrased.md")
    edit(prompts / "original.md")
    (asked,) = tick_of_sensor(None).run_requests
    assert asked.job_name == "augment" and making(asked)["parts"] == ["augment", "report"]
    assert making(asked)["prompts"] == ["original", "paraphrased"] and making(asked)["budget_usd"] == 0.25


def test_a_tick_reads_the_file_of_settings_as_it_is_now(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.env"
    monkeypatch.setenv("IOT_ENV_FILE", str(file))
    monkeypatch.setenv("IOT_TEACHER", "openai")
    file.write_text("IOT_SCHEDULE_BUDGET_USD=3\nIOT_SCHEDULE_TRAINING=true\n")
    settings_module.settings.cache_clear()
    assert settings_module.settings().run.schedule_budget_usd == 3  # as the code location was loaded with `ui`
    file.write_text("IOT_SCHEDULE_BUDGET_USD=0.5\n")
    edit(prompts / "paraphrased.md")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for asked in (tick_of_schedule(instance).run_requests[0], tick_of_sensor(None).run_requests[0]):
            assert making(asked)["budget_usd"] == 0.5 and "train_track" not in making(asked)["parts"]


def test_a_day_s_budget_counts_from_midnight_and_never_passes_the_whole(tmp_path: Path) -> None:
    def limit(**changed: str) -> float | None:
        given = {"IOT_LAKE": str(tmp_path), "IOT_TEACHER": "openai", "IOT_SCHEDULE_BUDGET_USD": "1", **changed}
        return ledger_limit(settings_module.load_settings(given), now)

    now = datetime.now(UTC)
    assert limit() == 1.0 and limit(IOT_TEACHER="embedded") is None
    with Store(tmp_path / "teacher.sqlite") as store:
        store.save([Attempt("k", "s", "m", "ok", Usage(), 0.4, False, 0.1)], [])
    assert limit() == 1.0  # spent today: a part of today's
    now = now + timedelta(days=1)
    assert limit() == 1.4 and limit(IOT_TEACHER_BUDGET_USD="1.2") == 1.2 and limit(IOT_SCHEDULE_BUDGET_USD="0") == 0.4


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
