"""Work in progress is in the bucket whole, or as it was before; a disk of this host is not taken for the bucket."""

import errno
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake.object_store import ObjectStore
from iot_pipeline.lake.remote_work import INDEX, RemoteWork
from iot_pipeline_tests.lake.test_artefact_log import Memory


@pytest.mark.parametrize("away", ["write", "listing"])
def test_an_upload_that_was_cut_off_is_ended_by_the_next_round(
    away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, memory = tmp_path / "here" / "print", tmp_path / "there" / "print", Memory()
    for folder in (here, there):
        folder.mkdir(parents=True)
    (here / "checkpoint").write_text("step 7")
    work, stamps = RemoteWork(memory, tmp_path), dict[str, tuple[int, int, str]]()
    write = memory.write

    def fail(*_: object) -> None:
        raise UserError("the store cannot be reached")

    monkeypatch.setattr(memory, "upload", lambda path, key: write(key, path.read_bytes()))
    monkeypatch.setattr(memory, away, fail)
    with pytest.raises(UserError):
        work.upload("a@", here, stamps)
    monkeypatch.undo()
    work.upload("a@", here, stamps)
    assert f"work/a@/print/{INDEX}" in memory.objects
    assert work.resume("a@", there) and (there / "checkpoint").read_text() == "step 7"
    kept = dict(memory.objects)
    work.upload("a@", here, stamps)
    assert memory.objects == kept  # nothing has changed since


def test_work_that_cannot_be_removed_does_not_fail_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, folder = Memory(), tmp_path / "print"
    folder.mkdir()
    (folder / "checkpoint").write_text("step 7")
    work = RemoteWork(memory, tmp_path)
    work.upload("a@", folder, {})

    def away(_: str) -> None:
        raise UserError("the store cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "listing", away)
        work.drop("a@")
    assert not work.resume("a@", tmp_path / "other") and memory.objects == {}  # the next work removes it


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"mirror cannot be read or written \(No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/m/data"), r"^/m/data cannot be .*\(Permission denied"),
        (FileExistsError(errno.EEXIST, "File exists", "/m/data"), r"^/m/data cannot be .*\(File exists"),
        (PermissionError(errno.EACCES, "Access Denied"), "the store refuses these credentials"),
        (None, r"file cannot be .*IOT_LAKE_CACHE"),
    ],
)
def test_a_fault_of_this_host_s_disk_is_told_as_one(
    error: OSError | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore("s3://bucket/prefix")

    def fetched(_: str, path: str) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(store._system, "get_file", fetched)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=told):
        store.download("key", tmp_path / ("data" if error is not None else "file/data"))


def test_a_conflict_where_nothing_is_created_is_a_fault_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore("s3://bucket/prefix")

    def refuse(*_: object, **__: object) -> None:
        error: Any = RuntimeError("a conflicting operation is in progress")
        error.response = {"Error": {"Code": "409"}}
        raise error

    monkeypatch.setattr(store._system, "pipe_file", refuse)
    with pytest.raises(UserError, match=r"IOT_LAKE=s3://bucket/prefix: the store failed .*conflicting"):
        store.write("owners/one", b"")  # of the thread that renews a lease, and would end with it
