"""A run that is stopped with Ctrl-C, or told to end, in the middle of a step."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from iot_pipeline.embedded_teacher.process import embedded_server


def owners(store: Path) -> set[str]:
    """Processes that have claimed requests, which they wait for."""
    if not store.exists():
        return set()
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5) as connection:
            return {owner for (owner,) in connection.execute("SELECT owner FROM claims")}
    except sqlite3.OperationalError:
        return set()


def test_a_stopped_run_says_so_and_goes_on_from_there(tmp_path: Path) -> None:
    made = tmp_path / "lake" / "flows" / "manifest.json"
    with embedded_server(answer_seconds=100.0) as url:
        stop_a_run(signal.SIGINT, url, tmp_path / "lake")
        before = made.stat().st_mtime_ns
        stop_a_run(signal.SIGTERM, url, tmp_path / "lake")
    assert made.stat().st_mtime_ns == before


def stop_a_run(number: signal.Signals, url: str, lake: Path) -> None:
    """Send a signal to a run that waits for the teacher; it says that it stopped."""
    store = lake / "teacher.sqlite"
    before = owners(store)
    process = subprocess.Popen(
        [sys.executable, "-m", "iot_pipeline", "run", "--until", "original"],
        text=True,
        env=os.environ | {"IOT_ROWS": "700", "IOT_LAKE": str(lake), "IOT_TEACHER": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not owners(store) - before:
            assert process.poll() is None and time.monotonic() < deadline, "the teacher was never asked"
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said.strip() == "stopped; what is made stays, and `iot-pipeline run` goes on from here"
    assert not list((lake / "original").rglob("*.*"))
