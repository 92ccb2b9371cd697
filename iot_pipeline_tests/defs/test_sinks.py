"""Sinks get what the manifests know and no word of flows, teachers or keys; one that is down stops nothing."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.sinks import told_to_sinks
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest
from iot_pipeline.settings import PROJECT_ROOT, load_settings
from iot_pipeline.sinks import telling
from iot_pipeline.sinks.making import Made, Making
from iot_pipeline.sinks.telling import open_sinks
from iot_pipeline_tests.defs.recorder import Recorder, recording

HOSTILE = "orig_pkts: 2.773 p99 sk-abcdefghijklmnop1234567890"
PARTS = dg.StaticPartitionsDefinition(["2027|original"])
VIEWS = {"distinct": {"accuracy": 0.9, "ece": 0.03, "log_loss": 0.2, "brier": None, "calibrated": {"ece": 0.02}}}


@dg.asset(group_name="flows", code_version="7", check_specs=[dg.AssetCheckSpec("whole", asset="flows")])
def flows(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        if step.settings.data.rows == 113:
            raise UserError(f"row 5 is bad: {HOSTILE}")
        step.check("whole", False, first=HOSTILE)
        (step.folder / "flows.parquet").write_text(HOSTILE)
        step.summarise(rows=3, text=HOSTILE)
    return step.result()


@dg.asset(group_name="splits", code_version="1", deps=["flows"])
def flow_texts(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.input("flows")
        step.file(PROJECT_ROOT / "iot_pipeline" / "prompts" / "original.md")
        pq.write_table(pa.table({"text": [HOSTILE]}), step.folder / "texts.parquet")
        step.preview("texts.parquet", {"text": [("flows", "orig_pkts")]})
    return step.result()


@dg.asset(group_name="training", code_version="1", deps=["flow_texts"], partitions_def=PARTS)
def lora_checkpoint_10K(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.input("flow_texts")
        assert step.settings.student.learning_rate > 0 and step.settings.data.source
        (step.folder / "loss.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "validation_loss": 2.0}\n')
        step.summarise(steps=2, note=HOSTILE)
    return step.result()


@dg.asset(group_name="evaluation", code_version="1", deps=["lora_checkpoint_10K"], partitions_def=PARTS)
def eval_metrics_10K(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        step.input("lora_checkpoint_10K", "2027|original")
        step.json("eval.json", {"views": VIEWS, "examples": HOSTILE})
        step.summarise(accuracy_distinct=0.9)
    return step.result()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    for name, value in {
        "IOT_LAKE": str(tmp_path / "lake"), "OPENAI_API_KEY": "sk-secret", "OPENLINEAGE_API_KEY": "ol-secret",
        "IOT_SOURCE": f"{tmp_path}/secret-folder/a.csv",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(telling, "_paused", {})
    settings_module.settings.cache_clear()
    yield Lake(tmp_path / "lake")
    settings_module.settings.cache_clear()


def make(monkeypatch: pytest.MonkeyPatch, *assets: dg.AssetsDefinition, partition: str = "", **values: str) -> bool:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()
    known = [flows, flow_texts, lora_checkpoint_10K, eval_metrics_10K]
    others = [one.to_source_assets()[0] for one in known if one not in assets]
    done = dg.materialize(
        [*assets, *others], resources={"lake": LakeResource()}, partition_key=partition or None, raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(tempdir=str(settings_module.settings().lake_path.parent)),
    )  # fmt: skip
    return done.success


def test_an_artefact_that_is_damaged_in_a_bucket_is_not_fetched_to_tell_of_the_new_one(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UserError("flows: file flows.parquet is missing in the bucket")

    class Heard(list[Made]):
        setting = address = "IOT_OPENLINEAGE_URL"

        def started(self, making: Making) -> None:
            assert making.artefact == ArtefactId("flows")

        def made(self, making: Making, made: Made) -> None:
            self.append(made)

    heard = Heard()
    monkeypatch.setattr(Lake, "folder", gone)
    monkeypatch.setattr("iot_pipeline.defs.sinks.open_sinks", lambda _: [heard])
    context: Any = SimpleNamespace(instance=SimpleNamespace(root_directory="/nowhere"), run_id="r", job_name="j")
    with told_to_sinks(context, settings_module.settings(), lake, ArtefactId("flows"), print) as tell:
        tell(Manifest("flows", "", "v", "1", {}, {}, {}), {})
    assert [made.folder for made in heard] == [lake.root / "flows"]


def test_openlineage_is_told_of_every_artefact_with_inputs_versions_columns_and_settings(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording() as told:
        assert make(monkeypatch, flows, flow_texts, IOT_OPENLINEAGE_URL=told.url)
        assert make(monkeypatch, lora_checkpoint_10K, partition="2027|original")
        assert not make(monkeypatch, flows, IOT_ROWS="113")
    events = told.bodies("/api/v1/lineage")
    assert [(one["eventType"], one["job"]["name"]) for one in events] == [
        ("START", "flows"), ("COMPLETE", "flows"), ("START", "flow_texts"), ("COMPLETE", "flow_texts"),
        ("START", "lora_checkpoint_10K"), ("COMPLETE", "lora_checkpoint_10K"), ("START", "flows"), ("FAIL", "flows"),
    ]  # fmt: skip
    first, texts, student, failed = events[1], events[3], events[5], events[7]
    assert first["run"]["runId"] == events[0]["run"]["runId"] != texts["run"]["runId"]  # of one Dagster run
    assert first["run"]["facets"]["parent"]["run"] == texts["run"]["facets"]["parent"]["run"]
    manifest = lake.manifest(ArtefactId("flow_texts"))
    assert manifest is not None
    assert {(one["namespace"], one["name"], one["facets"]["version"]["datasetVersion"]) for one in texts["inputs"]} == {
        ("iot_pipeline.lake", "flows", manifest.inputs["flows@"]),
        ("file", "iot_pipeline/prompts/original.md", manifest.settings["file iot_pipeline/prompts/original.md"]),
    }
    output = texts["outputs"][0]
    assert output["facets"]["version"]["datasetVersion"] == manifest.data_version
    assert [(one["name"], one["type"]) for one in output["facets"]["schema"]["fields"]] == [("text", "string")]
    (source,) = output["facets"]["columnLineage"]["fields"]["text"]["inputFields"]
    assert (source["name"], source["field"]) == ("flows", "orig_pkts")
    assert first["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    tags = {one["key"]: one["value"] for one in first["run"]["facets"]["tags"]["tags"]}
    assert tags["code_version"] == "7" and tags["checks_failed"] == "whole"
    assert student["outputs"][0]["name"] == "lora_checkpoint_10K[2027|original]"
    settings = {one["key"]: one["value"] for one in student["run"]["facets"]["executionParameters"]["parameters"]}
    assert float(settings["learning_rate"]) > 0 and settings["source"] == "a.csv"
    assert failed["run"]["facets"]["errorMessage"]["message"] == "UserError"
    assert {headers.get("Authorization") for _, headers, _ in told.requests} == {"Bearer ol-secret"}
    assert "ol-secret" not in json.dumps(events)
    nothing_secret(told, lake)


def test_mlflow_gets_one_run_a_student_with_settings_curve_metrics_and_links(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    with recording() as told:
        assert make(monkeypatch, flows, flow_texts, IOT_MLFLOW_URI=told.url)
        assert told.requests == []  # of no student
        (lake.root.parent / "ui.address").write_text("http://127.0.0.1:3000")
        assert make(monkeypatch, lora_checkpoint_10K, partition="2027|original")
        for _ in range(2):  # a second evaluation is of the same student
            assert make(monkeypatch, eval_metrics_10K, partition="2027|original")
    (run,) = told.runs.values()
    assert told.experiments == {"iot_pipeline/lake": "1"} and run["info"]["status"] == "FINISHED"
    params = {one["key"]: one["value"] for one in run["data"]["params"]}
    assert float(params["learning_rate"]) > 0 and params["source"] == "a.csv"
    values = {(one["key"], int(one.get("step", 0))): one["value"] for one in run["data"]["metrics"]}
    assert values == {
        ("loss", 1): 2.5, ("validation_loss", 2): 2.0, ("lora_checkpoint/steps", 0): 2.0,
        ("eval_metrics/accuracy_distinct", 0): 0.9, ("eval_metrics/ece_distinct", 0): 0.03,
        ("eval_metrics/calibrated_ece_distinct", 0): 0.02, ("eval_metrics/log_loss_distinct", 0): 0.2,
    }  # fmt: skip
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    page = "http://127.0.0.1:3000/lake/eval_metrics_10K/2027/original/manifest.json"
    assert tags["iot_pipeline.manifest.eval_metrics"] == page and tags["iot_pipeline.track"] == "original"
    assert {path.split("/")[-1] for path, _, _ in told.requests} <= {
        "get-by-name", "create", "search", "get", "update", "log-batch",
    }  # fmt: skip
    nothing_secret(told, lake)


def nothing_secret(told: Recorder, lake: Lake) -> None:
    """Fail where a key, a word of a flow or an error, or a folder of this machine was sent."""
    text = told.text()
    for word in ("sk-", "orig_pkts:", "2.773", "is bad", "secret-folder", str(lake.root), str(Path.home()) + "/"):
        assert word not in text, word


def test_real_artefacts_send_no_text_of_flows_and_no_folder(reported: Path) -> None:
    there = Lake(reported, read_only=True)
    texts = pq.read_table(there.folder(ArtefactId("flow_texts")) / "texts.parquet")["text"].to_pylist()
    answers = (there.folder(ArtefactId("original", "10K")) / "track.jsonl").read_text().splitlines()
    words = {line.split(" p")[0] for text in texts[:50] for line in text.splitlines()}
    sentences = {json.loads(one)["messages"][1]["content"].split(". ")[0] for one in answers}
    with recording() as told:
        (sink,) = open_sinks(load_settings({"IOT_OPENLINEAGE_URL": told.url}))
        for artefact in there.artefacts():
            manifest = there.manifest(artefact)
            assert manifest is not None
            making = Making(artefact, manifest.provenance["run_id"], "job", "lake", "")
            sink.made(making, Made(manifest, there.folder(artefact)))
    text = told.text()
    assert len(told.requests) > 10 and len(words) > 100
    assert not [word for word in {*words, *sentences} if word in text]
    for word in (str(there.root), str(PROJECT_ROOT), str(Path.home()) + "/"):
        assert word not in text


@pytest.mark.parametrize("how", ["closed", "silent", "error", "redirect"])
@pytest.mark.parametrize("setting", ["IOT_OPENLINEAGE_URL", "IOT_MLFLOW_URI"])
def test_a_sink_that_is_down_stops_nothing_and_is_named_once(
    how: str, setting: str, lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if setting == "IOT_MLFLOW_URI":
        pytest.importorskip("mlflow")
    monkeypatch.setattr("iot_pipeline.sinks.openlineage.TIMEOUT_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    progress = logging.getLogger("iot_pipeline.progress")
    progress.addHandler(caplog.handler)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with listening, recording() as other, recording(other.url if how == "redirect" else "") as told:
        told.status = 503
        url = told.url if how in ("error", "redirect") else f"http://user:pass-word@127.0.0.1:{port}"
        if how == "closed":
            listening.close()
        assert make(monkeypatch, flows, flow_texts, **{setting: url})
        assert make(monkeypatch, lora_checkpoint_10K, partition="2027|original")
        assert make(monkeypatch, eval_metrics_10K, partition="2027|original")
        assert other.requests == []
    progress.removeHandler(caplog.handler)
    notes = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "note"]
    assert len(notes) == 1 and notes[0].startswith(f"{setting} does not take what it is told (")
    assert "pass-word" not in caplog.text and lake.manifest(ArtefactId("eval_metrics_10K", "2027|original"))


def test_a_sink_is_tried_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    class Down:
        setting, address, tries = "IOT_X", "http://x", 0

        def send(self) -> None:
            self.tries += 1
            raise OSError("down")

    sink, said, clock = Down(), list[str](), [0.0]
    monkeypatch.setattr(telling, "_paused", {})
    monkeypatch.setattr(telling.time, "monotonic", lambda: clock[0])
    for now in (1.0, 2.0, 60.0, 62.0, 63.0):
        clock[0] = now
        telling.tell([sink], lambda one: one.send(), said.append)  # type: ignore[list-item, attr-defined]
    assert sink.tries == 2 and len(said) == 1


def test_addresses_are_judged_and_never_shown() -> None:
    for name in ("IOT_OPENLINEAGE_URL", "IOT_MLFLOW_URI"):
        with pytest.raises(UserError) as error:
            load_settings({name: "file:/home/me/hidden-word"})
        assert str(error.value) == f"{name}: it is no URL; write it as https://host"
        assert "hidden-word" not in str(load_settings({name: "https://host/?key=hidden-word"}))


def test_a_missing_library_is_named_before_anything_is_made(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")

    monkeypatch.setitem(__import__("sys").modules, "iot_pipeline.sinks.mlflow", None)
    with pytest.raises(UserError, match="pip install -e"):
        open_sinks(load_settings({"IOT_MLFLOW_URI": "http://127.0.0.1:9"}))
    assert not make(monkeypatch, flows, IOT_MLFLOW_URI="http://127.0.0.1:9")
    assert lake.manifest(ArtefactId("flows")) is None
