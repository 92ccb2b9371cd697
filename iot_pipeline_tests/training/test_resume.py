"""Processes of one training go on from one step, or not at all."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.training import checkpoint, train
from iot_pipeline.training.state import Progress


@pytest.mark.parametrize(("other", "agree"), [(3, True), (0, False), (5, False)])
def test_processes_that_find_different_checkpoints_do_not_train(
    other: int, agree: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sees no checkpoint or an older one, as on a node whose folder is not the others'."""
    steps: list[int] = []

    def most(number: int) -> int:
        steps.append(number)
        return max(number, other if len(steps) == 1 else -other)

    training: Any = SimpleNamespace(
        config=SimpleNamespace(out=tmp_path),
        machine=SimpleNamespace(rank=1, most=most),
        reporter=SimpleNamespace(line=lambda text: None),
        plan=SimpleNamespace(steps=9),
    )
    monkeypatch.setattr(checkpoint, "load", lambda training: Progress(losses=[1.0, 1.0, 1.0]))
    told = pytest.raises(UserError, match=f"step {min(3, other)} .* step {max(3, other)}")
    with nullcontext() if agree else told:
        train.resume(training)
    assert steps == [3, -3]
