"""Jobs on a small graph with real runs: what they make, hold back, spend and tell; failures that reach a webhook."""

import json
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs import execute, failures, plan
from iot_pipeline.defs.home import locked
from iot_pipeline.defs.jobs import DESCRIPTIONS, Making, config_of, job
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.run_monitoring import PARENT_TAG
from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.errors import BudgetReached, UserError
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import TRACKS


class Teacher(dg.ConfigurableResource):
    """A teacher that asks for as many dollars as a file says, once for each text of the prompt."""

    budget_usd: float | None = None

    def ask(self, root: Path, text: str) -> None:
        store = root / "paid.json"
        paid = json.loads(store.read_text()) if store.exists() else {}
        if text not in paid and sum(paid.values()) + 1 > (9.0 if self.budget_usd is None else self.budget_usd):
            raise BudgetReached("the budget is used up")
        write_text(store, json.dumps({text: 1} | paid))


def prompts_of(root: Path) -> Path:
    return root / "texts"


@dg.asset(group_name="prompts", code_version="1", partitions_def=dg.StaticPartitionsDefinition(TRACKS))
def prompt(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        text = step.file(prompts_of(step.lake.root) / context.partition_key).read_text()
        if text == "bad":
            raise UserError("the prompt is bad: <script>alert(1)</script> sk-abcdefghijklmnop1234567890")
        write_text(step.folder / "prompt.md", text)
    return step.result()


def track(name: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name, group_name="augmentation", code_version="1", deps=["prompt"],
        partitions_def=dg.StaticPartitionsDefinition(["10K"]),
    )  # fmt: skip
    def made(context: dg.AssetExecutionContext, lake: LakeResource, teacher: Teacher) -> dg.MaterializeResult:
        with lake.step(context) as step:
            text = (step.input("prompt", name) / "prompt.md").read_text()
            teacher.ask(step.lake.root, text)
            write_text(step.folder / "x", text)
        return step.result()

    return made


@dg.asset(
    group_name="training", code_version="1", deps=TRACKS[:2], partitions_def=dg.StaticPartitionsDefinition(TRACKS[:2])
)
def lora_checkpoint_10K(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        write_text(step.folder / "x", (step.input(context.partition_key, "10K") / "x").read_text())
    return step.result()


@dg.asset(group_name="report", code_version="1", deps=["lora_checkpoint_10K", *TRACKS[:2]])
def paper_report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        found = {name: [str(one) for one in step.inputs(name)] for name in ("lora_checkpoint", *TRACKS[:2])}
        step.json("report.json", found)
    return step.result()


@cache
def definitions() -> dg.Definitions:
    assets = [prompt, *(track(name) for name in TRACKS[:2]), lora_checkpoint_10K, paper_report]
    jobs = [job(name, settings_module.load_settings({})) for name in DESCRIPTIONS]
    return dg.Definitions(assets=assets, jobs=jobs, resources={"lake": LakeResource(), "teacher": Teacher()})


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    monkeypatch.setenv("IOT_TRACKS", "original,paraphrased")
    monkeypatch.setattr("iot_pipeline.defs.catalogue.load", definitions)
    settings_module.settings.cache_clear()
    for name in TRACKS:
        write_text(prompts_of(tmp_path) / name, f"{name} A")
    yield settings_module.settings()
    settings_module.settings.cache_clear()


def run(name: str, **chosen: Any) -> dg.ExecuteInProcessResult:
    """Run a job as its launchpad does, on the lake's own instance."""
    execute.dagster_home(settings_module.settings())
    config = config_of(name, Making(**({"parts": list(plan.PARTS)} | chosen)))
    with dg.DagsterInstance.get() as instance:
        found = definitions().resolve_job_def(name)
        return found.execute_in_process(run_config=config, instance=instance, raise_on_error=False)


def states(result: dg.ExecuteInProcessResult) -> dict[str, list[str]]:
    """Artefacts by what became of them, as the page of the run has it."""
    metadata: dict[str, Any] = {}
    for event in result.all_events:
        if event.is_successful_output:
            metadata = dict(event.step_output_data.metadata)
        elif event.is_step_failure and event.step_failure_data.user_failure_data is not None:
            metadata = dict(event.step_failure_data.user_failure_data.metadata)
    rows = [record.data for record in metadata["artefacts"].records] if "artefacts" in metadata else []
    return {
        state: [row["artefact"] for row in rows if row["state"] == state] for state in ("made", "held back", "failed")
    }


def edit(root: Path, name: str, text: str) -> None:
    write_text(prompts_of(root) / name, text)


def test_a_job_makes_its_part_and_what_follows_from_one_prompt_and_nothing_twice(
    chosen: Settings, tmp_path: Path
) -> None:
    first = run("augment", parts=["augment"])
    both = ["prompt[original]", "prompt[paraphrased]", "original[10K]", "paraphrased[10K]"]
    assert states(first)["made"] == both
    edit(tmp_path, "paraphrased", "C")
    found = states(run("everything", missing=False))  # what was never made waits for a first run
    assert found["made"] == ["prompt[paraphrased]", "paraphrased[10K]"] and "paper_report" in found["held back"]
    assert states(run("everything"))["made"][-1] == "paper_report"
    edit(tmp_path, "paraphrased", "B")
    edit(tmp_path, "original", "B too")
    allowed = {"parts": ["augment", "report"], "prompts": ["paraphrased"], "missing": False}
    assert states(run("augment", **allowed))["made"] == ["prompt[paraphrased]", "paraphrased[10K]", "paper_report"]
    report = json.loads((tmp_path / "paper_report" / "report.json").read_text())
    # Training was not allowed: the report has no student of the old text, and none of the prompt that waits.
    assert report == {"lora_checkpoint": [], "original": [], "paraphrased": ["paraphrased[10K]"]}
    edit(tmp_path, "original", "original A")
    found = states(run("everything", missing=False))
    assert found["made"] == ["lora_checkpoint_10K[paraphrased]", "paper_report"] and found["failed"] == []


def test_a_spent_budget_stops_cleanly_and_the_next_night_goes_on_where_it_was(chosen: Settings, tmp_path: Path) -> None:
    run("everything")  # two texts, two dollars
    edit(tmp_path, "paraphrased", "B")
    night = run("everything", missing=False, budget_usd=2.0)
    assert night.success and "paraphrased[10K]" in states(night)["held back"]
    assert "paper_report" in states(night)["made"]  # of what is fresh
    found = states(run("everything", missing=False, budget_usd=3.0))
    assert found["made"] == ["paraphrased[10K]", "lora_checkpoint_10K[paraphrased]", "paper_report"]
    edit(tmp_path, "paraphrased", "paraphrased A")  # set back: its answers are there
    assert states(run("everything", missing=False, budget_usd=0.0))["failed"] == []
    assert json.loads((tmp_path / "paid.json").read_text()).keys() == {"original A", "paraphrased A", "B"}


@pytest.mark.parametrize(("choice", "told"), [
    ({"parts": ["training"]}, "parts: training: there are data, augment"),
    ({"prompts": ["paraphrase"]}, "prompts: paraphrase: there are original, paraphrased"),
    ({"stages": ["30K"]}, "stages: 30K: add it to IOT_STAGES"),
    ({"tracks": ["original", "feature_varied"]}, "tracks: feature_varied: add it to IOT_TRACKS"),
    ({"budget_usd": -1.0}, "greater than or equal to 0"),
])  # fmt: skip
def test_a_wrong_choice_fails_with_a_sentence(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch, choice: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv(ONLY_WANTED, "1")  # as in the UI
    result = run("everything", **choice)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert told in execute.sentence_of(event)


def test_a_launchpad_does_not_raise_the_budget(
    chosen: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOT_TEACHER_BUDGET_USD", "1")
    settings_module.settings.cache_clear()
    found = states(run("everything", budget_usd=100.0))  # two texts, two dollars
    assert "original[10K]" in found["made"] and found["failed"] == []
    assert found["held back"] == ["paraphrased[10K]", "lora_checkpoint_10K[paraphrased]"]


def test_what_waits_for_an_artefact_that_failed_is_held_back_and_no_failure(chosen: Settings, tmp_path: Path) -> None:
    edit(tmp_path, "original", "bad")
    result = run("everything")
    found = states(result)
    assert not result.success and found["failed"] == ["prompt[original]"]
    assert found["held back"] == ["original[10K]", "lora_checkpoint_10K[original]"]
    result = run("train_track", parts=["train_track"], tracks=["original"], force=True)
    assert not result.success and states(result)["failed"] == [
        "lora_checkpoint_10K[original]"
    ]  # nothing else is to come


def test_runs_of_a_command_are_in_the_lists_of_their_jobs_and_fail_with_it(chosen: Settings, tmp_path: Path) -> None:
    planned = plan.wanted(definitions(), chosen)[:3]
    edit(tmp_path, "paraphrased", "bad")
    with locked(chosen):
        outcome = execute.execute_command(definitions(), chosen, planned, {"iot_pipeline/until": "x"})
    assert [artefact for artefact, _ in outcome.failed] == [ArtefactId("prompt", "paraphrased")]
    edit(tmp_path, "paraphrased", "B")
    execute.execute_command(definitions(), chosen, planned[:2], {})
    with dg.DagsterInstance.get() as instance:
        found = instance.get_runs(dg.RunsFilter(tags={".dagster/repository": "__repository__@iot_pipeline"}))
        assert len(found) == instance.get_runs_count() == 5  # two commands, three artefacts
    again, first = [run for run in found if run.job_name == "everything"]
    assert (first.status, again.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
    assert first.tags["iot_pipeline/until"] == "x"
    assert sorted(run.tags.get(PARENT_TAG, "") for run in found) == sorted(
        ["", "", first.run_id, first.run_id, again.run_id]
    )


class Hook(BaseHTTPRequestHandler):
    """A server that keeps what it is told, and answers with the status that it is asked for."""

    told: list[dict[str, Any]]
    status: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).told.append(json.loads(body))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[type[Hook], str]]:
    handler = type("Here", (Hook,), {"told": [], "status": 200})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}/secret-path"
        server.shutdown()


def tick(instance: dg.DagsterInstance, cursor: str | None) -> Any:
    repository = dg.Definitions(sensors=[failures.failed_runs], jobs=definitions().jobs).get_repository_def()
    context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
    return repository.get_sensor_def("failed_runs").evaluate_tick(context)


def test_a_failed_run_is_told_once_short_and_inert(
    chosen: Settings, tmp_path: Path, hook: tuple[type[Hook], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = hook
    monkeypatch.setenv("IOT_FAILURE_WEBHOOK", url)
    settings_module.settings.cache_clear()
    execute.dagster_home(settings_module.settings())
    with dg.DagsterInstance.get() as instance:
        cursor = tick(instance, None).cursor  # the first tick begins at the present
        edit(tmp_path, "original", "bad")
        failed = run("augment", parts=["augment"])
        cursor = tick(instance, cursor).cursor
        (message,) = handler.told  # the run of the artefact is a part of it, and not told
        assert message["run"] == failed.run_id and message["job"] == "augment"
        assert "the prompt is bad" in message["text"]
        assert "<" not in message["text"] and "abcdefghijklmnop" not in json.dumps(message)
        cursor = tick(instance, cursor).cursor
        assert len(handler.told) == 1


@pytest.mark.parametrize(("status", "problem"), [(302, "status 302"), (500, "status 500")])
def test_a_webhook_that_does_not_take_a_message_is_told_without_its_address(
    hook: tuple[type[Hook], str], status: int, problem: str
) -> None:
    handler, url = hook
    handler.status = status
    told = failures.tell_webhook(settings_module.load_settings({"IOT_FAILURE_WEBHOOK": url}), {})
    assert problem in told and "secret-path" not in told


def test_a_webhook_that_cannot_be_one_or_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(url: str) -> str:
        return failures.tell_webhook(settings_module.load_settings({"IOT_FAILURE_WEBHOOK": url}), {})

    with pytest.raises(UserError, match=r"^IOT_FAILURE_WEBHOOK: it is no URL"):
        told("file:///etc/passwd")
    assert told("http://127.0.0.1:1/x") == "ClientConnectorError"
    monkeypatch.setattr(failures, "TIMEOUT_S", 0.3)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer" in told(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_the_webhook_is_shown_nowhere() -> None:
    chosen = settings_module.load_settings({"IOT_FAILURE_WEBHOOK": "https://h/secret-path"})
    assert "secret-path" not in repr(chosen) + str(chosen.describe())
