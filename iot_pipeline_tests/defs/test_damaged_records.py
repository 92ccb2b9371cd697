"""Dagster's databases that are damaged, and disks that are full, are one sentence that says what to do."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs import execute
from iot_pipeline.defs.dagster_internals import opened_instance, refuse_damaged
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an instance with its three databases."""
    home = tmp_path_factory.mktemp("lake") / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with opened_instance(home) as instance:
            instance.get_runs()
            instance.all_asset_keys()
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(made, tmp_path / "home"))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS: dict[str, Callable[[Path], Any]] = {
    "no database": lambda path: path.write_bytes(b"garbage" * 1000),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a folder": folder,
}


@pytest.mark.parametrize("what", HARMS)
def test_a_damaged_database_of_dagster_is_named(home: Path, what: str) -> None:
    refuse_damaged(home)
    for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        whole = (home / name).read_bytes()
        HARMS[what](home / name)
        sentence = rf"Dagster's records in .*{name} cannot be used .*; remove {home} and run again: artefacts and answ"
        with pytest.raises(UserError, match=sentence), opened_instance(home) as instance:
            instance.get_runs()
            instance.all_asset_keys()
        with pytest.raises(UserError, match=sentence):
            refuse_damaged(home)
        shutil.rmtree(home / name) if (home / name).is_dir() else (home / name).unlink()
        (home / name).write_bytes(whole)


def test_what_is_no_folder_of_dagster_is_named(home: Path) -> None:
    shutil.rmtree(home / "history")
    (home / "history").write_text("x")
    with pytest.raises(UserError, match=r"Dagster's records in .*home cannot be used .*; remove .*home and run again"):
        with opened_instance(home):
            pass


def test_a_lake_with_a_question_mark_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"IOT_LAKE: .*a\?b has a `\?`"):
        execute.dagster_home(load_settings({"IOT_LAKE": str(tmp_path / "a?b")}))
    assert list(tmp_path.iterdir()) == []


@dg.asset
def written(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    with lake.step(context) as step:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(step.folder / "x.parquet"))
    return step.result()


def test_a_full_disk_is_one_sentence_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    settings_module.settings.cache_clear()
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([written], resources={"lake": LakeResource()}, instance=instance, raise_on_error=False)
    settings_module.settings.cache_clear()
    (event,) = done.get_step_failure_events()
    told = event.step_failure_data.user_failure_data
    assert told is not None and told.description is not None
    assert told.description.endswith(
        "x.parquet: No space left on device; make room or mend permissions, and run again: what is made stays"
    )
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".locks")]
