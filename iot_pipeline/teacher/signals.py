"""Stop signals while the teacher's event loop runs."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


def run_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as asyncio.run does, but a signal first cancels it in order and then takes its usual effect.

    A handler that raises, as Dagster's do, raises into whatever code is running; within a callback of the loop asyncio
    logs the exception and continues, so that the process would not stop (seen in the test suite on a busy machine). A
    second signal takes effect at once.
    """
    received: list[int] = []

    async def watched() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        usual = {number: signal.getsignal(number) for number in STOPS if in_main_thread}
        handlers = {number: handler for number, handler in usual.items() if callable(handler)}

        def stop(number: int, frame: FrameType | None) -> None:
            if received:
                handlers[signal.Signals(number)](number, frame)
            received.append(number)
            assert task is not None
            loop.call_soon_threadsafe(task.cancel)

        for number in handlers:
            signal.signal(number, stop)
        try:
            await main
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    try:
        asyncio.run(watched())
    except asyncio.CancelledError:
        if not received:
            raise
        raise KeyboardInterrupt from None  # unless the handler, called below, raises something else
    finally:
        if received:
            signal.raise_signal(received[0])
