"""Dagster's daemon for records in PostgreSQL: one works at a time, others stand by, on whatever host.

    python -m iot_pipeline.commands.daemon WORKSPACE

Two daemons would start each queued run twice. The one at work holds a name by its session of the database; another gets
it as soon as that one has ended, however it ended.
"""

import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from iot_pipeline.defs.dagster_internals import DAEMON, opened_instance, postgres_url, set_pool_limits
from iot_pipeline.defs.workers import SharedWorker
from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings

NAME, EVERY_S = "the daemon", 2.0


def wait_for_turn(url: str, say: Callable[[str], None]) -> SharedWorker:
    """Wait until no other daemon works for a database, and return the session by which this one does."""
    session, said = SharedWorker(url), False
    while not session.hold(NAME):
        if not said:
            say("another daemon is at work for this database: this one stands by")
            said = True
        time.sleep(EVERY_S)
    return session


def end_when_lost(session: SharedWorker) -> None:
    """End this process, from a thread, once another daemon has its name: its session was cut off."""

    def watch() -> None:
        while True:
            time.sleep(EVERY_S)
            try:
                if not session.hold(NAME):
                    os._exit(1)
            except (UserError, SQLAlchemyError):  # the server cannot be reached: nothing can be started either
                continue

    threading.Thread(target=watch, name="turn", daemon=True).start()


def main() -> None:
    """Set the slots of pools as `ui` does, wait for the turn, and be Dagster's daemon."""
    with opened_instance(Path(os.environ["DAGSTER_HOME"])) as instance:
        set_pool_limits(instance, load_settings().run.slots())
        url = postgres_url(instance)
    if url is not None:
        end_when_lost(wait_for_turn(url, lambda sentence: print(sentence, flush=True)))
    sys.argv = [DAEMON, "run", "--workspace", sys.argv[1]]
    runpy.run_module(DAEMON, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
