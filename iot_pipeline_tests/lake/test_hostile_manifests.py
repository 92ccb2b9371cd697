"""A manifest of a stranger reads and writes nothing outside its artefact's folder."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake import build_cache
from iot_pipeline.lake.remote_work import RemoteWork
from iot_pipeline.lake.store import MANIFEST, ArtefactId, Lake, Manifest, finish_artefact, read_manifest
from iot_pipeline_tests.lake.test_artefact_log import Memory

A = ArtefactId("a")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    with found.replacing(A) as folder:
        (folder / "x.txt").write_text("x")
        finish_artefact(folder, Manifest("a", "", "", "1", {}, {}, {}), set())
    return found


@pytest.mark.parametrize(
    ("name", "sha256"),
    [("../x.txt", ""), ("/etc/passwd", ""), ("a/../../x", ""), ("a//b", ""), ("", ""), ("x\0", ""), (".", ""),
     ("x.txt", "../../escaped"), ("x.txt", "AB" * 32)],
)  # fmt: skip
def test_a_manifest_names_files_of_its_own_folder_by_hashes(lake: Lake, name: str, sha256: str) -> None:
    path = lake.place(A) / MANIFEST
    told = asdict(read_manifest(path))
    (facts,) = told["files"].values()
    told["files"] = {name: facts | ({"sha256": sha256} if sha256 else {})}
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match="is not a manifest"):
        lake.verified(A)


@pytest.mark.parametrize("artefact", [("..", ""), ("../a", ""), ("/a", ""), ("a", "x|../.."), ("a", "10K|."), ("", "")])
def test_an_artefact_has_a_name_within_the_lake(lake: Lake, artefact: tuple[str, str]) -> None:
    for look in (lake.place, lake.manifest, lake.verified, lake.folder):
        with pytest.raises(UserError, match="is no name of an artefact"):
            look(ArtefactId(*artefact))


def test_a_snapshot_lies_among_the_snapshots(lake: Lake) -> None:
    assert lake.snapshot("../../x").parent == lake.snapshot("0" * 64).parent == lake.root / "prompts"


@pytest.mark.parametrize("index", ["", "[]", '{"id": 1}', '{"id": "a", "files": []}', '{"files": {}}'])
def test_work_with_a_damaged_index_is_done_again(index: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "work" / "print", Memory()
    folder.mkdir(parents=True)
    (folder / "own").write_text("x")
    store.write("work/a@/print/index.json", index.encode())
    assert not RemoteWork(store, tmp_path).resume("a@", folder) and (folder / "own").is_file()


@pytest.mark.parametrize("path", ["../../../escaped", "/{place}/escaped", "a/../../../../escaped"])
def test_work_in_the_bucket_is_written_into_its_folder_alone(path: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "work" / "print", Memory()
    folder.mkdir(parents=True)
    digest = hashlib.sha256(b"x").hexdigest()
    files = {path.format(place=tmp_path): digest, "inside": digest}
    store.write("work/a@/print/index.json", json.dumps({"id": "b", "files": files}).encode())
    store.write(f"work/a@/print/{digest}", b"x")
    assert RemoteWork(store, tmp_path).resume("a@", folder)
    assert {found.name for found in folder.rglob("*")} == {"inside", ".index"}
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": 1}', "x"])
def test_a_damaged_entry_of_the_cache_is_made_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model").write_text("x")
    build_cache.store(tmp_path / "cache", "key", tmp_path / "made", ["model"])
    (tmp_path / "cache" / "key" / build_cache.CONTENT).write_text(content)
    assert build_cache.lookup(tmp_path / "cache", "key") is None
    build_cache.store(tmp_path / "cache", "key", tmp_path / "made", ["model"])
    assert build_cache.lookup(tmp_path / "cache", "key") is not None
