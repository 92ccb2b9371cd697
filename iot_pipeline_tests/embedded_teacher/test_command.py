"""`iot-pipeline teacher`: the server by itself, as a user starts, asks and stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from iot_pipeline_tests.command_line import call


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "iot_pipeline", "teacher", *words]


def ask(url: str) -> int:
    """Status of one small request."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "orig_pkts: 1.000"}]}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(("faults", "status"), [("", 200), ("server_error=1", 500)])
def test_it_serves_and_stops_clean(faults: str, status: int) -> None:
    process = subprocess.Popen(
        command("--port", "0", "--faults", faults), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().split(" on ")[1].split(" ")[0]
    assert f"IOT_TEACHER={url}" in process.stdout.readline()
    assert ask(url) == status
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]


def test_a_port_in_use_and_an_unknown_fault_are_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = call("teacher", "--port", port)
    assert done.returncode == 2 and f"port {port} on 127.0.0.1 cannot be used" in done.stderr
    done = call("teacher", "--faults", "laziness=1")
    assert done.returncode == 2 and "unknown fault 'laziness'" in done.stderr and done.stderr.count("\n") == 1


def test_the_kinds_of_fault_are_listed() -> None:
    done = call("teacher", "--faults", "help")
    assert {"rate_limit", "drop", "wrong_label"} <= set(done.stdout.split())


def test_a_killed_server_leaves_no_file_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--port", "0"), stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None
    url = process.stdout.readline().split(" on ")[1].split(" ")[0]
    with openai.OpenAI(base_url=url, api_key="x") as client:
        content = b" " * 2_000_000
        name = client.files.create(file=("x.jsonl", content), purpose="batch").id
        assert client.files.content(name).read() == content
    process.kill()
    process.wait(20)
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
