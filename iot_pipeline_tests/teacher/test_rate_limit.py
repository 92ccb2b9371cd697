"""Limits a minute: what a server says of its own is kept to before it has to refuse."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.rate_limit import Quota, duration, seconds_of
from iot_pipeline_tests.teacher.flows import checker, make_requests


def told(limit: object, left: object, reset: str, kind: str = "requests") -> dict[str, str]:
    """The headers of one kind."""
    said = {"limit": str(limit), "remaining": str(left), "reset": reset}
    return {f"x-ratelimit-{name}-{kind}": value for name, value in said.items()}


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A clock that stands, except where requests are really sent."""
    if "tmp_path" not in request.fixturenames:
        monkeypatch.setattr("iot_pipeline.teacher.rate_limit.time.monotonic", lambda: 1000.0)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("250ms", 0.25), ("1s", 1.0), ("1.5s", 1.5), ("6m0s", 360.0), ("7m12.5s", 432.5), ("23h59m", 86_340.0),
     ("1d", 86_400.0), ("", 0.0), ("soon", 0.0), ("5s soon", 0.0), ("-3s", 0.0)],
)  # fmt: skip
def test_durations(said: str, seconds: float) -> None:
    assert seconds_of(said) == seconds


@given(st.floats(0.001, 200_000))
def test_a_duration_is_read_as_it_was_written(seconds: float) -> None:
    assert seconds_of(duration(seconds)) == pytest.approx(seconds, abs=0.001, rel=1e-5)


def test_what_is_left_is_sent_and_no_more() -> None:
    quota = Quota(None, None)
    assert quota.admit(10**9) == 0
    quota.answered(10**9)
    assert quota.learn(told(600, 2, "59.8s")) == ["600 requests"]
    assert [quota.admit(1) for _ in range(2)] == [0, 0]
    assert quota.admit(1) == pytest.approx(0.1, rel=0.01)  # 600 a minute
    assert quota.learn(told(600, 5, "59.5s")) == []
    assert quota.admit(1) == pytest.approx(0.1, rel=0.01)  # those 5 are of a moment before ours were sent


def test_what_is_on_its_way_is_not_left() -> None:
    quota = Quota(None, None)
    assert [quota.admit(100) for _ in range(3)] == [0, 0, 0]
    quota.answered(100)
    quota.learn(told(60, 3, "57s") | told(60_000, 1000, "59s", "tokens"))  # the server may not have seen the other two
    assert quota.admit(100) == 0
    assert quota.admit(100) == pytest.approx(1.0)


def test_the_slower_of_both_kinds_holds() -> None:
    quota = Quota(None, None)
    quota.learn(told(600, 600, "0ms") | told(6000, 100, "59s", "tokens"))
    assert quota.admit(100) == 0
    assert quota.admit(50) == pytest.approx(0.5)


def test_more_than_a_server_tells_of_is_for_it_to_refuse() -> None:
    quota = Quota(None, None)
    quota.learn(told(1000, 1000, "0s", "tokens"))
    assert quota.admit(5000) == 0
    assert 0 < quota.admit(5000) < math.inf


def test_what_was_set_here_holds_beside_it() -> None:
    quota = Quota(1, None)
    quota.learn(told(600, 600, "0s"))
    assert quota.admit(1) == 0
    assert quota.admit(1) == pytest.approx(60.0)
    assert quota.headers()["x-ratelimit-limit-requests"] == "1"


@pytest.mark.parametrize(
    "said", [{}, told("", 5, "1s"), told(10, "", "1s"), told(10, 11, "1s"), told(0, 0, "1s"), told(10, -1, "1s"),
             told("many", "few", "1s"), told("1" * 400, "1" * 400, "1s"), told("²", "²", "1s")],
)  # fmt: skip
def test_what_makes_no_sense_is_not_kept_to(said: dict[str, str]) -> None:
    quota = Quota(None, None)
    assert quota.learn(said) == []
    assert [quota.admit(10**9) for _ in range(50)] == [0] * 50


def test_a_window_longer_than_a_minute_is_tried_again_after_a_share_of_one() -> None:
    quota = Quota(None, None)
    quota.learn(told(200, 0, "23h59m"))
    assert quota.admit(1) == pytest.approx(0.3)


def test_a_server_that_tells_of_its_limits_never_has_to_refuse(tmp_path: Path) -> None:
    requests, said = make_requests(310), list[str]()
    with embedded_server(rpm=300, tpm=10_000_000) as url:
        asking = Teacher(TeacherConfig(url, "none", tmp_path / "t.sqlite", "s", None, concurrency=16, log=said.append))
        assert len(asking.ask(requests, checker(requests))) == 310
    assert asking.summary.outcomes == {"answered": 310}
    assert sum("tells of its limits, which are kept to: 300 requests, 10,000,000 tokens" in line for line in said) == 1
