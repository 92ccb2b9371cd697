"""Every mistake of a user ends in one clear line and a non-zero exit; help is there for every command."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iot_pipeline.cli", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=120,
    )


@pytest.mark.parametrize("command", ["run", "status", "doctor", "ui"])
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
def test_a_mistake_is_one_line_and_a_non_zero_exit(
    environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = call("run", IOT_LAKE=str(tmp_path / "lake"), **environment)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


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


def test_the_paper_profile_without_a_key_is_found_before_anything_is_spent(tmp_path: Path) -> None:
    done = call("doctor", "--json", IOT_PROFILE="paper", IOT_LAKE=str(tmp_path), OPENAI_API_KEY="")
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["teacher"]["state"] == "error"
    assert "OPENAI_API_KEY" in findings["teacher"]["text"]


def test_status_of_a_lake_that_is_not_there(tmp_path: Path) -> None:
    done = call("status", IOT_LAKE=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "iot-pipeline run" in done.stderr
