"""A changed byte is noticed wherever it is, at the price of one hash a file."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.lake import integrity
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.integrity import FileFacts, data_version_of
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact

A, B = ArtefactId("a"), ArtefactId("lora_checkpoint_10K", "2027|original")
FILES = ("data.txt", "timing.txt", "model/weights.bin")


def make(lake: Lake, artefact: ArtefactId, inputs: dict[str, str] | None = None) -> Manifest:
    with lake.replacing(artefact) as folder:
        for name in FILES:
            write_text(folder / name, f"the content of {name}")
        manifest = Manifest(artefact.asset, artefact.partition, "", "1", inputs or {}, {}, {}, summary={"rows": 21})
        return finish_artefact(folder, manifest, {"timing.txt"})


def flip(path: Path, at: int = -1) -> None:
    """Change one bit, and set the modification time back, as a faulty disk or copy would."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit(lake: Lake, artefact: ArtefactId, **changed: Any) -> None:
    path = lake.folder(artefact) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed to be verified."""
    found: list[str] = []
    sha256_file = integrity.sha256_file
    monkeypatch.setattr(integrity, "sha256_file", lambda path: found.append(path.name) or sha256_file(path))
    return found


def nothing(name: str) -> None:
    return None


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_makes_an_artefact_stale_and_breaks_the_lineage_of_all_that_follows(
    tmp_path: Path, name: str
) -> None:
    lake = Lake(tmp_path)
    make(lake, B, {A.input_key: make(lake, A).data_version})
    assert lake.stale_reasons(A, "1", nothing) == [] and lake.broken_lineage(B, nothing) == ""
    flip(lake.folder(A) / name)
    (reason,) = lake.stale_reasons(A, "1", nothing)
    assert reason.startswith(f"file {name} was changed (expected sha256 ")
    assert lake.stale_reasons(B, "1", nothing) == []
    assert lake.broken_lineage(B, nothing) == f"a: {reason}"
    with pytest.raises(UserError, match=f"^a: file {name} was changed .*; `iot-pipeline run` makes it again"):
        lake.verified(A)
    assert lake.verified(B) == lake.folder(B)


def test_each_file_is_hashed_once_when_it_is_made_and_never_again_unless_it_is_touched(
    tmp_path: Path, hashed: list[str]
) -> None:
    lake = Lake(tmp_path)
    make(lake, B)
    lake.verified(B)
    assert hashed == []
    (lake.folder(B) / "data.txt").touch()
    lake.verified(B)
    lake.verified(B)
    assert hashed == ["data.txt"]


def test_without_its_cache_or_with_a_broken_one_everything_is_hashed_and_recorded(
    tmp_path: Path, hashed: list[str]
) -> None:
    lake = Lake(tmp_path)
    make(lake, A)
    (cache,) = (tmp_path / ".verified").iterdir()
    for broken in (None, "{", "[1]", '{"data.txt": 3}', "[" * 100_000):
        cache.unlink() if broken is None else cache.write_text(broken)
        hashed.clear()
        lake.verified(A)
        assert sorted(hashed) == ["data.txt", "timing.txt", "weights.bin"]
        lake.verified(A)
        assert len(hashed) == 3


def test_a_lake_opened_to_be_read_records_nothing(tmp_path: Path, hashed: list[str]) -> None:
    make(Lake(tmp_path), A)
    (cache,) = (tmp_path / ".verified").iterdir()
    cache.unlink()
    Lake(tmp_path, read_only=True).verified(A)
    assert len(hashed) == 3 and not cache.exists()


def test_a_file_changed_after_it_was_hashed_is_not_recorded_as_verified(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with lake.replacing(A) as folder:
        write_text(folder / "data.txt", "x" * 9)
        finish_artefact(folder, Manifest("a", "", "", "1", {}, {}, {}), set())
        write_text(folder / "data.txt", "y" * 9)
    with pytest.raises(UserError, match=r"file data\.txt was changed"):
        lake.verified(A)


@pytest.mark.parametrize(("changed", "told"), [
    ({"data_version": "0" * 64}, "data_version 000000000000, but the hashes of its files give "),
    ({"summary": {"rows": 22}}, "digest "),
    ({"checks": {"good": {"passed": True, "blocking": True, "facts": {}}}}, "digest "),
    ({"provenance": {"label": "real"}}, "digest "),
])  # fmt: skip
def test_an_edited_manifest_is_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    lake = Lake(tmp_path)
    make(lake, A)
    edit(lake, A, **changed)
    (reason,) = lake.stale_reasons(A, "1", nothing)
    assert reason.startswith(f"manifest was changed ({told}")


def test_a_manifest_of_an_earlier_version_is_taken_as_it_is(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    make(lake, A)
    path = lake.folder(A) / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}))
    assert lake.stale_reasons(A, "1", nothing) == []
    edit(lake, A, data_version="0" * 64)
    assert lake.stale_reasons(A, "1", nothing)[0].startswith("manifest was changed (data_version")


@pytest.mark.parametrize("broken", [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"3", b'{"asset": "a"}',
    json.dumps({"asset": "a", "partition": "", "data_version": "", "code_version": "", "inputs": {}, "settings": {},
                "files": {"x": {"bytes": "1"}}}).encode(),
])  # fmt: skip
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, broken: bytes) -> None:
    lake = Lake(tmp_path)
    make(lake, A)
    (lake.folder(A) / "manifest.json").write_bytes(broken)
    with pytest.raises(UserError, match=r"manifest\.json is not a manifest .*; delete the folder") as caught:
        lake.manifest(A)
    assert "\n" not in str(caught.value)


parts = st.text(st.sampled_from("ab-. "), min_size=1, max_size=3).filter(lambda part: part not in (".", ".."))
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
facts = st.builds(lambda digit, volatile: {"bytes": 1, "sha256": digit * 64, "volatile": volatile},
                  st.sampled_from("0123"), st.booleans())  # fmt: skip


@given(st.dictionaries(paths, facts, min_size=1, max_size=6))
def test_the_data_version_is_that_of_the_files_in_the_order_of_their_paths(files: dict[str, FileFacts]) -> None:
    counted = {name: facts for name, facts in files.items() if not facts["volatile"]} or files
    text = "".join(f"{path.as_posix()}\0{counted[path.as_posix()]['sha256']}\n" for path in sorted(map(Path, counted)))
    as_read = json.loads(json.dumps(files, sort_keys=True))
    (alone, *others) = [one["sha256"] for one in counted.values()]
    version = hashlib.sha256(text.encode()).hexdigest() if others else alone
    assert data_version_of(files) == data_version_of(as_read) == version


def test_a_manifest_written_with_tuples_and_numbers_as_keys_is_as_it_was(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with lake.replacing(A) as folder:
        write_text(folder / "a.txt", "x")
        write_text(folder / "a" / "b", "x")
        finish_artefact(folder, Manifest("a", "", "", "1", {}, {"x": (1, 2.5), "y": {10: 1e-7, 9: "ü"}}, {}), set())
    assert lake.stale_reasons(A, "1", {"x": [1, 2.5], "y": {"10": 1e-7, "9": "ü"}}.get) == []
