"""What is kept is whole, found by its key alone, and never half written."""

from contextlib import nullcontext
from pathlib import Path
from tempfile import mkdtemp

import pytest

from iot_pipeline.lake import build_cache
from iot_pipeline.lake.build_cache import lookup, store


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"1234")
    (folder / "report").write_text("fine")
    (folder / "scratch").write_text("not kept")
    return folder


def test_what_is_kept_is_taken_by_its_key(made: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert lookup(cache, "k1") is None
    store(cache, "k1", made, ["model", "report"])
    folder = lookup(cache, "k1")
    assert folder is not None and (folder / "model" / "weights").read_bytes() == b"1234"
    assert not (folder / "scratch").exists() and lookup(cache, "k2") is None
    assert [path.name for path in cache.iterdir()] == ["k1"]


@pytest.mark.parametrize("damage", ["change", "remove", "list"])
def test_a_damaged_one_is_not_taken_and_is_replaced(made: Path, tmp_path: Path, damage: str) -> None:
    store(tmp_path / "cache", "k", made, ["model", "report"])
    folder = tmp_path / "cache" / "k"
    if damage == "change":
        (folder / "model" / "weights").write_bytes(b"12x4")
    elif damage == "remove":
        (folder / "report").unlink()
    else:
        (folder / "content.json").write_text("{")
    assert lookup(tmp_path / "cache", "k") is None
    store(tmp_path / "cache", "k", made, ["model", "report"])
    assert lookup(tmp_path / "cache", "k") == folder


def test_of_two_that_make_one_entry_the_first_stays_for_its_readers(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, write = tmp_path / "cache", build_cache.write_json

    def slowly(path: Path, content: dict[str, str]) -> None:
        monkeypatch.setattr(build_cache, "write_json", write)
        store(cache, "k", made, ["model", "report"])  # another process is quicker
        write(path, content)

    def removed(folder: Path, ignore_errors: bool = False) -> None:
        assert not folder.exists(), "a reader's files were removed"

    monkeypatch.setattr(build_cache, "write_json", slowly)
    with monkeypatch.context() as patched:
        patched.setattr(build_cache.shutil, "rmtree", removed)
        patched.setattr(build_cache.tempfile, "TemporaryDirectory", lambda **told: nullcontext(mkdtemp(**told)))
        store(cache, "k", made, ["model", "report"])
    assert lookup(cache, "k") == cache / "k"


def test_what_cannot_be_kept_is_an_error_of_the_system(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        store(tmp_path / "file" / "cache", "k", made, ["report"])
