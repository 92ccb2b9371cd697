"""The whole job as a user runs it, offline, on a few hundred simulated rows; then again, changed, and killed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving.classifier import UNKNOWN
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.command_line import call
from iot_pipeline_tests.flows.reading.zeek_logs import unlabelled_pair
from iot_pipeline_tests.read_only import cannot_write, lock, run_unprivileged, unlock

SPEC = load_spec("farm_flow")
PROMPTS = Path(__file__).parent.parent / "iot_pipeline" / "prompts"
SMALL = {
    "IOT_ROWS": "700",
    "IOT_BASE_STEPS": "2",
    "IOT_TRAIN_MAX_STEPS": "2",
    "IOT_TRAIN_STEP_ROWS": "8",
    "IOT_CLASS_ROWS": "4",
    "IOT_CLASS_COPIES": "1",
    "IOT_VALIDATION_FLOWS": "10",
    "IOT_EXPLAINED_FLOWS": "3",
    "IOT_BENCHMARK_SECONDS": "1",
    "IOT_AUDIT_ROWS": "32",
    "IOT_AUDIT_WORDS": "200",
    "IOT_EXPLANATION_WORDS": "30",
    "IOT_PROCESSES": "1",  # several are tested where training is; here each would load torch once more
}


HUNG_S = 1800  # a process that takes longer hangs; eight times the run on a busy machine


def environment(lake: Path, prompts: Path) -> dict[str, str]:
    return SMALL | {"IOT_LAKE": str(lake), "IOT_PROMPTS": str(prompts)}


def run(lake: Path, prompts: Path, *arguments: str) -> dict[str, Any]:
    done = call("run", "--json", *arguments, **environment(lake, prompts))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for path in PROMPTS.glob("*.md"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """A lake whose first `run` was killed (SIGKILL, no chance to tidy up) while the teacher was at work."""
    folder = tmp_path_factory.mktemp("lake")
    store = folder / "teacher.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-m", "iot_pipeline", "run"],
        env=os.environ | environment(folder, prompts),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + HUNG_S
        while answers(store) < 20 and process.poll() is None:
            assert time.monotonic() < deadline, "the teacher was never asked"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return folder


def answers(store: Path) -> int:
    """Answers in the store (0 while there is none)."""
    if not store.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.fixture(scope="module")
def first(lake: Path, prompts: Path) -> dict[str, Any]:
    """What the run after the kill reports; it is a process of its own, as a user's, and later commands are not."""
    done = subprocess.run(
        [sys.executable, "-m", "iot_pipeline", "run", "--json"],
        env=os.environ | environment(lake, prompts),
        capture_output=True,
        text=True,
        timeout=HUNG_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def materialised(lake: Path) -> set[str]:
    with dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        return {key.to_user_string() for key in instance.all_asset_keys()}


def test_the_run_after_a_kill_keeps_what_was_finished(first: dict[str, Any]) -> None:
    assert "raw_flows" in first["fresh"]
    assert "evaluation_split" in first["fresh"]
    assert first["failed"] == []
    assert first["left"] == []


def test_no_answer_is_asked_for_twice(first: dict[str, Any], lake: Path) -> None:
    with sqlite3.connect(lake / "teacher.sqlite") as connection:
        twice = connection.execute(
            "SELECT key FROM attempts WHERE outcome = 'answered' GROUP BY key HAVING count(*) > 1"
        ).fetchall()
    assert answers(lake / "teacher.sqlite") > 100
    assert twice == []


def test_every_asset_of_the_graph_is_materialised(first: dict[str, Any], lake: Path) -> None:
    expected = {
        "raw_flows",
        "flows",
        "flow_profile",
        "dedup_report",
        "label_conflicts",
        "dataset_mismatch",
        "attack_patterns",
        "sample_comparison",
        "evaluation_split",
        "training_order",
        "flow_texts",
        "leakage_report",
        "automl_baseline",
        "prompt",
        "original",
        "paraphrased",
        "feature_varied",
        "training_split_10K",
        "base_model",
        "lora_checkpoint_10K",
        "eval_metrics_10K",
        "explanation_quality_10K",
        "reason_baselines",
        "reasons_10K",
        "inference_benchmark",
        "track_comparison",
        "cost_report",
        "claims_audit",
        "paper_report",
        "model_card",
    }
    assert expected <= materialised(lake)


def test_the_results_hold_every_track_and_both_baselines(first: dict[str, Any]) -> None:
    models = {(row["model"], row["stage"]) for row in first["results"]}
    assert {("original", "10K"), ("paraphrased", "10K"), ("feature_varied", "10K")} <= models
    assert {("AutoML", "10K"), ("AutoML", "ALL")} <= models
    (said,) = first["on_tracks"]
    assert said.startswith("One seed: no verdict on tracks.")


def test_the_report_says_that_nothing_in_it_is_the_real_thing(first: dict[str, Any]) -> None:
    text = Path(first["report"]).read_text()
    for word in ("SIMULATED", "EMBEDDED", "TINY"):
        assert word in text


def test_the_ui_is_told_who_answered(first: dict[str, Any], lake: Path) -> None:
    with dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("original"))
        assert event is not None and event.asset_materialization is not None
        told = [name for name in event.asset_materialization.metadata if name.startswith("openai.")]
    assert told and all(name.startswith("openai.embedded-analyst.") for name in told)


def test_a_second_run_does_nothing(first: dict[str, Any], lake: Path, prompts: Path) -> None:
    again = run(lake, prompts)
    assert again["made"] == []
    assert len(again["fresh"]) == len(first["made"]) + len(first["fresh"])


def test_another_lake_of_the_same_flows_takes_the_base_that_was_built(
    first: dict[str, Any], lake: Path, prompts: Path, tmp_path: Path
) -> None:
    run(tmp_path, prompts, "--until", "base_model")
    built, taken = (json.loads((root / "base_model" / "manifest.json").read_text()) for root in (lake, tmp_path))
    assert "kept_base" in taken["summary"] and "kept_base" not in built["summary"]
    assert built["data_version"] == taken["data_version"]


def test_explanations_are_measured_as_written_and_held_to_their_flows(first: dict[str, Any], lake: Path) -> None:
    found = json.loads((lake / "explanation_quality_10K" / "2027" / "original" / "quality.json").read_text())
    free, grounded = found["aggregate"], found["grounded"]["aggregate"]
    assert free["explained"] == grounded["explained"] == 3
    assert grounded["numbers_grounded"] in (None, 1.0) and grounded["values_true"] in (None, 1.0)


def test_a_student_names_and_explains_new_flows_as_it_was_evaluated(
    first: dict[str, Any], lake: Path, prompts: Path, tmp_path: Path
) -> None:
    flows = pq.read_table(lake / "flows" / "flows.parquet").to_pandas().drop_duplicates("flow_group")
    scored = pq.read_table(lake / "eval_metrics_10K" / "2027" / "original" / "predictions.parquet").to_pandas()
    scored = scored.set_index("flow_group")
    known = flows[flows["flow_group"].isin(scored.index)].head(3)
    new = known.iloc[[0, 1, 2, 0]]
    new.drop(columns=["row_id", "label", "flow_group", "occurrence"]).to_csv(tmp_path / "new.csv", index=False)
    arguments = "10K", "original", str(tmp_path / "new.csv"), str(tmp_path / "answers.jsonl")
    done = call("explain", *arguments, "--json", **environment(lake, prompts))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["distinct_flows"], told["decoding"]) == (4, 3, "grounded")
    assert any(label.startswith("TINY") for label in told["labels"])
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    wanted = scored.loc[new["flow_group"]]
    assert [answer["row"] for answer in answers] == [1, 2, 3, 4]
    assert all(set(answer["set"]) <= set(wanted.columns) for answer in answers)
    assert told["unsure"] == sum(len(answer["set"]) != 1 for answer in answers)
    assert told["out_of_range"] == sum(bool(answer["out_of_range"]) for answer in answers)
    assert [answer["nearest_class"] for answer in answers] == wanted.idxmax(axis=1).tolist()
    assert [answer["probability"] for answer in answers] == pytest.approx(np.exp(wanted.max(axis=1)).tolist(), abs=1e-4)
    assert all(answer["answer"].startswith(f"CLASSIFICATION: {answer['nearest_class']}") for answer in answers)
    assert all(a["decoding"] == "grounded" and a["class"] in (a["nearest_class"], "unknown") for a in answers)
    assert not any("ungrounded number" in why for answer in answers for why in answer["unsupported"])
    assert {**answers[0], "row": 4} == answers[3] and all(isinstance(answer["unsupported"], list) for answer in answers)


def test_a_student_is_exported_and_measured_beside_itself(
    first: dict[str, Any], lake: Path, prompts: Path, tmp_path: Path
) -> None:
    arguments = "10K", "original", str(tmp_path / "out"), "--format", "gguf", "--quantisation", "f32", "--flows", "24"
    done = call("export", *arguments, "--json", **environment(lake, prompts))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["comparison"]["agreeing"] == told["comparison"]["flows"] == 24 and told["vocabulary"]["differing"] == 0
    assert told["temperature"] > 0 and told["comparison"]["explained"] == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(word in card for word in ("SIMULATED", "EMBEDDED", "TINY", "24 of 24"))


def estimate(lake: Path, prompts: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    return call("estimate", "--json", **environment(lake, prompts) | changed)


def asked_since(lake: Path, track: str) -> set[str]:
    """Keys that the latest making of a track had to ask."""
    rows = pq.read_table(lake / track / "10K" / "provenance.parquet").to_pylist()
    return {row["key"] for row in rows if row["from_cache"] is False}


def test_an_estimate_of_data_that_is_not_made_names_the_command_that_makes_it(
    first: dict[str, Any], lake: Path, prompts: Path
) -> None:
    done = estimate(lake, prompts, IOT_SEED="1")
    assert done.returncode == 2 and "seed changed; `iot-pipeline run --until flow_texts`" in done.stderr


def test_an_edited_prompt_remakes_exactly_what_depends_on_it(first: dict[str, Any], lake: Path, prompts: Path) -> None:
    path = prompts / "paraphrased.md"
    path.write_text(path.read_text() + "\nKeep each sentence short.\n")
    estimated = json.loads(estimate(lake, prompts).stdout)
    before = state_of(lake)
    listed = run(lake, prompts, "--dry-run")
    assert state_of(lake) == before
    made = run(lake, prompts)["made"]
    assert_listed(listed, made, path)
    to_ask = {part["name"]: part["to_ask"] for part in estimated["parts"]}
    repeats = to_ask.pop("paraphrased[10K]")
    assert repeats == len(asked_since(lake, "paraphrased")) > 50 and set(to_ask.values()) == {0}
    assert estimated["total"]["cached"] > 100 and estimated["budget"] is None and not estimated["paid"]
    tracks = {name for name in made if "[" in name}
    assert "paraphrased[10K]" in tracks
    assert "lora_checkpoint_10K[2027|paraphrased]" in tracks
    assert all("paraphrased" in name for name in tracks)
    assert {name for name in made if "[" not in name} <= {
        "study",
        "track_comparison",
        "cost_report",
        "claims_audit",
        "paper_report",
        "model_card",
        "inference_benchmark",
    }


def state_of(lake: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in lake.rglob("*") if path.is_file()}


def assert_listed(listed: dict[str, Any], made: list[str], prompt: Path) -> None:
    """A dry run after an edited prompt told what the run then made, why, and what it asked."""
    rows = {row["artefact"]: row for row in listed["artefacts"]}
    assert [name for name in rows if name in made] == made
    track = rows["paraphrased[10K]"]
    assert {name for name in rows if "[" in name} == {name for name in made if "[" in name}
    assert rows["prompt[paraphrased]"]["why"] == [f"file {prompt} changed"]
    root = f"follows from prompt[paraphrased]: file {prompt} changed"
    assert all(root in row["why"] for name, row in rows.items() if name != "prompt[paraphrased]")
    assert track["requests"] == listed["total"]["requests"] > 50 and track["usd"] == 0
    assert all(row["seconds"] > 0 for row in rows.values()) and listed["total"]["seconds_unknown"] == 0


READ_ONLY = """
import sys
from iot_pipeline.cli import app
answers, logs, told, table = sys.argv[1:]
for arguments in ("status", "verify", "run --dry-run", "estimate", f"cache export {answers}", "doctor",
                  f"explain 10K original {logs} {told} --classes-only", "datasets show farm_flow",
                  f"datasets check farm_flow {table}"):
    print("##", arguments)
    try:
        app(arguments.split(), standalone_mode=False)
    except SystemExit as error:
        if error.code:
            print("exit", error.code)
"""


def labelled(folder: Path) -> str:
    """A table of simulated flows."""
    simulate_farm_flow(folder / "table.parquet", 1400)
    return str(folder / "table.parquet")


def test_commands_that_only_read_work_on_a_lake_that_may_only_be_read(
    first: dict[str, Any], lake: Path, prompts: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy, symlinks=True)
    before = state_of(copy)
    answered, told = str(tmp_path / "answers.parquet"), str(tmp_path / "told.jsonl")
    paths = [answered, unlabelled_pair(tmp_path, 6), told, labelled(tmp_path)]
    lock(copy)
    try:
        assert cannot_write(copy)
        done = run_unprivileged(READ_ONLY, *paths, **environment(copy, prompts))
    finally:
        unlock(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    _, status, verified, dry, estimated, _, examined, explained, shown, checked = done.stdout.split("## ")
    assert " 0 stale, 0 missing" in status and "prompt[original]" in status
    assert "all as their manifests say" in verified and "Nothing to do" in dry
    assert "What the teacher embedded" in estimated and "original[10K]" in estimated
    assert pq.read_metadata(answered).num_rows == answers(lake / "teacher.sqlite")
    assert "may only be read" in " ".join(examined.split()) and "exit" not in done.stdout.replace(checked, "")
    named = [json.loads(line)["class"] for line in Path(told).read_text().splitlines()]
    assert len(named) == 6 and set(named) <= {*SPEC.classes, UNKNOWN} and "distinct flows" in explained
    assert "licence" in shown and "1,400" in checked.replace("1400", "1,400")
    assert state_of(copy) == before


def test_verify_and_the_results_table_name_a_digit_that_was_changed(
    first: dict[str, Any], lake: Path, prompts: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(lake, copy, symlinks=True)
    path = copy / "track_comparison" / "track_comparison.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    done = call("run", "--until", "raw_flows", **environment(copy, prompts))
    assert done.returncode == 2 and "Accuracy on the one test set" not in done.stdout
    assert "not shown: track_comparison: file track_comparison.json was changed (expected sha256 " in done.stderr
    done = call("verify", "--json", **environment(copy, prompts))
    assert done.returncode == 1
    (mismatch,) = json.loads(done.stdout)["mismatches"]
    assert (mismatch["artefact"], mismatch["file"]) == ("track_comparison", "track_comparison.json")


def test_status_names_what_a_changed_setting_makes_stale(first: dict[str, Any], lake: Path, prompts: Path) -> None:
    done = call("status", "--json", **environment(lake, prompts) | {"IOT_LEARNING_RATE": "0.004"})
    stale = {row["artefact"]: row["why"] for row in json.loads(done.stdout) if row["state"] == "stale"}
    tracks = ("original", "paraphrased", "feature_varied")
    measured = ("lora_checkpoint", "eval_metrics", "explanation_quality", "reasons")
    staged = {f"{asset}_10K[2027|{track}]" for asset in measured for track in tracks}
    gathered = {"claims_audit", "inference_benchmark", "model_card", "paper_report", "study", "track_comparison"}
    assert set(stale) == staged | {"paper_protocol"} | gathered
    assert stale["lora_checkpoint_10K[2027|original]"] == stale["paper_protocol"] == ["setting learning_rate changed"]
    root = "follows from lora_checkpoint_10K[2027|original]: setting learning_rate changed"
    assert stale["eval_metrics_10K[2027|original]"] == [root]
    assert (
        root in stale["paper_report"]
        and "follows from paper_protocol: setting learning_rate changed" in stale["paper_report"]
    )
