"""Shared by all tests: no setting or key of the developer leaks in, also not by `.env`; processes share the cores."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for name in [name for name in os.environ if name.startswith("IOT_") or name == "OPENAI_API_KEY"]:
    del os.environ[name]
os.environ["IOT_ENV_FILE"] = os.devnull  # a test must never ask a paid teacher
_bases = tempfile.TemporaryDirectory(prefix="iot_pipeline-bases-")
os.environ["IOT_BASE_CACHE"] = _bases.name  # what tests build is no user's base
# Spinning threads slow each other down tenfold when processes share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def no_setting_outlives_its_test() -> Iterator[None]:
    """Commands run in this process put file names of settings into the environment, for their subprocesses."""
    before = {name: value for name, value in os.environ.items() if name.startswith("IOT_")}
    yield
    for name in [name for name in os.environ if name.startswith("IOT_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def bases_are_judged_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `check_base` examine a base without a child process, which takes 5 s; models/test_judge.py starts some."""

    def judge(base: str, folder: Path, whole: bool = True) -> dict[str, Any]:
        from iot_pipeline.models.examine import examine

        return examine(base, folder, whole=whole)

    monkeypatch.setattr("iot_pipeline.models.check.judge", judge)


@pytest.fixture
def collections_of_the_test_alone() -> Iterator[None]:
    """Let a student that is closed collect what the test has made, not all that was imported, which takes a second."""
    gc.freeze()
    yield
    gc.unfreeze()


# Files that take minutes or half a minute go first, so that no worker is left alone with one at the end.
SLOW_FIRST = (
    "test_end_to_end.py", "test_training.py", "test_trainer.py", "test_ui.py", "test_sides.py", "test_main.py",
    "test_batch.py", "test_fault_trial.py", "test_budget.py", "test_interrupt.py", "test_cli.py", "test_baselines.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the slow files to the front; the order within a file stays."""
    items.sort(key=lambda item: SLOW_FIRST.index(item.path.name) if item.path.name in SLOW_FIRST else len(SLOW_FIRST))
