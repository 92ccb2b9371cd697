"""Artefacts are swapped in whole, survive a kill between the renames, and know when they are stale."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing, write_json, write_text
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact

A, B = ArtefactId("a"), ArtefactId("b", "10K|original")


def make(
    lake: Lake,
    artefact: ArtefactId,
    text: str,
    inputs: dict[str, str] | None = None,
    timing: str = "1 s",
    **changes: object,
) -> Manifest:
    with lake.replacing(artefact) as folder:
        write_text(folder / "data.txt", text)
        write_text(folder / "timing.txt", timing)
        manifest = Manifest(artefact.asset, artefact.partition, "", "1", inputs or {}, {"setting seed": 42}, {})
        for name, value in changes.items():
            setattr(manifest, name, value)
        return finish_artefact(folder, manifest, {"timing.txt"})


def present(name: str) -> object:
    return {"setting seed": 42}.get(name)


def test_a_folder_is_named_by_asset_and_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.folder(ArtefactId("original", "10K")) == tmp_path / "original" / "10K"
    student = ArtefactId("lora_checkpoint_10K", "2027|original")
    assert lake.folder(student) == tmp_path / "lora_checkpoint_10K" / "2027" / "original"
    assert lake.folder(ArtefactId("flows")) == tmp_path / "flows"


def test_the_data_version_follows_content_and_not_timings(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = make(lake, A, "x", timing="1 s").data_version
    assert make(lake, A, "x", timing="2 s").data_version == first
    assert make(lake, A, "y").data_version != first


def test_fresh_until_something_it_was_made_of_changes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    version = make(lake, A, "x").data_version
    make(lake, B, "from x", inputs={A.input_key: version})
    assert lake.stale_reasons(B, "1", present) == []
    assert lake.stale_reasons(B, "2", present) == ["code changed (1 -> 2)"]
    assert lake.stale_reasons(B, "1", lambda _: 7) == ["setting seed changed"]
    make(lake, A, "y")
    assert lake.stale_reasons(B, "1", present) == ["input a changed"]
    make(lake, A, "x")
    assert lake.stale_reasons(B, "1", present) == []
    (lake.folder(B) / "data.txt").write_text("cut")
    assert lake.stale_reasons(B, "1", present) == ["file data.txt was changed (expected 6 bytes, found 3 bytes)"]
    (lake.folder(B) / "data.txt").unlink()
    assert lake.stale_reasons(B, "1", present) == ["file data.txt is missing"]
    shutil.rmtree(lake.folder(A))
    assert lake.stale_reasons(B, "1", present)[-1] == "input a is missing"


def test_a_failed_blocking_check_makes_an_artefact_stale(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A, "x", checks={"c": {"passed": False, "blocking": True, "facts": {}}})
    assert lake.stale_reasons(A, "1", present) == ["blocking check c did not pass"]


def test_an_error_while_writing_keeps_the_old_artefact(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A, "old")
    with pytest.raises(RuntimeError), lake.replacing(A) as folder:
        write_text(folder / "data.txt", "new")
        raise RuntimeError
    assert (lake.folder(A) / "data.txt").read_text() == "old"
    assert lake.stale_reasons(A, "1", present) == []


def test_a_kill_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A, "old")
    os.rename(lake.folder(A), tmp_path / ".a.retired")
    assert lake.manifest(A) is not None
    assert (lake.folder(A) / "data.txt").read_text() == "old"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_reader_between_the_two_renames_finds_the_artefact(
    read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, reader, rename, found = Lake(tmp_path), Lake(tmp_path, read_only), os.rename, list[Manifest | None]()
    make(lake, A, "old")
    thread = threading.Thread(target=lambda: found.append(reader.manifest(A)))

    def slowly(source: Path, target: Path) -> None:
        rename(source, target)
        if source == lake.place(A):  # the old folder has gone, the new one is to come
            thread.start()
            time.sleep(0.05)

    monkeypatch.setattr(os, "rename", slowly)
    made = make(lake, A, "new")
    thread.join()
    assert [one.data_version if one else None for one in found] == [made.data_version]


def test_unfinished_folders_are_no_artefacts(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A, "x")
    write_json(tmp_path / ".b.staging" / "manifest.json", {"asset": "b", "partition": ""})
    assert lake.artefacts() == [A]


def test_a_lake_without_write_permission_is_named_when_something_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lake = Lake(tmp_path / "file" / "lake")
    with pytest.raises(UserError, match="IOT_LAKE"), lake.replacing(A):
        pass


def test_looking_at_a_lake_makes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "none")
    assert lake.artefacts() == [] and lake.manifest(A) is None
    assert lake.stale_reasons(A, "1", present) == ["not made yet"]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A, "x")
    (lake.folder(A) / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        lake.manifest(A)


def test_an_interrupted_file_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "j", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "j").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "j", float("nan"))


def test_two_writers_of_one_artefact_do_not_meet(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with lake.replacing(A), pytest.raises(UserError, match="is being made by another process"):
        with Lake(tmp_path).replacing(A):
            pass


def test_a_body_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(ZeroDivisionError), lake.replacing(A) as folder:
        (folder / "x").write_text("half")
        _ = 1 / 0
    assert [path for path in tmp_path.rglob("*") if ".locks" not in path.parts] == []
