"""Processes: a group is ended whole, and never by the number of a leader that was reaped."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from iot_pipeline.commands.supervised import Supervised
from iot_pipeline.lake.leases import this_owner
from iot_pipeline.lake.processes import _booted, end_group, has_ended
from iot_pipeline_tests.shared import until

# It starts a child that does not end by SIGTERM, tells its number, and ends or waits for it. Where the tests run in the
# background, which ignores SIGINT, a run of Dagster in their process leaves SIGTERM ignored too, and it is inherited.
PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('there', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[1] + ".new", "w").write(str(child.pid))
import os
os.rename(sys.argv[1] + ".new", sys.argv[1])
if sys.argv[2] == "waits":
    child.wait()
"""


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Groups that are signalled, each of which must be led by a child of ours that was not reaped."""
    groups: list[int] = []

    def kill(group: int, number: int) -> None:
        assert psutil.Process(group).ppid() == os.getpid()
        groups.append(group)
        real(group, number)

    real = os.killpg
    monkeypatch.setattr(os, "killpg", kill)
    return groups


def told(file: Path) -> int:
    return int(until(lambda: file.read_text() if file.is_file() else "", "the child tells its number"))


@pytest.mark.parametrize("leader", ["ends", "waits"])
def test_what_a_leader_left_behind_ends_with_it(leader: str, signalled: list[int], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "pid"), leader]
    process = subprocess.Popen(command, start_new_session=True)
    child = told(tmp_path / "pid")
    if leader == "ends":
        until(lambda: has_ended(process.pid, time.time()), "the leader ends")
    end_group(process, 60.0)
    assert process.returncode == (0 if leader == "ends" else -signal.SIGTERM)
    until(lambda: has_ended(child, time.time()), "its child ends")
    before = len(signalled)
    end_group(process, 0.0)
    assert len(signalled) == before > 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the start of a process from its own")
@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_that_is_set_ends_no_process(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    there = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        before, real, booted = time.time(), time.time, psutil.boot_time()
        owner = replace(this_owner(), pid=there.pid, seen=before - booted)
        assert not has_ended(there.pid, before) and not owner.has_ended(owner)
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + step)
        monkeypatch.setattr(time, "time", lambda: real() + step)
        assert not has_ended(there.pid, before) and not has_ended(there.pid, time.time())
        _booted.cache_clear()  # a process that began after it was set
        assert not owner.has_ended(owner)
        assert replace(owner, seen=owner.seen - 7200).has_ended(owner)  # another had this number then
    finally:
        there.communicate()
        _booted.cache_clear()
    assert owner.has_ended(owner)


def test_a_supervised_process_is_ended_with_its_children_before_it_is_reaped(
    signalled: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    supervised = Supervised("process", ["-c", PARENT, str(file), "ends"], tmp_path, os.environ)
    first = supervised.process
    child = told(file)
    until(lambda: has_ended(first.pid, time.time()), "the process ends")
    file.unlink()
    assert supervised.revive() and supervised.process is not first
    assert signalled and set(signalled) == {first.pid}
    until(lambda: has_ended(child, time.time()), "its child ends")
    told(file)
    supervised.stop()
    assert supervised.process.returncode is not None
    supervised.stop()  # nothing is left to signal
