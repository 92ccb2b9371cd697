"""Prompt stop on SIGINT or SIGTERM: the command ends within seconds, whatever code the signal interrupts.

A handler that raises is not enough: Dagster replaces it and defers signals between steps, an exception raised in a
callback or a destructor is swallowed, and a library may mistake it for a failure of its own (11 of 68 signals at random
moments). So the interpreter itself records the signal (`signal.set_wakeup_fd`), before any handler runs.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator

STOPS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
GRACE_S = 7.0


class Watch:
    """Recorder of the first stop signal; ends the process if it is still running after the grace period."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self._noted, self._over = False, False
        self._lock = threading.RLock()  # reentrant: a destructor may run inside
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._stderr = os.dup(2)  # Dagster redirects the descriptor into its compute logs while an asset runs
        self._usual_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # Shells start background jobs with SIGINT ignored; SIGTERM would end the process silently.
        self._usual = {number: signal.signal(number, signal.default_int_handler) for number in STOPS}
        # Errors that the interruption causes (closing a connection, a destructor) are hidden: the sentence suffices.
        self._usual_hook = sys.unraisablehook
        sys.unraisablehook = lambda broken: None if self.noted() else self._usual_hook(broken)
        if logging.lastResort is not None:
            logging.lastResort.addFilter(self._is_news)
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def noted(self) -> bool:
        """Return True if the process received a stop signal."""
        with self._lock, contextlib.suppress(BlockingIOError):
            self._noted = self._noted or any(number in STOPS for number in os.read(self._reader, 4096))
        return self._noted

    def _is_news(self, record: logging.LogRecord) -> bool:
        return not self.noted()

    def end(self) -> None:
        """Kill the child processes, print the sentence and exit at once, without waiting for anything.

        If the signal interrupted Dagster's clean-up, a tail of its compute logs may remain and would hold a pipe open.
        """
        from iot_pipeline.lake.processes import kill_tree

        try:
            kill_tree(os.getpid(), itself=False)
            if os.isatty(1):
                os.write(1, b"\x1b[?25h")  # the live table hides the cursor
            os.write(self._stderr, f"{self.sentence}\n".encode())
        finally:
            os._exit(EXIT_CODE)

    def close(self) -> None:
        """Restore the previous signal handling; the watching thread ends."""
        signal.set_wakeup_fd(self._usual_fd)
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._usual_hook
        if logging.lastResort is not None:
            logging.lastResort.removeFilter(self._is_news)
        self._over = True
        os.write(self._writer, b"\0")

    def _watch(self) -> None:
        while not self.noted():
            select.select([self._reader], [], [], 0.5)  # poll: the main thread may have read the signal already
            if self._over:
                return
        threading.Event().wait(GRACE_S)
        self.end()


_active: list[Watch] = []


def raise_if_told() -> None:
    """Raise KeyboardInterrupt if a stop signal arrived, even if something swallowed it."""
    if _active and _active[0].noted():
        raise KeyboardInterrupt


@contextlib.contextmanager
def stopping_promptly(sentence: str) -> Iterator[None]:
    """Make SIGINT and SIGTERM end the process with exit code 130 and `sentence` on standard error.

    After a signal the block has 7 s to clean up and return; then the process exits. Remaining child processes are
    killed. A block that ends after a signal counts as stopped, even if it ends normally or with an error. Outside the
    main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = Watch(sentence)
    _active.append(watch)
    try:
        yield
    finally:
        if watch.noted():
            for number in STOPS:
                signal.signal(number, signal.SIG_IGN)  # ignore a second Ctrl-C
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            watch.end()
        _active.remove(watch)
        watch.close()
