"""Archives: every kind gives the table in it, hostile ones one sentence, and nothing is written outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading import archives
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import find_files, read_tables
from iot_pipeline_tests.flows.reading.tables import LINES, TEXT, read

HALVES = {"a/one.csv": TEXT, "b/one.csv": TEXT, "README.txt": "Cite us.\n"}


def tarred(members: dict[str, str], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    """A tar of text members and of further entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            archive.addfile(info)
    return buffer.getvalue()


def zipped(members: dict[str, bytes | str]) -> bytes:
    """A zip of members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """An entry of a tar that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["t.bin", "t.csv", "content"])
@pytest.mark.parametrize(
    "data",
    [
        tarred({"t.csv": TEXT}), gzip.compress(tarred({"x/t.csv": TEXT})), bz2.compress(TEXT.encode()),
        lzma.compress(TEXT.encode()), bz2.compress(tarred({"t.csv": TEXT})), zipped({"t.csv": TEXT}),
        gzip.compress(TEXT[:300].encode()) + gzip.compress(TEXT[300:].encode()),
    ],
)  # fmt: skip
def test_every_kind_of_archive_is_known_by_its_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    assert read(tmp_path, data, name=name)[1].rows == 40


@pytest.mark.parametrize("data", [zipped(dict(HALVES)), gzip.compress(tarred(HALVES))])
def test_several_tables_are_one_source_and_equal_names_are_told_apart(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.x").write_bytes(data)
    report = read_tables(str(tmp_path / "t.x"), tmp_path / "raw.parquet", ReadingRules(), with_files=True)
    assert (report.rows, report.skipped) == (80, ["t.x/README.txt"])
    import pandas as pd

    assert set(pd.read_parquet(tmp_path / "raw.parquet")["iot_source_file"]) == {"t.x/a/one.csv", "t.x/b/one.csv"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.zip", zipped({"in.zip": zipped({"t.csv": TEXT})}), r"t.zip holds an archive within the archive, in.zip"),
        ("t.zip", zipped({"t.csv": gzip.compress(TEXT.encode())}), "archive within the archive, t.csv"),
        ("t.gz", gzip.compress(gzip.compress(TEXT.encode())), "archive within the archive, a second archive"),
        ("t.tar", tarred({"x.tar.gz": TEXT, "t.csv": TEXT}), "archive within the archive, x.tar.gz"),
        ("t.tar", tarred({"t.csv": TEXT, "./t.csv": TEXT + LINES[0] + "\n"}), "holds t.csv twice, as after `tar -u`"),
        ("t.7z", b"7z\xbc\xaf\x27\x1c" + bytes(90), "t.7z is a 7z archive, which is not read: unpack it"),
        ("t.rar", b"Rar!\x1a\x07\x01\x00" + bytes(90), "is a rar archive"),
        ("t.zst", b"\x28\xb5\x2f\xfd" + bytes(90), "is a zst archive"),
        ("t.tar", tarred({}, (link("t.csv", "/etc/passwd"),)), "holds no file"),
        ("t.xz", lzma.compress(TEXT.encode())[:-20], "cannot be unpacked"),
        ("t.tgz", gzip.compress(tarred({"t.csv": TEXT}))[:-30], "cannot be unpacked"),
        ("t.tar", tarred({"t.csv": TEXT})[:700], "cannot be unpacked"),
        ("t.zip", zipped({"t.csv": ""}), r"t.zip/t.csv is empty"),
    ],
)
def test_what_is_not_read_is_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, data, name=name)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["../../evil.csv", "/tmp/iot_evil.csv", "a\nb\x1b[31m.csv", "x" * 240 + ".csv"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_members_name_is_no_path(tmp_path: Path, name: str, pack: object) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    before = set(Path("/tmp").glob("*evil*"))
    found, report = read(folder, pack({name: TEXT, "other.csv": TEXT.replace("t", "t")}))  # type: ignore[operator]
    assert len(found) == 80
    assert all(character.isprintable() for note in [*report.notes, *report.skipped] for character in note)
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and set(Path("/tmp").glob("*evil*")) == before


def test_links_and_devices_in_a_tar_are_left_out_and_told(tmp_path: Path) -> None:
    extra = (link("a.csv", "/etc/passwd"), link("b.csv", "t.csv", tarfile.LNKTYPE), link("c", "", tarfile.FIFOTYPE))
    report = read(tmp_path, tarred({"t.csv": TEXT}, extra))[1]
    assert report.rows == 40
    assert report.skipped == [f"t.csv/{name} (a link or a device)" for name in ("a.csv", "b.csv", "c")]


def test_a_link_in_a_zip_is_left_out_and_told(tmp_path: Path) -> None:
    buffer = io.BytesIO(zipped({"t.csv": TEXT}))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("a.csv")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    report = read(tmp_path, buffer.getvalue())[1]
    assert (report.rows, report.skipped) == (40, ["t.csv/a.csv (a link or a device)"])


@pytest.mark.parametrize(
    "data", [gzip.compress(bytes(8_000_000)), lzma.compress(bytes(8_000_000)), zipped({"t.csv": bytes(8_000_000)})]
)
def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREELY_UNPACKED", 1 << 20)
    with pytest.raises(UserError, match=r"unpacks to more than .* over 400 times its size"):
        read(tmp_path, data)
    monkeypatch.setattr(archives, "MOST_RATIO", 100_000)  # what it holds is no table either
    with pytest.raises(UserError, match=r"is not a CSV file"):
        read(tmp_path, data)


def test_a_disk_that_runs_full_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "KEPT_FREE", 1 << 60)
    with pytest.raises(UserError, match=r"the disk .* is full after .* Free some, or set TMPDIR"):
        read(tmp_path, gzip.compress(TEXT.encode()))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    for data in (zipped({f"{n}.csv": TEXT for n in range(5)}), tarred({f"{n}.csv": TEXT for n in range(5)})):
        with pytest.raises(UserError, match="holds more than 3 files"):
            read(tmp_path, data)


def test_what_is_no_regular_file_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / os.fsdecode(b"no_text_\xff.csv")).touch()
    for source, message in (
        ("pipe.csv", "is a pipe, which can be read once only"),
        ("no_text_*.csv", "is not UTF-8: rename the file or folder"),
        ("folder.csv", "is not a file"),
        ("loop.csv", "is not a file"),
    ):
        with pytest.raises(UserError, match=message):
            find_files(str(tmp_path / source))
    with pytest.raises(UserError, match="is not a file"):
        find_files("/dev/zero")
