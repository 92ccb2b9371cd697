"""Content verification: the files of an artefact against the SHA-256 of each in its manifest.

Hashing takes seconds per gigabyte, so a small cache file per artefact (`<lake>/.verified/`) stores size, mtime, ctime
and inode of each file whose hash matched; a file with the same four values is not read again. The cache is only a
shortcut: without it, or on a read-only lake, every file is hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints
from typing_extensions import TypedDict

from iot_pipeline.lake.atomic import sha256_file, write_json

MANIFEST = "manifest.json"
SHORT = 12  # digits of a hash in a sentence


def inner_path(name: str) -> str:
    """Return the path of a file within its artefact's folder; ValueError for one that may lead out of it."""
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("a path leads out of the artefact's folder")
    return name


FileName = Annotated[str, AfterValidator(inner_path)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


# Of typing_extensions: pydantic, which reads manifests, takes typing's own from Python 3.12 on only.
class FileFacts(TypedDict):
    """Size and hash of one file. Volatile files (timings, machine facts) do not count for the data version."""

    bytes: int
    sha256: Sha256
    volatile: bool


def data_version_of(files: Mapping[str, FileFacts]) -> str:
    """Compute the data version from the hashes of the files that are not volatile; of all where there are no others.

    The version of a single file is its sha256, so that a prompt is named by the hash of its text.
    """
    lasting = {name: facts for name, facts in files.items() if not facts["volatile"]} or files
    if len(lasting) == 1:
        return next(iter(lasting.values()))["sha256"]
    digest = hashlib.sha256()
    # In the order of paths, in which they were first hashed; JSON has them in that of strings (`a.txt` before `a/b`).
    for name, facts in sorted(lasting.items(), key=lambda item: item[0].split("/")):
        digest.update(f"{name}\0{facts['sha256']}\n".encode())
    return digest.hexdigest()


def file_problem(path: Path, facts: FileFacts) -> tuple[str, str] | None:
    """Compare a file with its facts by hashing it; return (expected, found) if they differ."""
    expected = f"sha256 {facts['sha256'][:SHORT]}"
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "a file", "something else"
        if size != facts["bytes"]:
            return f"{facts['bytes']:,} bytes", f"{size:,} bytes"
        found = sha256_file(path)
    except FileNotFoundError:
        return expected, "no file"
    except OSError as error:
        return expected, f"a file that cannot be read ({error.strerror})"
    return None if found == facts["sha256"] else (expected, f"sha256 {found[:SHORT]}")


def file_problems(folder: Path, files: Mapping[str, FileFacts], cache: Path, record: bool) -> dict[str, str]:
    """Return a sentence for each file that is missing or differs from the manifest.

    Args:
        folder: Folder of the artefact.
        files: File facts from its manifest, by path within the folder.
        cache: Cache file of the artefact.
        record: True to write newly verified files to the cache.
    """
    known, verified, problems = _read(cache), dict[str, list[str | int]](), dict[str, str]()
    for name, facts in files.items():
        # Taken before hashing: a file that changes meanwhile has another stamp afterwards and is hashed again.
        stamp = _stamp(folder / name, facts["sha256"])
        if stamp is None:
            problems[name] = f"file {name} is missing"
        elif known.get(name) != stamp and (problem := file_problem(folder / name, facts)):
            problems[name] = f"file {name} was changed (expected {problem[0]}, found {problem[1]})"
        else:
            verified[name] = stamp
    if record and verified != known:
        _write(cache, verified)
    return problems


def record_finished(folder: Path, manifest: Path, files: Mapping[str, FileFacts], cache: Path) -> None:
    """Record the files of a newly hashed artefact in its cache, except files changed after the manifest was written.

    Args:
        folder: Folder of the artefact.
        manifest: Its manifest file.
        files: File facts from the manifest, by path within the folder.
        cache: Cache file of the artefact.
    """
    last = manifest.stat().st_ctime_ns
    stamps = {name: _stamp(folder / name, facts["sha256"]) for name, facts in files.items()}
    _write(cache, {name: stamp for name, stamp in stamps.items() if stamp is not None and int(stamp[3]) <= last})


def known_hash(path: Path, cache: Path, record: bool) -> str:
    """Return the SHA-256 of a file outside the lake, which is read only if it changed since the cache saw it."""
    known = _read(cache)
    digest, *seen = known.get(str(path), [""])
    stamp = _stamp(path, "")
    if stamp is None or seen != stamp[1:]:
        digest = sha256_file(path)
        if record and stamp is not None:
            _write(cache, known | {str(path): [digest, *stamp[1:]]})
    return str(digest)


def _stamp(path: Path, digest: str) -> list[str | int] | None:
    """Return the given hash, and size, mtime, ctime and inode of the file; None if it does not exist."""
    try:
        now = path.stat()
    except OSError:
        return None
    return [digest, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]


def _read(cache: Path) -> dict[str, list[str | int]]:
    if not cache.is_file():  # reading a pipe would not end
        return {}
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(cache: Path, verified: Mapping[str, list[str | int]]) -> None:
    with contextlib.suppress(OSError):  # a lake that may only be read is hashed every time
        write_json(cache, verified)
