"""Benchmarks run at small size on any machine, so that they do where they are needed."""

import json
import os
import subprocess
import sys

import pytest

from iot_pipeline.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow


def test_the_gpu_benchmark_measures_every_way_or_says_why_not() -> None:
    script = PROJECT_ROOT / "benchmarks" / "gpu_training.py"
    if not script.is_file():
        pytest.skip("benchmarks are in the checkout only")
    done = subprocess.run(
        [sys.executable, str(script), "--small", "--steps", "1", "--class-rows", "24", "--print-only"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)["ways"]
    assert list(ways) == ["old", "ours", "ours_packed", "trl"]
    assert all(ways[name]["tokens_per_second"] > 0 for name in ("old", "ours", "ours_packed"))
    assert [ways[name]["class_rows"] for name in ("old", "ours", "ours_packed")] == [0, 24, 24]
    assert "tokens_per_second" in ways["trl"] or ways["trl"] == {"not_measured": "trl is not installed"}


def test_two_workers_with_postgresql_make_what_one_makes_alone_and_kills_cost_what_was_in_flight() -> None:
    script = PROJECT_ROOT / "benchmarks" / "kill_two_workers.py"
    if not script.is_file():
        pytest.skip("benchmarks are in the checkout only")
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "3", "--between", "10", "30", "--print-only"],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["kills"]) == 3 and {*found["exits"]} == {0}
    assert found["broken"] == found["made_again"] == found["differing_from_sqlite"] == []
    assert found["answered_twice"] == found["left_behind"] == 0 and found["slot_held_s"] < 120


def test_the_speed_benchmark_asks_both_ways() -> None:
    script = PROJECT_ROOT / "benchmarks" / "teacher_speed.py"
    if not script.is_file():
        pytest.skip("benchmarks are in the checkout only")
    done = subprocess.run(
        [sys.executable, str(script), "--requests", "60", "--repeats", "1", "--in-flight", "240", "--print-only"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    at_once, waiting = result["at_once"], result["waiting"]
    assert all(at_once["median"][way] > 0 for way in ("threads", "engine", "aiohttp"))
    assert at_once["times_threads"] > 0 and 0 < waiting["share_of_ideal"] < 1
    assert 0 < waiting["longer"]["share_of_ideal"] < 1
