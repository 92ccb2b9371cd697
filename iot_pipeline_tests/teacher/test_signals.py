"""A call of the engine that is told to stop, by handlers that raise as Dagster's do."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.signals import run_until_stopped
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests


class Told(BaseException):
    pass


def raises(number: int, frame: object) -> None:
    raise Told(number)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    usual = signal.signal(request.param, raises)
    yield request.param
    signal.signal(request.param, usual)


def test_a_signal_within_a_callback_stops_the_loop(number: signal.Signals) -> None:
    ended = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, number)
        try:
            await asyncio.sleep(20)
        finally:
            ended.append("in order")

    with pytest.raises(Told) as told:
        run_until_stopped(main())
    assert told.value.args == (number,) and ended == ["in order"]
    assert signal.getsignal(number) is raises


def test_a_second_signal_takes_effect_at_once(number: signal.Signals) -> None:
    async def main() -> None:
        signal.raise_signal(number)
        try:
            await asyncio.sleep(20)
        finally:
            signal.raise_signal(number)
            await asyncio.sleep(20)

    with pytest.raises(Told):
        run_until_stopped(main())


def test_a_signal_that_comes_with_the_end_is_not_lost(number: signal.Signals) -> None:
    async def main() -> None:
        signal.raise_signal(number)

    with pytest.raises(Told):
        run_until_stopped(main())


def test_a_handler_that_raises_nothing_stops_the_call_all_the_same() -> None:
    usual = signal.signal(signal.SIGTERM, lambda number, frame: None)

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(20)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_stopped(main())
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_ctrl_c_is_a_keyboard_interrupt_as_ever() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(20)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_stopped(main())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    done = []

    async def main() -> None:
        done.append(threading.current_thread() is threading.main_thread())

    thread = threading.Thread(target=lambda: run_until_stopped(main()))
    thread.start()
    thread.join()
    assert done == [False]


def test_a_stopped_call_leaves_its_requests_to_the_next(number: signal.Signals, tmp_path: Path) -> None:
    requests = make_requests(80)
    check, store = checker(requests), tmp_path / "t.sqlite"
    with embedded_server(answer_seconds=30.0) as slow:
        asking = Teacher(TeacherConfig(slow, "none", store, "one", 10.0, paid=True, concurrency=20))
        timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(Told):
            asking.ask(requests, check)
    with Store(store) as kept:
        assert kept.read("SELECT count(*) FROM claims") == kept.read("SELECT count(*) FROM reservations") == [(0,)]
        assert kept.ledger()["outcomes"] == {"stopped": 20}
    with embedded_server() as quick:
        answers = Teacher(TeacherConfig(quick, "none", store, "one", 10.0, paid=True)).ask(requests, check)
    assert {answers[request.key].status for request in requests} == {"ok"}
