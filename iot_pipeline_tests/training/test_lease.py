"""Leases of cards: disjoint, given back, all or none, and gone with the process that held them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from iot_pipeline.training.lease import cards_here, leased


def silent(line: str) -> None:
    raise AssertionError(f"nothing to say, but: {line}")


def test_two_trainings_get_different_cards(tmp_path: Path) -> None:
    with (
        leased(["0", "1", "2"], 2, silent, tmp_path) as first,
        leased(["0", "1", "2"], 1, silent, tmp_path) as second,
    ):
        assert (first, second) == (["0", "1"], ["2"])
    with leased(["0", "1", "2"], 5, silent, tmp_path) as all_of_them:
        assert all_of_them == ["0", "1", "2"]


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
