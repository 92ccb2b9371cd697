"""Archives -> plain tables in a temporary folder: zip, tar, gz, bz2, xz, streamed and bounded.

The format follows from the first bytes: a download is often named `content` or `X.ZIP`. A member's name is shown and
never used as a path, so `../x` leads nowhere; links and devices in a tar are not followed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from iot_pipeline.errors import UserError, printable

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".arff")
LOG_ENDINGS = (".log", ".labeled", ".jsonl", ".ndjson")
ARCHIVE_ENDINGS = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
# First bytes -> format. What the standard library does not read is known too, to say so.
STARTS = {
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x28\xb5\x2f\xfd": "zst",
}  # fmt: skip
OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}  # type: ignore[dict-item]
TAR_MARK, TAR_MARK_AT = b"ustar", 257
# Ten million rows of a Zeek log unpack to 2 to 5 GB and shrink 5 to 40 times; a bomb shrinks 1,000 times and more.
FREELY_UNPACKED, MOST_RATIO = 1 << 30, 400
KEPT_FREE = 200_000_000  # bytes that unpacking leaves free on the disk
MOST_MEMBERS = 10_000
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error, RuntimeError,
    NotImplementedError, OSError, ValueError,
)  # fmt: skip


def format_of(file: Path) -> str:
    """Return the archive format of a file by its first bytes: a value of STARTS, `tar`, or an empty string."""
    with file.open("rb") as handle:
        start = handle.read(TAR_MARK_AT + len(TAR_MARK))
    if start[TAR_MARK_AT:] == TAR_MARK:
        return "tar"
    return next((kind for magic, kind in STARTS.items() if start.startswith(magic)), "")


def unpack(file: Path, folder: Path, skipped: list[str] | None = None) -> list[tuple[str, Path]]:
    """Return (display name, plain file) of each table in `file`; `skipped` receives the members that are not read.

    A member named like a table is read; if none is, every one is. Raises UserError for a damaged archive, one within
    another, one that unpacks to too much, and a format that is not read.
    """
    left_out: list[str] = [] if skipped is None else skipped
    kind = format_of(file)
    name = printable(file.name, kept="")
    # The name only tells a damaged archive from a bad CSV.
    claimed = {".zip": "zip", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz", ".tar": "tar"}
    kind = kind or claimed.get(file.suffix.lower(), "")
    if kind in ("7z", "rar", "zst"):
        raise UserError(f"{name} is a {kind} archive, which is not read: unpack it and give the tables in it.")
    budget = Budget(name, file.stat().st_size, folder)
    try:
        if kind == "zip":
            return unzip(file, name, folder, left_out, budget)
        if kind == "tar":
            return untar(file, name, folder, left_out, budget)
        if kind:
            return expand(file, name, kind, folder, left_out, budget)
    except BROKEN as error:
        raise UserError(
            f"{name} cannot be unpacked: {' '.join(str(error).split()) or type(error).__name__}."
        ) from error
    return [(name, file)]


class Budget:
    """Bytes that an archive may unpack to: any number up to FREELY_UNPACKED, then MOST_RATIO times its own."""

    def __init__(self, name: str, packed: int, folder: Path) -> None:
        self._name, self._folder, self._written = name, folder, 0
        self._most = max(FREELY_UNPACKED, MOST_RATIO * packed)

    def copy(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        """Copy a stream; UserError if it passes the limit or would fill the disk."""
        while chunk := incoming.read(1 << 20):
            self._written += len(chunk)
            if self._written > self._most:
                raise UserError(
                    f"{self._name} unpacks to more than {self._most / 1e9:.1f} GB, over {MOST_RATIO} times its size: "
                    "no table of flows does. Unpack it yourself if you trust it, and give the tables in it."
                )
            if self._written % (64 << 20) <= len(chunk) and shutil.disk_usage(self._folder).free < KEPT_FREE:
                raise UserError(
                    f"{self._name} cannot be unpacked: the disk of {self._folder.parent} is full after "
                    f"{self._written / 1e9:.1f} GB. Free some, or set TMPDIR to a folder on another disk."
                )
            outgoing.write(chunk)


def expand(
    file: Path, name: str, kind: str, folder: Path, skipped: list[str], budget: Budget
) -> list[tuple[str, Path]]:
    """Expand a compressed file; what it holds may be a tar.

    Args:
        file: The gz, bz2 or xz file.
        name: Its display name.
        kind: Its format.
        folder: Folder for plain files.
        skipped: Receives members that are not read.
        budget: Limit of bytes.
    """
    with OPENERS[kind](file) as incoming:
        plain = written(incoming, folder, budget)
    inner = format_of(plain)
    if inner == "tar":
        tables = untar(plain, name, folder, skipped, budget)
        plain.unlink()
        return tables
    refuse_nested(name, "a second archive", inner)
    return [(name, plain)]


def unzip(file: Path, name: str, folder: Path, skipped: list[str], budget: Budget) -> list[tuple[str, Path]]:
    """Extract the tables of a zip.

    Args:
        file: The zip.
        name: Its display name.
        folder: Folder for plain files.
        skipped: Receives members that are not read.
        budget: Limit of bytes.
    """
    with zipfile.ZipFile(file) as archive:
        members: list[zipfile.ZipInfo] = []
        for member in archive.infolist():
            hidden = member.filename.startswith("__MACOSX") or Path(member.filename).name.startswith("._")
            if member.is_dir() or hidden:
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                skipped.append(f"{name}/{printable(Path(member.filename).name, kept='')} (a link or a device)")
            else:
                members.append(member)
        if "[Content_Types].xml" in {member.filename for member in members}:
            raise UserError(f"{name} is an Excel workbook or another Office file: save its sheet as CSV.")
        found = chosen(name, [member.filename for member in members], skipped)
        return [extracted(shown, archive.open(members[place]), folder, budget) for place, shown in found]


def untar(file: Path, name: str, folder: Path, skipped: list[str], budget: Budget) -> list[tuple[str, Path]]:
    """Extract the tables of a tar; links and devices are left out.

    Args:
        file: The tar.
        name: Its display name.
        folder: Folder for plain files.
        skipped: Receives members that are not read.
        budget: Limit of bytes.
    """
    with tarfile.open(file, "r:") as archive:
        members: list[tarfile.TarInfo] = []
        for member in archive:
            hidden = Path(member.name).name.startswith("._")
            if member.isreg() and not hidden:
                members.append(member)
            elif not member.isdir() and not hidden:
                skipped.append(f"{name}/{printable(Path(member.name).name, kept='')} (a link or a device)")
            if len(members) > MOST_MEMBERS:
                raise too_many(name)
        found = chosen(name, [member.name for member in members], skipped)
        tables = []
        for place, shown in found:
            stream = archive.extractfile(members[place])
            assert stream is not None  # a regular file
            tables.append(extracted(shown, stream, folder, budget))
        return tables


def chosen(name: str, members: Sequence[str], skipped: list[str]) -> list[tuple[int, str]]:
    """Choose the members to read: (place, display name) of each; the names of the others go to `skipped`.

    Raises UserError if there are no members, too many, an archive among them, or a table twice.
    """
    if not members:
        raise UserError(f"{name} holds no file: give an archive with a CSV in it.")
    if len(members) > MOST_MEMBERS:
        raise too_many(name)
    for member in members:
        if member.lower().endswith(ARCHIVE_ENDINGS):
            refuse_nested(name, printable(Path(member).name, kept=""), "archive")
    by_ending = (
        [place for place, member in enumerate(members) if member.lower().endswith(endings)]
        for endings in (TABLE_ENDINGS, LOG_ENDINGS)
    )
    places = next(filter(None, by_ending), list(range(len(members))))
    shown = [printable(Path(member).name, kept="") for member in members]
    often = Counter(shown[place] for place in places)
    read = set(places)
    skipped += [f"{name}/{text}" for place, text in enumerate(shown) if place not in read]
    # Members of equal names in several folders are told apart by their folder.
    full = [
        printable(member.lstrip("./"), kept="") if often[text] > 1 else text
        for member, text in zip(members, shown, strict=True)
    ]
    if twice := next((text for text, times in Counter(full[place] for place in places).items() if times > 1), ""):
        raise UserError(f"{name} holds {twice} twice, as after `tar -u`: unpack it and give the tables in it.")
    return [(place, f"{name}/{full[place]}") for place in places]


def extracted(shown: str, stream: IO[bytes], folder: Path, budget: Budget) -> tuple[str, Path]:
    """Write one member into the folder; UserError if it is an archive itself.

    Args:
        shown: Display name.
        stream: Its bytes.
        folder: Folder for plain files.
        budget: Limit of bytes.
    """
    with stream:
        plain = written(stream, folder, budget)
    name, _, member = shown.partition("/")
    refuse_nested(name, member, format_of(plain))
    return shown, plain


def refuse_nested(name: str, member: str, kind: str) -> None:
    """Raise UserError if a member is an archive, that is if `kind` is not empty."""
    if kind:
        raise UserError(f"{name} holds an archive within the archive, {member}: unpack it and give the tables in it.")


def too_many(name: str) -> UserError:
    """Return the error for an archive of too many members."""
    return UserError(f"{name} holds more than {MOST_MEMBERS:,} files: unpack it and give a glob of the tables.")


def written(stream: IO[bytes], folder: Path, budget: Budget) -> Path:
    """Write a stream into a new file of the folder, whose name owes nothing to a member's, and return its path."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="plain", delete=False) as outgoing:
        budget.copy(stream, outgoing)
    return Path(outgoing.name)
