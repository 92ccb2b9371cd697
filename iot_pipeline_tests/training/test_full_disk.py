"""A training on a full disk ends in one line, and goes on from its last checkpoint once there is room."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from iot_pipeline.lake.atomic import write_text
from iot_pipeline.training import train
from iot_pipeline_tests.training.test_training import adapter, config, facts_of, one, world

__all__ = ["one", "world"]  # fixtures


def no_room_for(name: str) -> Callable[[Path, str], None]:
    """A `write_text` on whose disk there is no room for files of this name."""

    def write(path: Path, text: str) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_text(path, text)

    return write


@pytest.mark.parametrize(("full", "why"), [("checkpoint", "file too large"), ("curve", "no space left on device")])
def test_a_full_disk_is_one_line_and_what_was_trained_is_kept(
    one: Path, world: tuple[Path, Path], tmp_path: Path, full: str, why: str, capsys: pytest.CaptureFixture
) -> None:
    settings = config(world, tmp_path / "out", validation=world[1], evaluate_every=3, keep="best")
    path = str(settings.write(tmp_path / "config.json"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        if full == "curve":
            patch.setattr(train, "write_text", no_room_for("loss.jsonl"))
        else:  # the limit is the system's: the weights are written by safetensors, which is no Python
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            assert train.main([path]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {settings.out} cannot be written ({why}); make room and run again: it goes on from its " \
        "last checkpoint"  # fmt: skip
    assert not (settings.out / "training.json").exists() and not list(settings.out.glob(".*.tmp"))
    assert train.main([path]) == 0
    assert ("resumed at step" in capsys.readouterr().out) is (full == "curve")
    assert adapter(settings.out) == adapter(one) and facts_of(settings.out) == facts_of(one)
