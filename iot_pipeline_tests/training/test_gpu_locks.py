"""Leases of cards: disjoint, given back, all or none, gone with their process, and no way in for other users."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.training.gpu_locks import FOLDER, cards_here, leased


def silent(line: str) -> None:
    raise AssertionError(f"nothing to say, but: {line}")


def test_two_trainings_get_different_cards(tmp_path: Path) -> None:
    with leased(["0", "1", "2"], 2, silent, tmp_path) as first, leased(["0", "1", "2"], 1, silent, tmp_path) as second:
        assert (first, second) == (["0", "1"], ["2"])
    with leased(["0", "1", "2"], 3, silent, tmp_path) as all_of_them:
        assert all_of_them == ["0", "1", "2"]


@pytest.mark.parametrize("named", ["0,1", "0, 1", " 0 ,1"])
def test_a_card_has_one_name_however_the_variable_is_written(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert cards_here() == ["0", "1"]  # by which another process finds the lock of the same card


def test_more_processes_than_cards_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="IOT_PROCESSES=5, but there are 3 GPUs here"),
        leased(["0", "1", "2"], 5, silent, tmp_path),
    ):
        pass


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's temporary folder, and where the locks lie in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / FOLDER


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_locks_are_those_of_every_user_and_nobody_can_exchange_them(temporary: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with leased(["0"], 1, silent) as card:
            assert card == ["0"]
    finally:
        os.umask(before)
    (lock,) = temporary.iterdir()
    assert (mode(temporary), mode(lock)) == (0o1777, 0o644)


def test_a_link_is_refused_and_what_it_points_to_stays_as_it_is(temporary: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    temporary.symlink_to(home)
    with pytest.raises(UserError, match="a link is not followed"), leased(["0"], 1, silent):
        pass
    assert mode(home) == 0o700 and not list(home.iterdir())


def test_a_lock_that_is_a_link_is_refused_and_its_file_stays_as_it_is(temporary: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("dear")
    mine.chmod(0o600)
    temporary.mkdir()
    (temporary / "gpu-0.lock").symlink_to(mine)
    with pytest.raises(UserError, match=r"the GPU lock gpu-0\.lock cannot be opened"), leased(["0"], 1, silent):
        pass
    assert mine.read_text() == "dear" and mode(mine) == 0o600


@pytest.mark.parametrize(
    ("owner", "given", "accepted"),
    [(1, 0o777, False), (1, 0o755, False), (1, 0o700, False), (0, 0o777, False), (1, 0o1777, True), (0, 0o755, True)],
)
def test_a_folder_of_another_user_is_taken_only_where_nobody_can_exchange_locks(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, owner: int, given: int, accepted: bool
) -> None:
    temporary.mkdir()
    temporary.chmod(given)
    real, me = os.fstat, os.geteuid()
    monkeypatch.setattr("os.fstat", lambda place: os.stat_result([*real(place)[:4], owner, *real(place)[5:10]]))
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    with contextlib.ExitStack() as stack:
        if not accepted:
            stack.enter_context(pytest.raises(UserError, match=f"belongs to user {owner} with mode {given:04o}"))
        assert stack.enter_context(leased(["0"], 1, silent)) == ["0"]
    assert mode(temporary) == given and me == temporary.stat().st_uid


def test_a_folder_of_ours_from_an_earlier_version_becomes_sticky(temporary: Path) -> None:
    temporary.mkdir()
    temporary.chmod(0o777)
    with leased(["0"], 1, silent) as card:
        assert card == ["0"] and mode(temporary) == 0o1777


def test_without_a_card_there_is_nothing_to_wait_for_and_nothing_is_made(temporary: Path) -> None:
    with leased([], 4, silent) as none:
        assert none == [] and not temporary.exists()


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
from iot_pipeline.training.gpu_locks import leased
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
