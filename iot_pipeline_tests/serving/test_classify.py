"""`iot-pipeline classify` from outside: what it writes, where, and how it ends."""

from __future__ import annotations

import collections
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from iot_pipeline import cli
from iot_pipeline.commands import classify as command
from iot_pipeline.errors import UserError
from iot_pipeline.serving import run
from iot_pipeline.serving.classifier import Classifier
from iot_pipeline_tests.serving.factories import classifier, csv_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Classifier:
    made = classifier()
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    monkeypatch.setattr(command, "newest", lambda *_: ("10K", "original"))
    monkeypatch.setattr(command, "open_classifier", lambda *_: made)
    monkeypatch.setattr(command, "words", lambda *_: frozenset())
    return made


def classify(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["classify", *map(str, arguments)])


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def table(folder: Path, rows: int = 200, distinct: int = 50, name: str = "flows.csv") -> Path:
    path = folder / name
    path.write_text(csv_rows(rows, distinct))
    return path


def test_each_row_gets_an_event_in_its_order_and_equal_flows_equal_verdicts(student: Any, tmp_path: Path) -> None:
    found = events(classify(table(tmp_path)).stdout)
    assert [event["row"] for event in found] == list(range(1, 201))
    assert [event["flow"]["uid"] for event in found] == [f"C{row:06d}" for row in range(200)]
    assert found[3]["flow"]["src_ip"] == "10.0.0.1" and found[3]["time"] == "2020-09-13T12:26:43.250000Z"
    assert len({event["uid"] for event in found}) == 200
    by_group = collections.defaultdict(set)
    for event in found:
        by_group[event["flow_group"]].add((event["class"], event["probability"]))
    assert len(by_group) <= 50 and all(len(said) == 1 for said in by_group.values())
    assert found[0]["evidence_from"] == "percentiles" and len(found[0]["evidence"]) == 5
    assert student.student.scored == len(by_group)


def test_addresses_are_never_shown_to_the_student(student: Any, tmp_path: Path) -> None:
    shown: list[str] = []
    score = student.student.score_labels
    student.student.score_labels = lambda prompts, *a, **k: shown.extend(prompts) or score(prompts, *a, **k)
    classify(table(tmp_path))
    assert shown and not [text for text in shown if "10.0.0" in text or "C0000" in text]


def test_a_second_run_costs_look_ups_only(student: Any, tmp_path: Path) -> None:
    first, scored = classify(table(tmp_path), "--json"), student.student.scored
    second = classify(table(tmp_path), "--json")
    assert first.stdout == second.stdout and student.student.scored == scored
    assert json.loads(second.stderr)["cache_hits"] == 1.0
    classify(table(tmp_path), "--cache", "none")
    assert student.student.scored == 2 * scored


@pytest.mark.parametrize("explain", ["none", "unsure", "new", "all"])
def test_explanations_go_to_the_flows_that_were_asked_for(student: Any, tmp_path: Path, explain: str) -> None:
    source = table(tmp_path, rows=40, distinct=12)
    for _ in range(2):  # the second time from the cache
        found = events(classify(source, "--explain", explain).stdout)
        with_one = {event["flow_group"] for event in found if event["explanation"]}
        unsure = {event["flow_group"] for event in found if event["unsure"]}
        everyone = {event["flow_group"] for event in found}
        assert 0 < len(unsure) < len(everyone)
        assert with_one == {"none": set(), "unsure": unsure, "new": everyone, "all": everyone}[explain]
        assert student.student.explained == len(with_one)
    if explain == "all":
        assert {event["evidence_from"] for event in found} == {"explanation"}
        assert len(found[0]["evidence"]) == 2


def test_new_explains_no_flow_that_is_known(student: Any, tmp_path: Path) -> None:
    source = table(tmp_path, rows=40, distinct=12)
    classify(source)
    assert not any(event["explanation"] for event in events(classify(source, "--explain", "new").stdout))
    assert all(event["explanation"] for event in events(classify(source, "--explain", "all").stdout))
    assert not any(event["explanation"] for event in events(classify(source).stdout))


def test_files_of_every_kind_give_the_same_verdicts(student: Any, tmp_path: Path) -> None:
    source = table(tmp_path)
    packed = tmp_path / "flows.csv.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    with zipfile.ZipFile(tmp_path / "flows.zip", "w") as archive:
        archive.write(source, "flows.csv")
    import pyarrow.csv

    pq.write_table(pyarrow.csv.read_csv(source), tmp_path / "flows.parquet")
    wanted = [event["class"] for event in events(classify(source).stdout)]
    for given in (packed, tmp_path / "flows.zip", tmp_path / "flows.parquet", tmp_path / "*.csv"):
        assert [event["class"] for event in events(classify(given).stdout)] == wanted
    both = events(classify(source, packed).stdout)
    assert [event["class"] for event in both] == wanted * 2 and len({event["uid"] for event in both}) == 400


def test_ports_and_protocols_beside_blanks_are_read_though_they_are_floats(student: Any, tmp_path: Path) -> None:
    rows = pd.read_csv(table(tmp_path, 3, 3)).assign(proto=[6.0, np.nan, 17.0])
    rows["id.orig_p"], rows["uid"], rows["id.orig_h"] = [443.0, np.nan, 8080.5], [7.0, np.nan, 1e22], "fe80::1%eth0"
    rows.to_parquet(tmp_path / "flows.parquet")
    found = events(classify(tmp_path / "flows.parquet", "--to", "ecs").stdout)
    assert [event["source"] for event in found] == [
        {"address": "fe80::1%eth0", "ip": "fe80::1"} | port for port in ({"port": 443}, {}, {})
    ]
    assert [event["network"].get("transport") for event in found if "network" in event] == ["tcp", "udp"]
    own = [event["iot_pipeline"]["flow"] for event in found]
    assert [flow.get("uid") for flow in own] == ["7", None, "1e+22"]
    assert [flow.get("src_port") for flow in own] == ["443", None, "8080.5"]


def test_raw_units_are_put_on_the_scale_of_the_data_set(student: Any, tmp_path: Path) -> None:
    from iot_pipeline_tests.serving.factories import SPEC

    scaled = events(classify(table(tmp_path, 30, 30)).stdout)
    rows = [line.split(",") for line in (tmp_path / "flows.csv").read_text().splitlines()]
    for row in rows[1:]:
        for place, feature in enumerate(SPEC.features, 7):
            assert feature.scale is not None
            row[place] = repr(feature.scale.to_raw(float(row[place])))
    (tmp_path / "raw.csv").write_text("\n".join(map(",".join, rows)))
    raw = events(classify(tmp_path / "raw.csv", "--units", "raw").stdout)
    assert [event["flow_group"] for event in raw] == [event["flow_group"] for event in scaled]
    told = classify(tmp_path / "raw.csv").stderr
    assert "use --units raw" in " ".join(told.split())


def test_a_bad_row_is_named_or_counted(student: Any, tmp_path: Path) -> None:
    source = table(tmp_path)
    lines = source.read_text().splitlines()
    lines[5] = lines[5].rsplit(",", 1)[0] + ",abc"
    lines[9] = "a,b,c"
    source.write_text("\n".join(lines))
    done = classify(source, "--out", tmp_path / "out.jsonl")
    assert isinstance(done.exception, UserError) and "flows.csv, line 10" in str(done.exception)
    lines[9] = lines[8]
    source.write_text("\n".join(lines))
    done = classify(source, "--out", tmp_path / "out.jsonl")
    assert isinstance(done.exception, UserError) and "flows.csv, row 5: not a number in" in str(done.exception)
    assert "'abc'" in str(done.exception)
    done = classify(source, "--out", tmp_path / "out.jsonl", "--invalid", "skip", "--json")
    told = json.loads(done.stdout)
    assert told["flows"] == 199 and sum(told["rows_left_out"].values()) == 1
    assert [event["row"] for event in events((tmp_path / "out.jsonl").read_text())][3:6] == [4, 6, 7]


def test_the_output_is_never_overwritten(student: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    done = classify(table(tmp_path), "--out", tmp_path / "out")
    assert isinstance(done.exception, UserError) and "already exists" in str(done.exception)
    assert (tmp_path / "out").read_text() == "precious" and not (tmp_path / "out.resume").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.csv"], "'nowhere.csv' does not exist"),
        (["-", "x.csv"], "cannot be combined"),
        (["x.csv", "--to", "xml"], "--to xml"),
        (["x.csv", "--explain", "some"], "--explain some"),
        (["x.csv", "--cache", "none", "--cache-size", "9"], "--cache-size with --cache none"),
        (["x.csv", "--follow", "--to", "parquet"], "Parquet file cannot be read while it grows"),
        (["http://x/y.csv", "--follow"], "read a URL without it"),
        (["/", "--follow"], "'/' is not a file: --follow reads logs that grow"),
        (["/dev/null", "--follow"], "'/dev/null' is not a file"),
        (["logs/*.log", "--follow"], "'logs/*.log' does not exist: --follow waits for a log by its name"),
        (["/nowhere/conn.log", "--follow"], "in a folder that is there"),
        (["conn.log", "./conn.log", "--follow"], "one log is named twice"),
        (["x.csv", "--out", "-"], "omit --out to write events"),
        (["x\udcff.csv", "--follow"], "is not UTF-8: rename the file or folder"),
    ],
)
def test_wrong_options_are_told_before_a_student_is_loaded(
    student: Any, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "open_classifier", None)
    assert told in str(classify(*arguments).exception)


def test_an_archive_of_logs_is_not_followed(student: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "logs", "w") as archive:
        archive.write(table(tmp_path), "conn.log")
    assert "is packed, and will not grow" in str(classify(tmp_path / "logs", "--follow").exception)


def test_classes_without_attack_can_be_named(student: Any, tmp_path: Path) -> None:
    names = ",".join(student.spec.classes)
    assert json.loads(classify(table(tmp_path), "--json", "--benign", names).stderr)["alerts"] == 0
    assert "the classes are Normal" in str(classify(table(tmp_path), "--benign", "Good").exception)


def child(lake: Path, *arguments: object, slowness: float = 0.0, **options: Any) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "iot_pipeline_tests.serving.child", str(slowness), "classify", *map(str, arguments)]
    environment = os.environ | {"IOT_LAKE": str(lake), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, cwd=ROOT, **options)


def test_after_kills_the_output_is_that_of_an_uninterrupted_run(tmp_path: Path) -> None:
    source, chance = table(tmp_path, rows=900, distinct=600), random.Random(5)
    whole = child(tmp_path / "a", source, "--out", tmp_path / "whole", "--explain", "unsure")
    assert whole.wait(120) == 0, whole.stderr.read() if whole.stderr else ""
    out, kills, state = tmp_path / "cut", 0, tmp_path / "cut.resume" / "state.json"
    while kills < 2:
        running = child(tmp_path / "b", source, "--out", out, "--explain", "unsure", slowness=0.15)
        before = state.read_bytes() if state.exists() else b""
        while running.poll() is None and (not state.exists() or state.read_bytes() == before):
            time.sleep(0.02)  # at least one more batch each time, or this takes long on a busy machine
        time.sleep(chance.random() * 0.3)
        running.kill()
        kills += running.wait(60) == -signal.SIGKILL
        assert running.returncode in (0, -signal.SIGKILL), running.stderr.read() if running.stderr else ""
        if running.returncode == 0:
            break
    last = child(tmp_path / "b", source, "--out", out, "--explain", "unsure")
    assert last.wait(120) in (0, 2)  # 2: the run before was just done
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not state.parent.exists()


@pytest.fixture
def power_cut(student: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch, of 50 rows, fails once."""
    monkeypatch.setattr(run, "BATCH", 50)
    score, calls = student.student.score_labels, []

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise UserError("the power went")
        return score(*arguments, **named)

    student.student.score_labels = dies


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_run_goes_on_in_every_format(power_cut: None, tmp_path: Path, form: str) -> None:
    source, out = table(tmp_path, rows=200, distinct=200), tmp_path / "out"
    assert "the power went" in str(classify(source, "--out", out, "--to", form).exception)
    done = classify(source, "--out", out, "--to", form, "--json")
    assert "continued from its event 51" in done.stderr and json.loads(done.stdout)["flows"] == 200
    classify(source, "--out", tmp_path / "whole", "--to", form)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_changed_input_or_option_is_told_when_a_run_goes_on(power_cut: None, tmp_path: Path) -> None:
    source, out = table(tmp_path, rows=200, distinct=200), tmp_path / "out"
    assert "the power went" in str(classify(source, "--out", out).exception)
    assert len(events(out.read_text())) == 50
    assert "begun with another --explain" in str(classify(source, "--out", out, "--explain", "new").exception)
    kept = source.read_text()
    source.write_text(kept + kept.splitlines()[-1] + "\n")
    assert "flows.csv changed since" in str(classify(source, "--out", out).exception)
    source.write_text(kept)
    out.write_bytes(out.read_bytes() + b"half a li")
    assert classify(source, "--out", out).exit_code == 0
    assert [event["row"] for event in events(out.read_text())] == list(range(1, 201))


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    running = child(tmp_path / "a", table(tmp_path, rows=2000), stdout=subprocess.PIPE)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(60) == 141 and running.stderr.read() == b""


def test_ctrl_c_ends_it_with_130_and_it_goes_on(tmp_path: Path) -> None:
    source, out = table(tmp_path, rows=600, distinct=600), tmp_path / "out"
    running = child(tmp_path / "a", source, "--out", out, slowness=0.5)
    while not out.exists() or out.stat().st_size == 0:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    assert running.stderr is not None and b"the same command resumes here" in running.stderr.read()
    assert child(tmp_path / "a", source, "--out", out).wait(60) == 0
    assert [event["row"] for event in events(out.read_text())] == list(range(1, 601))


def test_standard_input_is_answered_as_lines_come(tmp_path: Path) -> None:
    running = child(tmp_path / "a", "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdin is not None and running.stdout is not None and running.stderr is not None
    lines = csv_rows(20, 20).splitlines(keepends=True)
    running.stdin.write("".join(lines[:11]).encode())
    running.stdin.flush()
    first = [json.loads(running.stdout.readline()) for _ in range(10)]  # while the input is still open
    lines[15] = "no flow\n"
    running.stdin.write("".join(lines[11:]).encode())
    running.stdin.close()
    rest = [json.loads(line) for line in running.stdout]
    assert running.wait(60) == 0
    assert [event["flow"]["uid"] for event in first + rest] == [f"C{n:06d}" for n in range(20) if n != 14]
    assert {event["time_of"] for event in first} == {"flow"} and {event["file"] for event in first} == {"stdin"}
    assert sum(json.loads(running.stderr.read())["rows_left_out"].values()) == 1


def test_a_followed_log_is_gone_on_with_after_a_rotation(student: Any, tmp_path: Path) -> None:
    lines = csv_rows(30, 30).splitlines(keepends=True)
    path, out = tmp_path / "flows.csv", tmp_path / "events"
    arguments = path, "--follow", "--idle-exit", "0.1", "--out", out, "--json"
    path.write_text("".join(lines[:11]))
    assert json.loads(classify(*arguments).stdout)["flows"] == 10
    with path.open("a") as handle:
        handle.write("".join(lines[11:21]))
    path.rename(tmp_path / "flows.csv.1")
    path.write_text("".join([lines[0], *lines[21:]]))
    done = classify(*arguments, "--idle-exit", "3")
    assert done.exit_code == 0, (done.exception, done.stderr)
    told = json.loads(done.stdout)
    found = events(out.read_text())
    assert [event["flow"]["uid"] for event in found] == [f"C{n:06d}" for n in range(30)]
    assert told["flows"] == 30 and "missing" not in str(told["notes"]) and len({event["uid"] for event in found}) == 30
    assert "begun with another --follow" in str(classify(path, "--out", out).exception)


def test_flows_of_no_known_class_and_drift_are_told(student: Any, tmp_path: Path) -> None:
    class Detector:
        needs_states, least = False, 0.001

        def score(self, logs: Any, states: Any, flows: Any, alarm: float) -> list[Any]:
            strange = [name == "C" for name in np.where(flows["orig_pkts"].to_numpy() > 1, "C", "")]
            return [SimpleNamespace(p_value=0.001, unknown=one, reasons=["orig_pkts = 3: far"]) for one in strange]

    student.detector = Detector()
    done = classify(table(tmp_path, 60, 60), "--json")
    told, found = json.loads(done.stderr), events(done.stdout)
    unknown = [event for event in found if event["class"] == "unknown"]
    assert 0 < len(unknown) == told["unknown"] == told["classes"]["unknown"] < 60
    assert all(event["nearest_class"] in student.spec.classes and not event["benign"] for event in unknown)
    assert unknown[0]["unknown_because"] == ["orig_pkts = 3: far"]
    assert "moved against the train pool" in told["drift"][0] and "of no known class" in told["drift"][-1]


def test_a_flow_that_the_student_was_trained_on_is_never_unknown() -> None:
    class Detector:
        needs_states, least = False, 0.001

        def score(self, logs: Any, *_: Any) -> list[Any]:
            return [SimpleNamespace(p_value=0.001, unknown=True, reasons=["far"]) for _ in logs]

    model: Any = classifier()
    flows = pd.DataFrame([dict.fromkeys(model.spec.feature_names, value) for value in (1.0, 2.0)])
    model.detector, model.learnt = Detector(), frozenset(model.groups(flows)[:1])
    known, strange = model.classify(flows)
    assert (known.unknown, strange.unknown) == (False, True)
    assert known.strange is not None and (known.strange.p_value, known.strange.reasons) == (0.001, [])


def test_a_folder_or_a_full_disk_is_one_sentence(student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is a folder" in str(classify(table(tmp_path), "--out", tmp_path).exception)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("iot_pipeline.serving.output.File.write", full)
    done = classify(table(tmp_path), "--out", tmp_path / "out")
    assert isinstance(done.exception, UserError) and "No space left on device" in str(done.exception)
