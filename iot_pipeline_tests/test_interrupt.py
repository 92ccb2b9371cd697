"""A run that is stopped with Ctrl-C, or told to end, in the middle of a step."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iot_pipeline.embedded_teacher.process import embedded_server


def asked(store: Path) -> int:
    """Requests that the run has claimed, and waits for."""
    if not store.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5) as connection:
            return int(connection.execute("SELECT count(*) FROM claims").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_and_goes_on_from_there(number: signal.Signals, tmp_path: Path) -> None:
    with embedded_server(answer_seconds=100.0) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "iot_pipeline", "run", "--until", "original"],
            text=True,
            env=os.environ | {"IOT_ROWS": "700", "IOT_LAKE": str(tmp_path / "lake"), "IOT_TEACHER": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 100
            while not asked(tmp_path / "lake" / "teacher.sqlite"):
                assert process.poll() is None and time.monotonic() < deadline, "the teacher was never asked"
                time.sleep(0.05)
            os.kill(process.pid, number)
            _, said = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said.strip() == "stopped; what is made stays, and `iot-pipeline run` goes on from here"
    assert (tmp_path / "lake" / "flows" / "manifest.json").exists()
    assert not list((tmp_path / "lake" / "original").rglob("*.*"))
