"""Bases are checked in the process of the test: a child for each would take 5 s; test_judge.py starts one."""

import pytest

from iot_pipeline.models import check
from iot_pipeline.models.examine import examine


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `check_base` examine a base without a process of its own."""
    monkeypatch.setattr(check, "judge", examine)
