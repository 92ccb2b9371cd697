"""Benchmarks run at small size on any machine, so that they do where they are needed."""

import pytest

from iot_pipeline_tests.benchmark_scripts import needs_scripts, printed_result

pytestmark = [pytest.mark.slow, needs_scripts]


def test_the_gpu_benchmark_measures_every_way_or_says_why_not() -> None:
    arguments = ["--small", "--steps", "1", "--class-rows", "24", "--print-only"]
    ways = printed_result("gpu_training.py", *arguments, seconds=240)["ways"]
    assert list(ways) == ["old", "ours", "ours_packed", "trl"]
    assert all(ways[name]["tokens_per_second"] > 0 for name in ("old", "ours", "ours_packed"))
    assert [ways[name]["class_rows"] for name in ("old", "ours", "ours_packed")] == [0, 24, 24]
    assert "tokens_per_second" in ways["trl"] or ways["trl"] == {"not_measured": "trl is not installed"}


def test_two_workers_with_postgresql_make_what_one_makes_alone_and_kills_cost_what_was_in_flight() -> None:
    arguments = ["--kills", "3", "--between", "10", "30", "--print-only"]
    found = printed_result("kill_two_workers.py", *arguments, seconds=3600)
    assert len(found["kills"]) == 3 and {*found["exits"]} == {0}
    assert found["broken"] == found["made_again"] == found["differing_from_sqlite"] == []
    assert found["answered_twice"] == found["left_behind"] == 0 and found["slot_held_s"] < 120


def test_the_speed_benchmark_asks_both_ways() -> None:
    arguments = ["--requests", "60", "--repeats", "1", "--in-flight", "240", "--print-only"]
    result = printed_result("teacher_speed.py", *arguments, seconds=120)
    at_once, waiting = result["at_once"], result["waiting"]
    assert all(at_once["median"][way] > 0 for way in ("threads", "engine", "aiohttp"))
    assert at_once["times_threads"] > 0 and 0 < waiting["share_of_ideal"] < 1
    assert 0 < waiting["longer"]["share_of_ideal"] < 1
