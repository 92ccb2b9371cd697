"""Every mistake of a user ends in one clear line and a non-zero exit; help is there for every command."""

import json
import os
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from iot_pipeline import cli
from iot_pipeline import settings as settings_module
from iot_pipeline.commands import console, estimate, show
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline_tests.command_line import call


@pytest.mark.parametrize("command", ["run", "status", "estimate", "doctor", "ui", "serve", "export", "merge"])
def test_help_has_an_example(command: str) -> None:
    done = call(command, "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"IOT_PROFILE": "nope"}, "no profile 'nope'"),
        ({"IOT_STAGES": "11K"}, "IOT_STAGES"),
        ({"IOT_SORCE": "x"}, "did you mean IOT_SOURCE"),
        ({"IOT_SOURCE": "/nowhere/flows.csv"}, "/nowhere/flows.csv"),
        ({"IOT_DATASET": "nope"}, "nope"),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    done = call("run", "--until", "raw_flows", IOT_LAKE=str(tmp_path / "lake"), **environment)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_asset_that_does_not_exist_leaves_no_lake_behind(tmp_path: Path) -> None:
    done = call("run", "--until", "original_10K", IOT_LAKE=str(tmp_path / "lake"))
    assert done.returncode == 2 and "no such asset; there are: attack_patterns," in done.stderr
    assert "lora_checkpoint," in done.stderr and "lora_checkpoint_30K" not in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_lake_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("run", IOT_LAKE=str(tmp_path / "file" / "lake"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write to the lake")
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = call("ui", "--port", str(taken.getsockname()[1]), IOT_LAKE=str(tmp_path))
    assert done.returncode == 2
    assert "choose one with --port" in done.stderr


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("teacher --port 99999", "--port"),
        ("teacher --answer-seconds -1", "--answer-seconds"),
        ("teacher --rpm 0", "--rpm"),
        ("status --stages 11K", "error: --stages: "),
        ("estimate --tracks new", "error: --tracks: "),
        ("ui --port 0", "--port"),
        ("serve --port 65536", "--port"),
        ("teacher --port 8100 retry", "--port is an option of the server"),
        ("verify --key public.pem", "name its folder"),
        ("verify bundle --replay original", "run --from"),
        ("verify ~nobody_of_this_name/bundle", "there is no user of the name ~nobody_of_this_name"),
        ("run --from ~nobody_of_this_name/bundle", "there is no user of the name ~nobody_of_this_name"),
        ("run --from bundle --until flows", "leave out --until"),
        ("cache export /nowhere/answers.parquet", "there is no store of answers"),
        ("cache import /nowhere/answers.parquet", "/nowhere/answers.parquet does not exist"),
        ("datasets new .", "'.' is not a file"),
        ("serve", "no lake at"),
        ("classify {table}", "no lake at"),
        ("grammar {table}", "no lake at"),
        ("export 10K original out --format merged", "no lake at"),
        ("datasets new {table} --label b --out /proc/x.yaml", "/proc/x.yaml"),
    ],
)
def test_a_wrong_use_is_told_and_writes_nothing(command: str, named: str, tmp_path: Path) -> None:
    table, lake = tmp_path / "table.csv", tmp_path / "lake"
    table.write_text("a,b\n" + "".join(f"{row % 9 + 0.5},{row % 2}\n" for row in range(40)))
    done = call(*command.format(table=table).split(), IOT_LAKE=str(lake))
    assert done.returncode == 2
    assert named in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not lake.exists()


@pytest.mark.parametrize("command", [["version"], ["datasets", "show", "farm_flow"]])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "iot_pipeline", *command], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", [["version"], ["datasets", "show", "farm_flow"], ["datasets", "list", "--json"]])
def test_output_on_a_full_disk_is_one_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "iot_pipeline", *command], stdout=full, stderr=subprocess.PIPE)
    told = b"error: No space left on device: free some space, and start the command again\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_progress_whose_reader_has_gone_falls_silent_and_the_run_goes_on() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        told = console.SilentOnceClosed(file=stream)
        told.print("made")
        assert told.quiet
        with pytest.raises(BrokenPipeError):
            console.Output(file=stream).print("results")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


@pytest.mark.parametrize("option", ["--version", "-h"])
def test_the_usual_short_ways_to_version_and_help_are_there(option: str) -> None:
    done = call(option)
    assert done.returncode == 0 and done.stdout


def test_a_ui_for_other_machines_is_refused(tmp_path: Path) -> None:
    done = call("ui", "--host", "0.0.0.0", IOT_LAKE=str(tmp_path))
    assert done.returncode == 2
    assert "ssh -L" in done.stderr


def test_the_paper_profile_without_a_key_is_found_before_anything_is_spent(tmp_path: Path) -> None:
    done = call("doctor", "--json", IOT_PROFILE="paper", IOT_LAKE=str(tmp_path), OPENAI_API_KEY="")
    told = json.loads(done.stdout)
    findings = {finding["topic"]: finding for finding in told["findings"]}
    assert told["settings"]["IOT_BASE_MODEL"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert done.returncode == 1
    assert findings["teacher"]["state"] == "error"
    assert "OPENAI_API_KEY" in findings["teacher"]["text"]


def test_doctor_reads_several_files_tells_no_password_and_makes_nothing(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x\n")
    source = f"{tmp_path}/a.csv,{tmp_path}/b.csv"
    done = call(
        "doctor",
        "--json",
        IOT_SOURCE=source,
        IOT_LAKE=str(tmp_path / "lake"),
        IOT_TEACHER="http://me:secret@127.0.0.1:9/v1",
    )
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["source"]["state"] == "ok"
    assert "secret" not in done.stdout + done.stderr
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(("table", "message"), [("a,b,Attack_type\n1,2,DOS_SYN_Hping\n", "lacks"), ("", "is empty")])
def test_a_source_that_does_not_fit_is_one_line(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "flows.csv").write_text(table)
    done = call(
        "run",
        "--json",
        "--until",
        "raw_flows",
        IOT_DATASET="rt_iot2022",
        IOT_SOURCE=str(tmp_path / "flows.csv"),
        IOT_LAKE=str(tmp_path / "lake"),
    )
    assert done.returncode == 1
    (failed,) = json.loads(done.stdout)["failed"]
    assert message in failed["reason"] and "flows.csv" in failed["reason"]
    assert "Traceback" not in done.stdout + done.stderr


def test_status_of_a_lake_that_is_not_there(tmp_path: Path) -> None:
    done = call("status", IOT_LAKE=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "iot-pipeline run" in done.stderr


def test_status_and_a_dry_run_show_names_with_brackets_whole(tmp_path: Path) -> None:
    lake = tmp_path / "la[red]ke"
    lake.mkdir()
    told = call("status", IOT_LAKE=str(lake)).stdout
    assert "la[red]ke" in told
    for track in ("original", "paraphrased", "feature_varied"):
        assert f"prompt[{track}]" in told and f"training_split_10K[{track}]" in told
    listed = call("run", "--dry-run", "--until", "paraphrased", IOT_LAKE=str(tmp_path / "none")).stdout
    assert "prompt[paraphrased]" in listed and "paraphrased[10K]" in listed and "not made yet" in listed
    assert "? unknown until flow_texts is made" in listed and "Nothing was made or sent" in listed
    assert not (tmp_path / "none").exists() and list(lake.iterdir()) == []


def test_status_names_a_file_that_its_artefact_does_not_know(tmp_path: Path) -> None:
    artefact = ArtefactId("prompt", "original")
    with Lake(tmp_path).replacing(artefact) as folder:
        finish_artefact(folder, Manifest("prompt", "original", "", "1", {}, {}, {}), set())
    places = {"IOT_LAKE": str(tmp_path)}
    assert "more.txt" not in call("status", **places).stdout
    for name in ("notes.txt", "more.txt"):
        (Lake(tmp_path).folder(artefact) / name).write_text("mine")
    rows = {row["artefact"]: row for row in json.loads(call("status", "--json", **places).stdout)}
    assert rows["prompt[original]"]["extra_files"] == ["more.txt", "notes.txt"]
    assert not any("notes.txt" in why for why in rows["prompt[original]"]["why"])  # making it again would delete it
    assert rows["raw_flows"]["extra_files"] == []
    assert "more.txt," in call("status", **places).stdout


def test_several_seeds_are_several_students_of_the_same_tensors(tmp_path: Path) -> None:
    # A process of its own: the partitions of seeds are fixed when definitions are loaded.
    command = [sys.executable, "-m", "iot_pipeline", "run", "--dry-run", "--json", "--tracks", "original"]
    variables = os.environ | {"IOT_SEEDS": "7,8", "IOT_LAKE": str(tmp_path / "none")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    listed = [row["artefact"] for row in json.loads(done.stdout)["artefacts"]]
    assert [name for name in listed if "[" in name and "_10K" in name] == [
        "training_split_10K[original]",
        *(f"{name}_10K[{seed}|original]" for name in ("lora_checkpoint",) for seed in (7, 8)),
        *(f"eval_metrics_10K[{seed}|original]" for seed in (7, 8)),
        *(f"explanation_quality_10K[{seed}|original]" for seed in (7, 8)),
        *(f"reasons_10K[{seed}|original]" for seed in (7, 8)),
    ]


@pytest.mark.parametrize("command", ["export {0} {1} out --format gguf", "explain {0} {1} x.csv out"])
@pytest.mark.parametrize(("stage", "track", "named"), [("11K", "original", "stage 11K"), ("10K", "nope", "track nope")])
def test_a_stage_or_track_that_does_not_exist_is_named(
    command: str, stage: str, track: str, named: str, tmp_path: Path
) -> None:
    done = call(*command.format(stage, track).split(), IOT_LAKE=str(tmp_path))
    assert done.returncode == 2 and f"there is no {named}: use one of" in done.stderr


def test_an_empty_lake_is_not_verified(tmp_path: Path) -> None:
    done = call("verify", IOT_LAKE=str(tmp_path))
    assert done.returncode == 2 and "holds no artefact" in done.stderr


def test_verify_of_a_lake_that_is_not_there(tmp_path: Path) -> None:
    done = call("verify", IOT_LAKE=str(tmp_path / "none"))
    assert done.returncode == 2 and done.stderr.startswith("error: no lake at ")


def test_facts_rows_and_estimates_show_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.facts({"rows_by_class": {"DoS [red]x[/red]": 3}, "file [a]": ["[/b]", ":smile:"]}, as_json=False)
    console.rows([{"name": "set[bold]", "classes": 2}], as_json=False)
    console.facts({"signed": False, "left out": None}, as_json=False)
    columns = "requests cached waiting to_ask prompt_tokens completion_tokens usd_requests usd_batch"
    part = dict.fromkeys(columns.split(), 1)
    estimate.show({
        "teacher": "http://[::1]:8100/v1", "via": "requests", "parts": [{"name": "original[10K]", **part}],
        "total": {"name": "total", **part}, "budget": None, "basis": ["of prompt[x]"],
        "time": {"requests_seconds": 1, "limited_by": "rpm", "batches": 1},
    }, as_json=False)  # fmt: skip
    told = capsys.readouterr().out
    for text in ("DoS [red]x[/red]: 3", "file [a]", "[/b]", ":smile:", "set[bold]", "http://[::1]:8100/v1",
                 "original[10K]", "of prompt[x]", "signed  no"):  # fmt: skip
        assert text in told
    assert "left out" not in told


def test_the_results_table_shows_brackets_as_they_are() -> None:
    printed = StringIO()
    row = {"model": "a[red]b", "stage": "10K", "ceiling": 0.99, "row ceiling": 0.98}
    Console(file=printed, width=150).print(show.table_of_results([row]))
    assert "a[red]b" in printed.getvalue()
    assert "can pass 0.9900 of distinct flows" in " ".join(printed.getvalue().split())
    Console(file=printed, width=150).print(show.table_of_results([row | {"ceiling": 1.0, "row ceiling": 1.0}]))
    assert "can be right on all of them" in " ".join(printed.getvalue().split())


def test_processes_that_we_start_elsewhere_see_the_files_that_were_named_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"IOT_LAKE": "lake", "IOT_SOURCE": "a.csv", "IOT_DATASET": "mine.yaml"}.items():
        monkeypatch.setenv(name, value)
    for name in ("IOT_BASE_MODEL", "IOT_PROMPTS"):  # set by the call; monkeypatch takes them back
        monkeypatch.setenv(name, "")
    cli._configure(None, None)
    settings_module.settings.cache_clear()
    assert os.environ["IOT_LAKE"] == str(tmp_path / "lake")
    assert os.environ["IOT_SOURCE"] == str(tmp_path / "a.csv")
    assert os.environ["IOT_DATASET"] == str(tmp_path / "mine.yaml")
