"""Growing logs that come faster than their lines are answered: rotated again meanwhile, or one ahead of the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot_pipeline.serving import streams, tail
from iot_pipeline.serving.prepared import Losses
from iot_pipeline_tests.serving.factories import csv_rows
from iot_pipeline_tests.serving.test_streams import follow


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LINGER_S", 0.05)
    monkeypatch.setattr(streams, "POLL_S", 0.01)


def test_events_of_two_streams_have_different_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(csv_rows(3, 3))
    first, second = ({row.uid for row in follow([tmp_path / "x.csv"], 3, Losses())} for _ in range(2))
    assert len(first | second) == 6
