"""Batch inference on a real Ray of this machine: answers, kills, dead replicas, broken rows, `classify --replicas`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from iot_pipeline import cli
from iot_pipeline.commands import classify as command
from iot_pipeline.errors import UserError
from iot_pipeline.inference import ray_batch, ray_blocks, ray_job, ray_session
from iot_pipeline.inference.engines import Opening
from iot_pipeline.inference.ray_batch import run_blocks
from iot_pipeline.inference.ray_blocks import Place, Pool, placed
from iot_pipeline.inference.ray_scores import ScoreLabels, Scores
from iot_pipeline.inference.ray_session import Cluster, connected
from iot_pipeline.inference.states import label_rows
from iot_pipeline.inference.student import Student
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.ray_verdicts import Answered, without_secrets
from iot_pipeline.training import ray_launch
from iot_pipeline.training.local_ray import guarded
from iot_pipeline_tests.ray_works import HashOpening, Lengths
from iot_pipeline_tests.serving.factories import classifier, csv_rows
from iot_pipeline_tests.shared import until
from iot_pipeline_tests.tiny_model import CLASSES, flow_texts, make_base
from iot_pipeline_tests.training.on_ray import started_cluster

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def silent(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all tests of this file; it was imported before its token was made."""
    ray_session.ray_package()
    with connected(None):
        yield


def table(folder: Path, texts: list[str], name: str = "given.parquet") -> Path:
    groups = [f"{place:064x}" for place in range(len(texts))]
    pq.write_table(pa.table({"flow_group": groups, "text": texts}), folder / name, row_group_size=3)
    return folder / name


def lengths(files: list[Path]) -> dict[str, int]:
    found = pa.concat_tables([pq.read_table(path).replace_schema_metadata(None) for path in files])
    return dict(zip(found["flow_group"].to_pylist(), found["length"].to_pylist(), strict=True))


@needs_ray
@pytest.mark.slow
def test_replicas_give_the_local_scores_and_states(ray: None, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    texts = list(dict.fromkeys(flow_texts(150)))
    groups = [f"{place:064x}" for place in range(len(texts))]
    pq.write_table(pa.table({"flow_group": groups, "prompt": texts}), tmp_path / "given.parquet")
    opening = Opening(str(base), None, "transformers-fp32")
    work = ScoreLabels(opening, tuple(CLASSES), "m", states=True)
    result = run_blocks(tmp_path / "given.parquet", tmp_path / "out", work, Pool(1, threads=1), silent, rows=64)
    found = Scores.of(result)
    student = Student.load(base, None, "cpu", threads=1)
    wanted, states = student.score_with_states(texts, CLASSES)
    assert found.groups == groups
    assert (found.log_probs.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert np.allclose(found.log_probs, wanted, atol=1e-5) and np.allclose(found.states, states, atol=1e-4)
    assert np.array_equal(found.label_rows, label_rows(student, CLASSES))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [block["rows"] for block in manifest["blocks"]] == [64, 64, len(texts) - 128]
    assert manifest["work"]["engine"] == student.name and manifest["blocks"][0]["seconds"] > 0


@needs_ray
@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_a_dead_replica_is_replaced(ray: None, tmp_path: Path) -> None:
    texts = [f"flow {n}" * n for n in range(1, 40)]
    texts[20], texts[38] = "broken", "die once"
    source, out, work = table(tmp_path, texts), tmp_path / "out", Lengths(tmp_path)
    with pytest.raises(UserError, match=r"^a row is broken; mend it$"):
        run_blocks(source, out, work, Pool(1), silent, rows=8)
    kept = {path: path.stat().st_mtime_ns for path in (out / "blocks").iterdir()}
    assert len(kept) == 2 and not (out / "manifest.json").exists()
    (tmp_path / "mended").touch()
    result = run_blocks(source, out, work, Pool(1), silent, rows=8)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and (tmp_path / "died").exists()
    assert list(lengths(result.files).values()) == [len(text) for text in texts]
    assert len({block["replica"] for block in result.manifest["blocks"]}) == 3  # of the first run, dead, its successor
    assert run_blocks(source, out, work, Pool(1), silent, rows=8) == result
    with pytest.raises(UserError, match="begun with another block_rows"):
        run_blocks(source, out, work, Pool(1), silent, rows=9)


class Jobs:
    """A cluster's Jobs API whose jobs run in this process, and which lets a request hang for a while."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.codes: list[int] = []
        self.sent: dict[str, Any] = {}

    def submit_job(self, entrypoint: str, **sent: Any) -> None:
        command = shlex.split(entrypoint)
        assert command[:3] == ["python", "-m", "iot_pipeline.inference.ray_job"]
        self.sent = sent
        self.codes.append(ray_job.main(command[3:]))

    def get_job_status(self, name: str) -> SimpleNamespace:
        before = (self.out / f"{name}.lease").read_text()
        until(lambda: (self.out / f"{name}.lease").read_text() != before, "the job gets signs of life meanwhile")
        value = "FAILED" if self.codes[-1] else "SUCCEEDED"
        return SimpleNamespace(value=value, is_terminal=lambda: True)

    def stop_job(self, _name: str) -> None:
        pass


@needs_ray
def test_a_job_gets_the_work_and_tells_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(source: Path, out: Path, work: Any, pool: Pool, rows: int, log: Any) -> None:
        assert pool == Pool(3, "auto", 2)
        for number, block in enumerate(ray_blocks._blocks(source, work.columns, rows, range(4))):
            told = ray_blocks.Replica(work, pool.threads)(block)
            facts = json.loads(told["facts"][0].as_py())
            if error := facts.pop("error"):
                raise UserError(error)
            done = ray_blocks.Done(number, told["table"][0].as_py(), facts)
            ray_blocks._write(ray_blocks.block_files(source, out, rows)[number], done)

    source, out, pool = table(tmp_path, ["a", "broken", "bcd", "ef"]), tmp_path / "out", Pool(3, "http://head:8265", 2)
    jobs, said = Jobs(out), list[str]()
    monkeypatch.setattr(ray_launch, "BEAT_S", 0.02)
    monkeypatch.setattr(ray_job, "connected", lambda _address: jobs)
    monkeypatch.setattr(ray_job, "answer_missing", here)
    monkeypatch.setattr(ray_job, "end_without", lambda _lease: None)
    with pytest.raises(UserError, match=r"^a row is broken"):
        run_blocks(source, out, Lengths(tmp_path), pool, said.append, rows=1)
    (tmp_path / "mended").touch()
    result = run_blocks(source, out, Lengths(tmp_path), pool, said.append, rows=1)
    assert list(lengths(result.files).values()) == [1, 6, 3, 2] and jobs.codes == [2, 0]
    assert jobs.sent["runtime_env"]["py_modules"] and said[-1] == "4 of 4 blocks on the Ray cluster"
    assert not [path for path in out.iterdir() if path.name.startswith("iot-")]


@needs_ray
@pytest.mark.slow
def test_100_000_simulated_flows_get_the_local_labels(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    script = importlib.import_module("ray_batch")
    texts = script.simulated(100_000)
    source, base = script.write(texts, tmp_path / "given.parquet"), make_base(tmp_path / "base")
    work = ScoreLabels(Opening(str(base), None, "transformers-fp32"), tuple(script.SPEC.classes), "m")
    result = run_blocks(source, tmp_path / "out", work, Pool(2, threads=1), silent)
    local = work.open(1)(pq.read_table(source))
    found = pa.concat_tables([part.replace_schema_metadata(None) for part in result.tables()])
    assert found["flow_group"].equals(local["flow_group"]) and len(found) == 100_000
    assert found["label"].equals(local["label"])
    logs = [np.array(one["log_probs"].combine_chunks().flatten()) for one in (found, local)]
    assert np.abs(np.exp(logs[0]) - np.exp(logs[1])).max() < 1e-5


@needs_ray
@pytest.mark.slow
def test_a_job_of_a_cluster_answers_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    texts, work = ["a", "broken", "bcd", "die once"], Lengths(tmp_path)
    source, out = table(tmp_path, texts), tmp_path / "out"
    with pytest.raises(UserError, match=r"no Ray cluster takes jobs at http://127.0.0.1:1 "):
        run_blocks(source, out, work, Pool(1, "http://127.0.0.1:1"), silent, rows=1)
    with guarded(), started_cluster(2) as (address, _):
        with pytest.raises(UserError, match="a row is broken"):
            run_blocks(source, out, work, Pool(1, address), silent, rows=1)
        (tmp_path / "mended").touch()
        said: list[str] = []
        result = run_blocks(source, out, work, Pool(1, address), said.append, rows=1)
    assert list(lengths(result.files).values()) == [len(text) for text in texts]
    assert "blocks on the Ray cluster" in said[0]
    assert not [path for path in out.iterdir() if path.name.startswith("iot-")]


@needs_ray
@pytest.mark.slow
def test_a_block_that_kills_every_replica_ends_the_run(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_blocks, "TRIES", 1)
    with pytest.raises(UserError, match=r"died again and again.*the same command goes on"):
        run_blocks(table(tmp_path, ["a", "die"]), tmp_path / "out", Lengths(tmp_path), Pool(1), silent, rows=1)


def test_a_student_that_cannot_be_loaded_is_told_as_an_answer(tmp_path: Path) -> None:
    block = next(ray_blocks._blocks(table(tmp_path, ["a"]), ["flow_group", "text"], 8, [0]))
    told = ray_blocks.Replica(Lengths(tmp_path, no_student=True), None)(block)
    assert json.loads(told["facts"][0].as_py())["error"] == "there is no student here; train one"
    fault = ZeroDivisionError("a fault of the program")
    assert ray_blocks._lost(fault) is fault


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"flow_group": ["a", "b"]}, "lacks the column text; it has flow_group"),
        ({"flow_group": ["a", "b"], "text": ["x", None]}, "row 2: text is empty"),
        ({"flow_group": ["a", "b", "b"], "text": ["x", "y", "z"]}, "the flow group b comes twice"),
    ],
)
def test_a_source_that_does_not_fit_is_told_before_ray_starts(
    tmp_path: Path, columns: dict[str, Any], told: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "given.parquet")
    with pytest.raises(UserError, match=told):
        ray_batch.checked_rows(tmp_path / "given.parquet", Lengths(tmp_path).columns)
    (tmp_path / "other").write_text("no Parquet")
    for name in ("other", "nowhere"):
        with pytest.raises(UserError, match=name):
            ray_batch.checked_rows(tmp_path / name, Lengths(tmp_path).columns)


def test_a_cluster_is_shared_out() -> None:
    assert placed(Pool(), Cluster(1, 2, 0)) == Place(1, 2.0, 0, 2)
    assert placed(Pool(2), Cluster(1, 2, 0)) == Place(2, 1.0, 0, 1)
    assert placed(Pool(3), Cluster(1, 2, 0)) == Place(3, 0.66, 0, 1)
    assert placed(Pool(threads=3), Cluster(4, 8, 8)) == Place(8, 4.0, 1, 3)
    assert placed(Pool(2), Cluster(3, 4, 0)) == Place(2, 4.0, 0, 4)
    with pytest.raises(UserError, match="IOT_RAY_REPLICAS=9, but Ray has 8 GPUs"):
        placed(Pool(9), Cluster(4, 8, 8))


def test_without_ray_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[ray\]', or do without IOT_BATCH=ray"):
        run_blocks(tmp_path / "given.parquet", tmp_path / "out", Lengths(tmp_path), Pool(), silent)


@needs_ray
@pytest.mark.slow
def test_classify_on_replicas_writes_what_one_student_writes(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "flows.csv"
    source.write_text(csv_rows(300, 120))
    written: dict[bool, bytes] = {}
    told: dict[bool, dict[str, Any]] = {}
    for apart in (False, True):
        monkeypatch.setenv("IOT_LAKE", str(tmp_path / f"lake-{apart}"))
        made = classifier()
        monkeypatch.setattr(command, "newest", lambda *_: ("10K", "original"))
        monkeypatch.setattr(command, "words", lambda *_: frozenset())
        monkeypatch.setattr(
            command,
            "open_classifier",
            lambda *given, made=made: replace(made, student=HashOpening()) if given[4] else made,
        )
        out = tmp_path / f"{apart}.jsonl"
        arguments = ["classify", str(source), "--out", str(out), "--json", "--explain", "unsure"]
        done = CliRunner().invoke(cli.app, [*arguments, *(["--replicas", "2"] if apart else [])])
        assert done.exit_code == 0, (done.exception, done.stderr)
        written[apart], told[apart] = out.read_bytes(), json.loads(done.stdout)
        assert not out.with_name(f"{out.name}.resume").exists()
    assert written[True] == written[False]
    for name in ("flows", "scored", "explanations", "classes"):
        assert told[True][name] == told[False][name] != 0, name
    # A second run costs look-ups only, so that Ray is not even asked.
    monkeypatch.setattr("iot_pipeline.serving.ray_verdicts.run_blocks", None)
    again = CliRunner().invoke(cli.app, ["classify", str(source), "--explain", "unsure", "--replicas", "2"])
    assert again.exit_code == 0 and again.stdout.encode() == written[True], (again.exception, again.stderr)


def test_replicas_answer_whole_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(cli.app, ["classify", "-", "--replicas", "2"])
    assert isinstance(done.exception, UserError) and "--replicas works on files only" in str(done.exception)


def test_a_flow_that_left_the_cache_is_answered_here(tmp_path: Path) -> None:
    made = replace(classifier(), student=HashOpening())
    store = VerdictCache(tmp_path / "store", "key")
    said: list[str] = []
    answered = Answered(store, made, None, said.append)
    frame = {name: [1.0, 2.0] for name in made.spec.feature_names}
    flows = pa.table({"flow_group": ["0" * 64, "1" * 64], **frame})
    wanted = classifier().classify(flows)
    assert answered.classify(flows) == answered.classify(flows) == wanted and len(said) == 1
    assert [one.explanation is not None for one in answered.explain(flows, wanted)] == [True, True]
    answered.close()


def test_nothing_secret_goes_to_replicas(tmp_path: Path) -> None:
    secret = "s3cr3t"
    settings = {
        "IOT_FAILURE_WEBHOOK": f"https://h/{secret}", "IOT_TEACHER_STORE": f"postgresql://u:{secret}@h/d",
        "IOT_TEACHER": f"https://u:{secret}@h/v1", "IOT_SOURCE": f"https://u:{secret}@h/f.csv",
    }  # fmt: skip
    chosen = classifier(**settings).settings
    assert secret.encode() in pickle.dumps(chosen)
    assert secret.encode() not in pickle.dumps(without_secrets(chosen))
