"""Leases of cards: disjoint, given back, all or none, and gone with the process that held them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.training.lease import cards_here, leased


def silent(line: str) -> None:
    raise AssertionError(f"nothing to say, but: {line}")


def test_two_trainings_get_different_cards(tmp_path: Path) -> None:
    with (
        leased(["0", "1", "2"], 2, silent, tmp_path) as first,
        leased(["0", "1", "2"], 1, silent, tmp_path) as second,
    ):
        assert (first, second) == (["0", "1"], ["2"])
    with leased(["0", "1", "2"], 3, silent, tmp_path) as all_of_them:
        assert all_of_them == ["0", "1", "2"]


def test_more_processes_than_cards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="IOT_PROCESSES=5, but there are 3 GPUs here"), leased(
        ["0", "1", "2"], 5, silent, tmp_path
    ):
        pass


def test_locks_are_those_of_every_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # a container's user: in no list of users
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with leased(["0"], 1, silent) as card:
        assert card == ["0"]
    (folder,) = tmp_path.iterdir()
    (lock,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, lock.stat().st_mode & 0o777) == (0o777, 0o666)


def test_without_a_card_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    with leased([], 4, silent, tmp_path) as none:
        assert none == []


def test_it_waits_says_so_once_and_takes_none_while_it_waits(tmp_path: Path) -> None:
    said: list[str] = []
    waiting, got = threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waiting.set()

    def wait() -> None:
        with leased(["0", "1"], 2, say, tmp_path, every=0.01):
            got.set()

    with leased(["0", "1"], 1, silent, tmp_path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(10) and not got.is_set()
    assert got.wait(10)
    thread.join()
    assert said == ["waiting for 2 of 2 GPUs: other trainings on this machine hold them"]


HOLD = """
import sys, time
from pathlib import Path
from iot_pipeline.training.lease import leased
with leased(["0"], 1, print, Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    with leased(["0"], 1, silent, tmp_path) as card:
        assert card == ["0"]


def test_cards_of_this_machine_are_as_many_as_torch_sees() -> None:
    import torch

    assert len(cards_here()) == torch.cuda.device_count()
