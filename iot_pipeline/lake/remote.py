"""A lake in a bucket: the bucket holds the truth, and the lake's folder here is a mirror of what was used or made here.

    objects/<sha256>     files of all artefacts, each once; uploaded before a manifest names them
    log/<artefact>/<n>   manifests and leases (artefact_log.py)
    owners/, clock/      heartbeats of the processes that hold leases (leases.py)
    prompts/, work/      snapshots of prompts; checkpoints of work in progress (remote_work.py)

A file is in the mirror under its artefact, and is fetched when a reader wants it and no file of its hash is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.artefact_log import ArtefactLog, Claim, Entry
from iot_pipeline.lake.atomic import read_json, remove, sha256_file, write_json, write_text
from iot_pipeline.lake.integrity import MANIFEST, SHORT, FileFacts, file_problems
from iot_pipeline.lake.leases import Owner, this_owner
from iot_pipeline.lake.manifest import parse_manifest
from iot_pipeline.lake.object_store import TOGETHER, Objects, ObjectStore
from iot_pipeline.lake.remote_work import RemoteWork

MARKER = ".remote.json"  # in a mirror: the address that it mirrors
OBJECTS, PROMPTS, DESCRIPTION = "objects", "prompts", "lake.json"
FORMAT = 1
_MIRRORED: dict[Path, str] = {}  # address by mirror, of those that this process asked for


@cache
def mirror(address: str, folder: Path) -> Path:
    """Return the mirror of a lake's address below a folder; it is made when the lake is opened (`remote_of`).

    Raises UserError if the address has credentials or a query in it.
    """
    protocol, _, rest = address.partition("://")
    if re.search(r"[@?#]", rest):
        raise UserError("IOT_LAKE has a @, ? or # in its address; credentials belong in AWS_* variables alone")
    if not rest.strip("/"):
        raise UserError(f"IOT_LAKE={address}: names no bucket; write {protocol}://bucket/prefix")
    address = address.rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    root = folder / f"{re.sub(r'[^A-Za-z0-9.-]', '-', address.rpartition('/')[2])}-{digest}"
    _MIRRORED[root.absolute()] = address
    return root


def remote_of(root: Path) -> Remote | None:
    """Return the lake that a folder mirrors; None if the folder is a lake of its own.

    A mirror is made if needed. Raises UserError if it cannot be written.
    """
    try:
        address = read_json(root / MARKER)["address"]
    except OSError:  # none, or the folder cannot be read, which others tell
        if (address := _MIRRORED.get(root.absolute(), "")) == "":
            return None
        _mark(root, address)
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{root / MARKER} does not name the address of a lake; remove this file") from None
    return _remote(root.absolute(), str(address), os.getpid())


def _mark(root: Path, address: str) -> None:
    """Make a mirror, marked as that of an address."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / MARKER, {"address": address})
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}); set IOT_LAKE_CACHE to a writable folder") from None


@cache
def _remote(root: Path, address: str, pid: int) -> Remote:
    return Remote(root, address)


class Remote:
    """Lake at an address, mirrored in `root`. Artefacts go by their file names, `name`, with their folders."""

    def __init__(self, root: Path, address: str, owner: Owner | None = None) -> None:
        self.root, self.address = root, address
        self._owner = owner or this_owner()
        self._claims: dict[str, Claim] = {}
        self._there: dict[str, int] = {}  # bytes of objects by digest
        self._ready = False

    @cached_property
    def objects(self) -> Objects:
        """Store of the address; opened on first use."""
        return ObjectStore(self.address)

    @cached_property
    def log(self) -> ArtefactLog:
        """Log of every artefact. What is kept of it here belongs to one lake, not to the next at the same address."""
        described = self._described()
        cache = self.root / ".log" / Path(described["id"]).name if described else None
        return ArtefactLog(self.objects, self._owner, cache)

    @cached_property
    def work(self) -> RemoteWork:
        """Work in progress, for another host to go on with."""
        return RemoteWork(self.objects, self.root)

    def prepare(self) -> None:
        """Make sure that the store can be written and creates conditionally; describe a new lake."""
        if self._ready:
            return
        if self._described() is None:
            self.objects.probe()
            told = {"format": FORMAT, "id": uuid.uuid4().hex}
            self.objects.create(DESCRIPTION, json.dumps(told).encode())
        self._ready = True

    def exists(self) -> bool:
        """Return True if there is a lake at the address."""
        return self._described() is not None

    def _described(self) -> dict[str, Any] | None:
        """Return what the lake says of itself; None if there is no lake, UserError if another version made it."""
        if (data := self.objects.read(DESCRIPTION)) is None:
            return None
        with contextlib.suppress(ValueError, TypeError, LookupError):
            told: dict[str, Any] = json.loads(data)
            if told["format"] == FORMAT and told["id"]:
                return told
        raise UserError(
            f"IOT_LAKE={self.address}: its {DESCRIPTION} is not of this version of the project; use that one"
        )

    # -- reading -------------------------------------------------------------------------------------------
    def artefacts(self) -> list[tuple[str, str]]:
        """List asset and partition of every artefact that was made."""
        names = self.log.names()
        with ThreadPoolExecutor(TOGETHER) as pool:
            made = list(pool.map(self.log.made, names))
        told = (json.loads(entry.manifest) for entry in made if entry is not None)
        return [(one["asset"], one["partition"]) for one in told]

    def sync(self, name: str, folder: Path) -> bool:
        """Bring manifest and stale mark here to what the bucket says; False if the artefact was never made."""
        made, mark, kept = self.log.made(name), self.log.mark(name), self.root / ".stale" / name
        if mark and (not kept.is_file() or kept.read_text(encoding="utf-8") != mark):
            write_text(kept, mark)
        elif not mark and kept.is_file():
            kept.unlink(missing_ok=True)
        if made is None:
            return False
        if not _holds(folder, made):
            with self.swapping(name):
                if (folder / MANIFEST).is_file():  # of another process here, perhaps, and newer than our listing
                    made = self.log.made(name, 0.0) or made
                if not _holds(folder, made):
                    _replace(folder, made, f"{self.address}, manifest of {name}")
        return True

    def problems(self, name: str, folder: Path, files: Mapping[str, FileFacts], known: Path) -> list[str]:
        """List the files that are neither intact here nor in the bucket, one sentence each.

        Args:
            name: File name of the artefact.
            folder: Its folder here.
            files: File facts from its manifest, by path within the folder.
            known: Cache file of its verified hashes.
        """
        absent = self._absent(folder, files, known)
        with ThreadPoolExecutor(TOGETHER) as pool:
            sizes = list(pool.map(lambda one: self._size(files[one]["sha256"]), absent)) if absent else []
        return [
            f"file {one} is missing in the bucket" if size is None
            else f"file {one} was changed in the bucket (expected {_short(files[one])}, found another content)"
            for one, size in zip(absent, sizes, strict=True) if size != files[one]["bytes"]
        ]  # fmt: skip

    def fetch(self, name: str, folder: Path, files: Mapping[str, FileFacts], known: Path) -> bool:
        """Fetch the files of an artefact that are not intact here; False if the folder has another manifest by now.

        Args:
            name: File name of the artefact.
            folder: Its folder here.
            files: File facts from its manifest, by path within the folder.
            known: Cache file of its verified hashes.

        Raises:
            UserError: A file is gone from the bucket, or was changed in it.
        """
        if not self._absent(folder, files, known):
            return True
        with self.swapping(name):
            there = _files(folder)
            if any(there.get(one, {}).get("sha256") != facts["sha256"] for one, facts in files.items()):
                return False  # another process here has put a newer one in its place
            absent = self._absent(folder, files, known)
            with ThreadPoolExecutor(TOGETHER) as pool:
                for _ in pool.map(lambda one: self._fetch_file(name, folder / one, files[one]), absent):
                    pass
        return True

    def _absent(self, folder: Path, files: Mapping[str, FileFacts], known: Path) -> list[str]:
        return list(file_problems(folder, files, known, record=True))

    def _fetch_file(self, name: str, path: Path, facts: FileFacts) -> None:
        key, part = f"{OBJECTS}/{facts['sha256']}", path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.fetching")
        try:
            for _ in range(2):  # a transfer may be cut off
                if not self.objects.download(key, part):
                    raise UserError(f"{name}: file {path.name} is missing in the bucket; `iot-pipeline run` mends it")
                if sha256_file(part) == facts["sha256"]:
                    os.replace(part, path)
                    return
        finally:
            part.unlink(missing_ok=True)
        self._set_bad(facts["sha256"])
        raise UserError(
            f"{name}: file {path.name} was changed in the bucket (expected {_short(facts)}); `iot-pipeline run` makes "
            "the artefact again"
        )

    def _size(self, digest: str) -> int | None:
        """Return the bytes of an object; -1 if its content was found to be another, None if there is none."""
        if self._bad(digest).is_file():
            return -1
        if digest not in self._there and (found := self.objects.look(f"{OBJECTS}/{digest}")) is not None:
            self._there[digest] = found.bytes
        return self._there.get(digest)

    def _bad(self, digest: str) -> Path:
        return self.root / ".bad" / digest

    def _set_bad(self, digest: str) -> None:
        write_text(self._bad(digest), "")

    # -- writing -------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def claimed(self, names: Iterable[str]) -> Iterator[None]:
        """Hold the leases of artefacts; those that this process holds already stay with whoever took them.

        Raises BusyError if another process holds one of them.
        """
        mine: list[str] = []
        try:
            for name in sorted({*names} - self._claims.keys()):
                self._claims[name] = self.log.claim(name)
                mine.append(name)
            yield
        finally:
            for claim in [self._claims.pop(name) for name in mine if name in self._claims]:
                with contextlib.suppress(UserError):  # it expires
                    self.log.release(claim)

    def holder(self, name: str) -> Owner | None:
        """Return the other process that holds the lease of an artefact and may be alive."""
        return self.log.holder(name)

    def check(self, name: str) -> None:
        """Raise UserError if the lease of an artefact was lost."""
        if claim := self._claims.get(name):
            self.log.check(claim)

    def publish(self, name: str, staging: Path) -> None:
        """Upload the files of a staged artefact, then its manifest, which ends the lease.

        Raises UserError if the lease was lost: then nothing is published.
        """
        manifest = (staging / MANIFEST).read_text(encoding="utf-8")
        files: dict[str, FileFacts] = json.loads(manifest)["files"]
        self.check(name)
        with ThreadPoolExecutor(TOGETHER) as pool:
            for _ in pool.map(lambda one: self._upload(staging / one, files[one]), files):
                pass
        self.log.publish(self._claims[name], manifest)
        del self._claims[name]

    def _upload(self, path: Path, facts: FileFacts) -> None:
        """Upload a file, unless an object of its hash and size is there that was never found to be changed."""
        digest = facts["sha256"]
        if self._size(digest) != facts["bytes"]:
            self.objects.upload(path, f"{OBJECTS}/{digest}")
            self._there[digest] = facts["bytes"]
            self._bad(digest).unlink(missing_ok=True)

    @contextlib.contextmanager
    def swapping(self, name: str) -> Iterator[None]:
        """Wait for other processes on this mirror that change the folder of an artefact, and keep them from it."""
        path = self.root / ".locks" / f"{name}.mirror"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def keep_work(self, name: str, folder: Path) -> bool:
        """Fetch the work of an artefact that is made here, if another host went on with it, and upload it from now on.

        Returns True if it was fetched.
        """
        fetched = self.work.resume(name, folder)
        self.work.keep(name, folder, lambda: name in self._claims)
        return fetched

    # -- snapshots of prompts --------------------------------------------------------------------------------
    def keep_snapshot(self, name: str, text: str) -> None:
        """Keep a prompt under a name in the bucket."""
        self.objects.write(f"{PROMPTS}/{name}", text.encode())

    def fetch_snapshots(self, folder: Path) -> None:
        """Fetch the snapshots that are not in a folder."""
        for key in self.objects.listing(PROMPTS):
            self.fetch_snapshot(folder / Path(key).name)

    def fetch_snapshot(self, path: Path) -> None:
        """Fetch a snapshot by the name of its file, if it is in the bucket and not here."""
        if not path.is_file():
            self.objects.download(f"{PROMPTS}/{path.name}", path)


def _holds(folder: Path, made: Entry) -> bool:
    """Return True if a folder's manifest is that of an entry, to the byte."""
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8") == made.manifest
    except (OSError, UnicodeDecodeError):
        return False


def _replace(folder: Path, made: Entry, place: str) -> None:
    """Replace a folder by one with the manifest of an entry and links to the old files of the same hash.

    Raises UserError if the manifest, which is in the bucket at `place`, is none or names files outside the folder.
    """
    files = parse_manifest(made.manifest, place, "`iot-pipeline run` makes the artefact again").files
    fresh, old = (folder.with_name(f".{folder.name}.mirror.{kind}") for kind in ("staging", "retired"))
    remove(fresh)
    fresh.mkdir(parents=True)
    before = _files(folder)
    for name, facts in files.items():
        if before.get(name, {}).get("sha256") == facts["sha256"]:
            with contextlib.suppress(OSError):  # fetched, if it cannot be linked
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / name, fresh / name, follow_symlinks=False)
    write_text(fresh / MANIFEST, made.manifest)
    os.utime(fresh / MANIFEST, (made.at, made.at))  # shown as the time of making
    remove(old)
    if os.path.lexists(folder):
        os.rename(folder, old)
    os.rename(fresh, folder)
    remove(old)


def _files(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(folder / MANIFEST)["files"]
        return found
    except (OSError, ValueError, LookupError):
        return {}


def _short(facts: FileFacts) -> str:
    return f"sha256 {facts['sha256'][:SHORT]}"
