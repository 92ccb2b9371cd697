"""What lies in a lake in place of manifests, folders and locks is mended by the next run, or told in one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake import store
from iot_pipeline.lake.atomic import held
from iot_pipeline.lake.store import LOCKS, MANIFEST, VERIFIED, ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.lake.verify import verify

A, B = ArtefactId("a"), ArtefactId("b")


def make(lake: Lake, artefact: ArtefactId, text: str) -> None:
    with lake.replacing(artefact) as folder:
        (folder / "x.txt").write_text(text)
        finish_artefact(folder, Manifest(artefact.asset, "", "", "1", {}, {}, {}), set())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    make(found, A, "first")
    make(found, B, "other")
    return found


def put(name: str, there: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Put something in place of a file or folder of the lake."""

    def change(root: Path) -> None:
        path = root / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        there(path)

    return change


def a_file(path: Path) -> None:
    path.write_text("x")


PLACES: dict[str, Callable[[Path], Any]] = {
    "a file": put("a", a_file),
    "a link to nothing": put("a", lambda path: path.symlink_to("nothing")),
    "a circle": put("a", lambda path: path.symlink_to(path)),
    "another artefact": put("a", lambda path: path.symlink_to("b")),
    "nothing": put("a", lambda path: None),
    "an empty folder": put("a", Path.mkdir),
    "staging that is a file": put(".a.staging", a_file),
    "an old folder that is a file": put(".a.retired", a_file),
    "an old folder that is a link": put(".a.retired", lambda path: path.symlink_to("b")),
    "a manifest that is a folder": put(f"a/{MANIFEST}", Path.mkdir),
    "a manifest that is a pipe": put(f"a/{MANIFEST}", os.mkfifo),
    "a manifest without end": put(f"a/{MANIFEST}", lambda path: path.symlink_to("/dev/zero")),
    "a cache that is a pipe": put(f"{VERIFIED}/a@.json", os.mkfifo),
    "a lock that is a pipe": put(f"{LOCKS}/a@", os.mkfifo),
}


@pytest.mark.parametrize("what", PLACES)
def test_an_artefact_is_made_again_whatever_lies_in_its_place(lake: Lake, what: str) -> None:
    PLACES[what](lake.root)
    verify(Lake(lake.root, read_only=True))  # ends
    for text in ("second", "third"):  # what is left of the first must not stop the next
        lake.stale_reasons(A, "1", lambda _: None)
        make(lake, A, text)
        assert (lake.verified(A) / "x.txt").read_text() == text and not lake.folder(A).is_symlink()
    assert (lake.verified(B) / "x.txt").read_text() == "other"
    assert not [path for path in lake.root.iterdir() if path.name.endswith((".staging", ".retired"))]
    assert verify(Lake(lake.root, read_only=True)).mismatches == []


@pytest.mark.parametrize("there", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_lock_is_named_and_not_followed(lake: Lake, there: Callable[[Path], Any]) -> None:
    put(f"{LOCKS}/a@", there)(lake.root)
    with pytest.raises(UserError, match=r"cannot write to .*a@ \(.*\); mend its permissions, or remove it"):
        make(lake, A, "second")
    assert (lake.verified(A) / "x.txt").read_text() == "first"
    assert not (lake.root / LOCKS / "elsewhere").exists()


def test_a_lock_that_is_held_is_told_through_every_name_of_its_file(tmp_path: Path) -> None:
    with held(tmp_path / "lock", "busy"), pytest.raises(UserError, match="busy"), held(tmp_path / "lock", "busy"):
        pass
    with held(tmp_path / "lock", "busy"):
        pass


def test_a_manifest_of_absurd_size_is_not_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_BYTES", 10)
    with pytest.raises(UserError, match=r"manifest\.json is not a manifest \(\d+ bytes\); delete the folder to make"):
        lake.manifest(A)


def test_a_snapshot_that_is_no_file_is_told(lake: Lake) -> None:
    snapshot = lake.keep_snapshot("ask")
    assert verify(lake).mismatches == []
    snapshot.unlink()
    os.mkfifo(snapshot)
    (found,) = verify(lake).mismatches
    assert found.file == snapshot.name and found.found == "something else"
