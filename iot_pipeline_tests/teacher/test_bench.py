"""Replies are judged when it is quiet, the oldest first, and each exactly once."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.teacher.online import QUIET_S, Bench

Judged = list[int]


def trial(after: Callable[[Bench, Judged], Awaitable[None]], concurrency: int = 6) -> Judged:
    """The numbers of the replies in the order in which they were judged; an odd one is finished by it, 13 breaks it."""
    judged = Judged()

    def judge(tries: int, *rest: object) -> bool:
        judged.append(tries)
        if tries == 13:
            raise ArithmeticError("13")
        return tries % 2 == 1

    run: Any = SimpleNamespace(judge=judge, teacher=SimpleNamespace(concurrency=concurrency))
    asyncio.run(after(Bench(run), judged))  # type: ignore[arg-type]
    return judged


def coming(bench: Bench, number: int) -> "asyncio.Task[bool]":
    """A worker that has a reply."""
    return asyncio.create_task(bench.judge(number, None, None))  # type: ignore[arg-type]


def test_all_of_a_burst_are_judged_after_it_in_order() -> None:
    async def burst(bench: Bench, judged: Judged) -> None:
        tasks = []
        for number in range(3):
            tasks.append(coming(bench, number))
            await asyncio.sleep(0)
        assert judged == []
        assert await asyncio.gather(*tasks) == [False, True, False]

    assert trial(burst) == [0, 1, 2]


def test_where_they_never_stop_coming_no_more_wait_than_half_of_what_may_be_in_flight() -> None:
    async def flood(bench: Bench, judged: Judged) -> None:
        tasks = []
        for number in range(12):
            tasks.append(coming(bench, number))
            await asyncio.sleep(0)
            assert number + 1 - len(judged) <= 3
        await asyncio.gather(*tasks)

    assert trial(flood) == list(range(12))


def test_a_reply_whose_worker_is_cancelled_is_judged_once() -> None:
    async def cancelled(bench: Bench, judged: Judged) -> None:
        tasks = [coming(bench, number) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await asyncio.gather(*tasks, return_exceptions=True) != [False, True, False]
        await asyncio.sleep(5 * QUIET_S)

    assert sorted(trial(cancelled)) == [0, 1, 2]


def test_what_breaks_a_judgement_reaches_its_worker_only() -> None:
    async def broken(bench: Bench, judged: Judged) -> None:
        tasks = [coming(bench, number) for number in (12, 13, 14)]
        with pytest.raises(ArithmeticError):
            await tasks[1]
        assert await tasks[0] is False and await tasks[2] is False

    assert trial(broken) == [12, 13, 14]
