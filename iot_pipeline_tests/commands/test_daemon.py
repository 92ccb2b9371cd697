"""Daemons of one database: one works, another stands by and takes over however the first one ended."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from iot_pipeline.commands import daemon
from iot_pipeline.commands.daemon import wait_for_turn
from iot_pipeline.errors import UserError
from iot_pipeline_tests.teacher.postgres import cluster

HOLDS = (
    "import sys, time\n"
    "from iot_pipeline.commands.daemon import wait_for_turn\n"
    "kept = wait_for_turn(sys.argv[1], print)\n"
    "print('at work', flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def url() -> Iterator[str]:
    with cluster() as database:
        yield database()


def test_a_second_daemon_takes_over_when_the_first_is_killed(url: str) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLDS, url], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "at work\n"
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        first.send_signal(signal.SIGKILL)

    session = wait_for_turn(url, say)
    assert said == ["another daemon is at work for this database: this one stands by"]
    first.wait()
    session.close()


def test_a_daemon_watches_its_turn_through_failures_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[BaseException | bool] = [OperationalError("SELECT", {}, Exception()), UserError("away"), True, False]
    ended = threading.Event()

    class Session:
        """A session that fails, and then has lost its turn."""

        def hold(self, _name: str) -> bool:
            found = looks.pop(0)
            if isinstance(found, BaseException):
                raise found
            return found

    def leave(_code: int) -> None:
        ended.set()
        threading.Event().wait()  # the thread is a daemon's

    monkeypatch.setattr(daemon, "EVERY_S", 0.0)
    monkeypatch.setattr(daemon.os, "_exit", leave)
    session: Any = Session()
    daemon.end_when_lost(session)
    assert ended.wait(30) and looks == []


def test_it_sets_the_slots_that_the_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("IOT_GPU_SLOTS", "3")
    monkeypatch.setattr(sys, "argv", ["daemon", "workspace.yaml"])
    monkeypatch.setattr(daemon.runpy, "run_module", lambda *_, **__: {})
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        monkeypatch.setattr(daemon, "opened_instance", lambda home: nullcontext(instance))
        daemon.main()
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 3
