"""What several test files need: folders that one of them builds for all workers of pytest-xdist, and real data."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Real flows, where a developer has them; they are never part of the project.
RT_IOT2022 = Path(os.environ.get("RT_IOT2022_ZIP", os.devnull))
NO_RT_IOT2022 = "RT_IOT2022_ZIP names no file RT_IOT2022.csv.zip"


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait for it, as long as a busy machine may need; return what was found."""
    deadline = time.monotonic() + 240
    while not (found := true()):
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.05)
    return found


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder of this run of the tests, built by the first worker that asks; the others wait for it.

    Args:
        factory: Of pytest; its folder is shared by the workers of one run.
        name: Name of the folder.
        build: Fills an empty folder. What it writes must not change later: copy it to change it.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / f"shared-{name}", root / f"shared-{name}.done"
    with (root / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder
