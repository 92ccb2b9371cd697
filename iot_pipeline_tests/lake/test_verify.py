"""`verify` names everything that is not as a manifest says, and writes nothing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from iot_pipeline.lake.store import Lake
from iot_pipeline.lake.verify import verify
from iot_pipeline_tests.lake.test_integrity import A, B, edit, flip, make


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    make(lake, B, {A.input_key: make(lake, A).data_version})
    (lake.root / "teacher.sqlite").write_text("not an artefact's")
    return lake


def told(lake: Lake) -> list[str]:
    return [str(mismatch) for mismatch in verify(Lake(lake.root, read_only=True)).mismatches]


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}


def test_a_lake_as_it_was_made_is_counted(lake: Lake) -> None:
    before, found = state_of(lake.root), verify(Lake(lake.root, read_only=True))
    assert (found.artefacts, found.files, found.unsealed, found.mismatches) == (2, 6, 0, [])
    assert found.bytes == sum(
        path.stat().st_size
        for path in lake.root.rglob("*.*")
        if path.parent.name[0] != "." and path.name not in ("manifest.json", "teacher.sqlite") and path.is_file()
    )
    assert state_of(lake.root) == before


def test_every_file_is_hashed_whatever_the_cache_says(lake: Lake) -> None:
    path = lake.folder(B) / "model" / "weights.bin"
    flip(path)
    cache = lake.root / ".verified" / f"{B.file_name}.json"
    now, known = path.stat(), json.loads(cache.read_text())
    known["model/weights.bin"][1:] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
    cache.write_text(json.dumps(known))
    (line,) = told(lake)
    assert line.startswith(f"{B}: model/weights.bin: expected sha256 ") and ", found sha256 " in line


def test_an_artefact_behind_a_link_is_named_since_it_is_not_followed(lake: Lake) -> None:
    place, elsewhere = lake.place(B), lake.root.parent / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    flip(elsewhere / "model" / "weights.bin")
    (line,) = told(lake)
    assert line == f"{place.relative_to(lake.root)}: folder: expected a folder, found a link"


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(("spoil", "expected"), [
    (lambda folder: (folder / "data.txt").unlink(), ["a: data.txt: expected sha256 xxx, found no file"]),
    (lambda folder: (folder / "data.txt").write_text("x"), ["a: data.txt: expected 23 bytes, found 1 bytes"]),
    (lambda folder: (folder / "new.txt").write_text("x"), ["a: new.txt: expected no such file in the manifest, found "
                                                           "a file"]),
    (lambda folder: (folder / ".hidden").write_text("x"), ["a: .hidden: expected no such file in the manifest, found "
                                                           "a file"]),
    (lambda folder: (folder / "link").symlink_to("nowhere"), ["a: link: expected no such file in the manifest, found "
                                                              "a file"]),
    (lambda folder: shutil.rmtree(folder), [f"{B}: input a: expected version xxx, found none"]),
    (lambda folder: shutil.copytree(folder, folder.with_name("c")),
     ["c: manifest.json: expected a in a, found c"]),
    (spoil_manifest, [
        "a: manifest.json: expected a manifest, found ", f"{B}: input a: expected version xxx, found none",
    ]),
    (lambda folder: (folder / "manifest.json").unlink(), [
        "a: data.txt: expected a manifest.json beside it, found none",
        "a: timing.txt: expected a manifest.json beside it, found none",
        "a/model: weights.bin: expected a manifest.json beside it, found none",
        f"{B}: input a: expected version xxx, found none",
    ]),
])  # fmt: skip
def test_each_kind_of_mismatch_is_one_line(lake: Lake, spoil: Callable[[Path], object], expected: list[str]) -> None:
    versions = [
        json.loads((lake.folder(A) / "manifest.json").read_text())["data_version"][:12],
        json.loads((lake.folder(A) / "manifest.json").read_text())["files"]["data.txt"]["sha256"][:12],
    ]
    spoil(lake.folder(A))
    lines = told(lake)
    for version in versions:
        lines = [line.replace(version, "xxx") for line in lines]
    assert len(lines) == len(expected)
    assert all(line.startswith(start) and "\n" not in line for line, start in zip(lines, expected, strict=True))


def test_an_input_that_was_made_anew_and_an_edited_manifest_are_named(lake: Lake) -> None:
    edit(lake, A, data_version="0" * 64)
    lines = told(lake)
    assert lines[0].startswith("a: manifest.json: expected data_version 000000000000, found the hashes of its files ")
    assert lines[1].startswith(f"{B}: input a: expected version ") and lines[1].endswith("found version 000000000000")


def test_folders_that_are_being_made_are_left_out(lake: Lake) -> None:
    shutil.copytree(lake.folder(B), lake.folder(B).with_name(f".{lake.folder(B).name}.staging"))
    os.rename(lake.folder(A), lake.root / ".a.retired")
    assert [line.partition(":")[0] for line in told(lake)] == [str(B)]


@pytest.mark.parametrize("asset", ["..", "../../outside", ""])
def test_a_manifest_that_names_a_place_outside_the_lake_is_one_mismatch_among_others(lake: Lake, asset: str) -> None:
    (lake.place(A) / "data.txt").write_text("x")
    path = lake.place(B) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"asset": asset, "partition": ""}))
    lines = told(lake)
    assert any("is no name of an artefact" in line for line in lines) and any("a: data.txt" in line for line in lines)


def test_what_a_killed_process_left_of_a_snapshot_is_no_mismatch(lake: Lake) -> None:
    snapshot = lake.keep_snapshot("a prompt")
    (snapshot.parent / f".{snapshot.name}.12-ab.tmp").write_text("a pro")
    assert told(lake) == []
    (snapshot.parent / "other.md").write_text("x")
    assert len(told(lake)) == 1
