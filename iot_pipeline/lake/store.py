"""The lake of one data set and profile: one folder and one manifest per artefact (asset and partition).

The store locates an artefact, replaces it atomically, and checks from the manifest that it still follows from its
inputs, settings and code, and that the content of every file is intact (integrity.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.atomic import fsync, held, remove, sha256_file, write_json, write_text
from iot_pipeline.lake.integrity import MANIFEST, SHORT, data_version_of, file_problems, known_hash, record_finished
from iot_pipeline.lake.manifest import ArtefactId, Manifest, parse_manifest
from iot_pipeline.lake.remote import remote_of
from iot_pipeline.vocabulary import partition_parts

LOCKS, VERIFIED, STALE = ".locks", ".verified", ".stale"
SNAPSHOTS = "prompts"  # every prompt that was ever used, as <sha256>.md
MOST_BYTES = 100_000_000  # of a manifest; that of 10,000 files has 2 MB
LARGE_BYTES = 10_000_000  # of a source: from here on, hashing takes longer than looking up a known hash
SWAP_LOOKS, SWAP_S = 50, 0.01  # a swap is two renames
FOLLOWS = "follows from "  # how the reason of an artefact begins that another one makes stale


class Lake:
    """Artefacts under `root`: `<asset>/<partition parts>/`, each folder with a manifest.

    Nothing is written before the first artefact is built; with `read_only`, not even verification results are recorded.
    Where `root` mirrors a lake in a bucket (remote.py), that one is read and written, and the folder is its cache.
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root, self.read_only = root, read_only
        self.remote = remote_of(root)

    @property
    def address(self) -> str:
        """Where the lake is, for messages: its folder, or its address in a bucket."""
        return self.remote.address if self.remote else str(self.root)

    def check_writable(self) -> None:
        """Create the root folder if needed; UserError if it cannot be written to."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write to the lake {self.root} ({error.strerror}); set IOT_LAKE to a writable folder"
            ) from None
        if self.remote:
            self.remote.prepare()

    def check_exists(self, remedy: str = "`iot-pipeline run` makes one") -> None:
        """Raise UserError, with a remedy, if there is no lake."""
        if not (self.remote.exists() if self.remote else self.root.is_dir()):
            raise UserError(f"no lake at {self.address}; {remedy}")

    def place(self, artefact: ArtefactId) -> Path:
        """Return the path of an artefact's folder, whatever is in it: `original[10K]` is in `original/10K`.

        Raises UserError for a name that leads out of the lake, such as a manifest of a stranger may have.
        """
        parts = [artefact.asset, *partition_parts(artefact.partition)]
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
            raise UserError(f"{printable(str(artefact), '')[:80]} is no name of an artefact")
        return self.root.joinpath(*parts)

    def folder(self, artefact: ArtefactId) -> Path:
        """Return the folder of an artefact, which may not exist yet; its files are fetched, if they are in a bucket."""
        place, known = self.place(artefact), self._known(artefact)
        while self.remote and (manifest := self.manifest(artefact)) is not None:
            if self.remote.fetch(artefact.file_name, place, manifest.files, known):
                break
        return place

    def _known(self, artefact: ArtefactId) -> Path:
        """Return the cache file of verified hashes."""
        return self.root / VERIFIED / f"{artefact.file_name}.json"

    def manifest(self, artefact: ArtefactId) -> Manifest | None:
        """Return the manifest of an artefact, or None if it does not exist; undoes an interrupted swap first."""
        folder = self.place(artefact)
        if self.remote:
            if not self.remote.sync(artefact.file_name, folder):
                return None
        else:
            self._await_swap(artefact, folder)
        path = folder / MANIFEST
        manifest = read_manifest(path) if path.is_file() else None
        if manifest is None or (manifest.asset, manifest.partition) != (artefact.asset, artefact.partition):
            return None  # the folder of `original[10K]` held `original[10K|original]` until November 2026
        return manifest

    def _await_swap(self, artefact: ArtefactId, folder: Path) -> None:
        """Undo a swap that was killed between its two renames, or wait for the end of one that is going on."""
        for _ in range(SWAP_LOOKS):
            if folder.exists() or not retired(folder).exists():
                return
            if not self.read_only:
                with contextlib.suppress(UserError), self._only_writer(artefact):
                    return self._recover(folder)
            time.sleep(SWAP_S)

    def altered(self, artefact: ArtefactId, manifest: Manifest) -> list[str]:
        """List the changes to an artefact since it was built, in manifest and files, one sentence each."""
        problem, known, folder = manifest_problem(manifest), self._known(artefact), self.place(artefact)
        found = [f"manifest was changed ({problem})"] if problem else []
        if self.remote:
            return found + self.remote.problems(artefact.file_name, folder, manifest.files, known)
        return [*found, *file_problems(folder, manifest.files, known, record=not self.read_only).values()]

    def verified(self, artefact: ArtefactId) -> Path:
        """Return the folder of an artefact if all its files are intact; UserError if not, or if it does not exist."""
        manifest, folder = self.manifest(artefact), self.place(artefact)
        if manifest is None:
            raise UserError(f"{artefact} has not been made; `iot-pipeline run` makes it")
        if problems := self.altered(artefact, manifest):
            raise UserError(f"{artefact}: {problems[0]}; `iot-pipeline run` makes it again (or delete {folder} first)")
        return self.folder(artefact)

    def source_hash(self, path: Path) -> str:
        """Return the sha256 of a file outside the lake; a large one that did not change is not read again."""
        if path.stat().st_size <= LARGE_BYTES:
            return sha256_file(path)
        return known_hash(path, self.root / VERIFIED / "sources.json", record=not self.read_only)

    def mark_stale(self, artefact: ArtefactId, reason: str) -> None:
        """Mark an artefact as stale for a reason that its inputs do not show; making it again removes the mark."""
        self.check_writable()
        if self.remote:
            self.remote.log.set_mark(artefact.file_name, reason)
        else:
            write_text(self.root / STALE / artefact.file_name, reason)

    def keep_snapshot(self, text: str) -> Path:
        """Write a prompt to `prompts/<sha256>.md`, where it stays when a later one replaces the artefact."""
        path = self.root / SNAPSHOTS / f"{hashlib.sha256(text.encode()).hexdigest()}.md"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)
        if self.remote:
            self.remote.keep_snapshot(path.name, text)
        return path

    def snapshot(self, version: str) -> Path:
        """Return the path of a prompt's snapshot, which may not exist."""
        path = self.root / SNAPSHOTS / Path(f"{version}.md").name
        if self.remote:
            self.remote.fetch_snapshot(path)
        return path

    @contextlib.contextmanager
    def replacing(self, artefact: ArtefactId) -> Iterator[Path]:
        """Yield an empty folder to fill; on success it replaces the artefact's folder.

        Raises UserError if another process is building the same artefact.
        """
        self.check_writable()
        folder = self.place(artefact)
        staging = folder.with_name(f".{folder.name}.staging")
        with self._only_writer(artefact), self.claimed([artefact]):
            remove(staging)
            staging.mkdir(parents=True)
            try:
                yield staging
            except BaseException:
                remove(staging)
                raise
            for path in staging.rglob("*"):
                fsync(path)
            if self.remote:
                self.remote.publish(artefact.file_name, staging)
            with self.remote.swapping(artefact.file_name) if self.remote else contextlib.nullcontext():
                self._swap(artefact, staging, folder)

    def _swap(self, artefact: ArtefactId, staging: Path, folder: Path) -> None:
        """Put a finished folder in an artefact's place."""
        old = retired(folder)
        self._recover(folder)
        if os.path.lexists(folder):
            os.rename(folder, old)
        os.rename(staging, folder)
        fsync(folder.parent)
        remove(old)
        (self.root / STALE / artefact.file_name).unlink(missing_ok=True)
        if (path := folder / MANIFEST).is_file():  # hashed a moment ago: not again by its first reader
            record_finished(folder, path, read_manifest(path).files, self._known(artefact))

    def claimed(self, artefacts: Iterable[ArtefactId]) -> contextlib.AbstractContextManager[None]:
        """Hold the leases of artefacts, if the lake is in a bucket; BusyError if another process holds one."""
        if self.remote is None:
            return contextlib.nullcontext()
        self.remote.prepare()
        return self.remote.claimed([artefact.file_name for artefact in artefacts])

    def keep_work(self, artefact: ArtefactId, folder: Path) -> bool:
        """Have the work on an artefact kept in the bucket, if the lake is in one; True if work was fetched from there.

        folder: The work folder, named by the fingerprint of what the work depends on.
        """
        return self.remote is not None and self.remote.keep_work(artefact.file_name, folder)

    def drop_work(self, artefact: ArtefactId) -> None:
        """Remove the work on a finished artefact from the bucket, if the lake is in one."""
        if self.remote:
            self.remote.work.drop(artefact.file_name)

    def check_lease(self, artefact: ArtefactId) -> None:
        """Raise UserError if another process took the lease of an artefact that this one makes."""
        if self.remote:
            self.remote.check(artefact.file_name)

    @contextlib.contextmanager
    def _only_writer(self, artefact: ArtefactId) -> Iterator[None]:
        """Lock the artefact for this process: runs in the UI and on the command line may build the same one."""
        path = self.root / LOCKS / artefact.file_name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"cannot write to {path} ({error.strerror}); mend its permissions or set IOT_LAKE"
            raise UserError(told) from None
        with held(path, f"{artefact} is being made by another process on this lake; wait for it"):
            yield

    def _recover(self, folder: Path) -> None:
        """Undo a swap that was killed between its two renames: the complete old folder is restored."""
        old = retired(folder)
        if os.path.lexists(old):
            if folder.exists() or not old.is_dir() or old.is_symlink():
                remove(old)
            else:
                remove(folder)
                os.rename(old, folder)

    def artefacts(self) -> list[ArtefactId]:
        """List every artefact that has a manifest, sorted."""
        if self.remote:
            return sorted(ArtefactId(*one) for one in self.remote.artefacts())
        found = []
        for place, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if MANIFEST in files:
                manifest = read_manifest(Path(place) / MANIFEST)
                artefact = ArtefactId(manifest.asset, manifest.partition)
                found += [artefact] if self.place(artefact) == Path(place) else []
        return sorted(found)

    def stale_reasons(
        self,
        artefact: ArtefactId,
        code_version: str,
        present: Callable[[str], Any],
        ahead: Mapping[ArtefactId, Sequence[str]] = MappingProxyType({}),
    ) -> list[str]:
        """List the reasons why an artefact must be rebuilt; empty if it follows from its inputs.

        Compares checks, code version, settings, external files, inputs and the content of the artefact's own files.

        Args:
            artefact: The artefact to examine.
            code_version: Version of the code that would build it now.
            present: Returns the present value of a recorded read (`setting seed`).
            ahead: Artefacts that a run would rebuild before this one, each with its root causes ("follows from ...").
                With it, the answer is what a run would find; without it, what holds now.
        """
        manifest = self.manifest(artefact)
        if manifest is None:
            return ["not made yet"]
        reasons = self.altered(artefact, manifest)  # first: what an edited manifest says beside that is worth nothing
        reasons += [f"blocking check {name} did not pass" for name in manifest.failed_blocking()]
        if (mark := self.root / STALE / artefact.file_name).is_file():
            reasons.append(mark.read_text(encoding="utf-8"))
        if manifest.code_version != code_version:
            reasons.append(f"code changed ({manifest.code_version} -> {code_version})")
        for name, value in manifest.settings.items():
            kind, _, prefix = name.partition(" ")
            if kind == "artefacts":
                to_come = {str(other): why for other, why in ahead.items() if other.belongs_to(prefix)}
                for other in sorted({*present(name), *to_come} ^ {*value}):
                    reasons += to_come.get(other, [f"{name} changed"])
            elif present(name) != value:
                reasons.append(f"{name} changed")
        for upstream, version in manifest.upstream().items():
            if upstream in ahead:
                reasons += ahead[upstream]
            elif (made := self.manifest(upstream)) is None or made.data_version != version:
                reasons.append(f"input {upstream} {'is missing' if made is None else 'changed'}")
        return list(dict.fromkeys(reasons))

    def broken_lineage(
        self, artefact: ArtefactId, present: Callable[[str], Any], known: dict[ArtefactId, str] | None = None
    ) -> str:
        """Return why an artefact no longer follows from its own and all upstream inputs; empty if it does.

        Code versions are not compared: each artefact records which code built it. `known` caches answers.
        """
        known = {} if known is None else known
        if artefact not in known:
            manifest = self.manifest(artefact)
            if manifest is None:
                known[artefact] = f"{artefact} has not been made"
            elif reasons := self.stale_reasons(artefact, manifest.code_version, present):
                known[artefact] = f"{artefact}: {reasons[0]}"
            else:
                broken = (self.broken_lineage(other, present, known) for other in manifest.upstream())
                known[artefact] = next(filter(None, broken), "")
        return known[artefact]


def retired(folder: Path) -> Path:
    """Return the path of an artefact's old folder while the new one replaces it."""
    return folder.with_name(f".{folder.name}.retired")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest in a file; UserError if it is not one."""
    remedy = "delete the folder to make it again"
    try:
        if not path.is_file() and path.exists():  # reading a pipe or a device would not end
            raise UserError(f"{path} is no file; {remedy}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is not a manifest ({path.stat().st_size:,} bytes); {remedy}")
        return parse_manifest(path.read_bytes(), path, remedy)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions") from None


def finish_artefact(staging: Path, manifest: Manifest, volatile: set[str]) -> Manifest:
    """Hash the files of a staged artefact, set its data version and write its manifest into the folder.

    `volatile` names files (timings, machine facts) that are listed but do not count for the data version. If an
    artefact has only such files, they do count.
    """
    for path in sorted(p for p in staging.rglob("*") if p.is_file()):
        name = path.relative_to(staging).as_posix()
        manifest.files[name] = {
            "bytes": path.stat().st_size, "sha256": sha256_file(path), "volatile": name in volatile,
        }  # fmt: skip
    manifest.data_version = data_version_of(manifest.files)
    manifest.digest = manifest_digest(manifest)
    write_json(staging / MANIFEST, asdict(manifest))
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """Compute the digest of a manifest's content, except the digest itself."""
    said = {name: value for name, value in asdict(manifest).items() if name != "digest"}
    as_read = json.loads(json.dumps(said))  # keys and sequences as they come back from the file
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def manifest_problem(manifest: Manifest) -> str:
    """Describe the first contradiction within a manifest, a sign of an edit; empty if there is none."""
    if (version := data_version_of(manifest.files)) != manifest.data_version:
        return f"data_version {manifest.data_version[:SHORT]}, but the hashes of its files give {version[:SHORT]}"
    if manifest.digest and (digest := manifest_digest(manifest)) != manifest.digest:
        return f"digest {manifest.digest[:SHORT]}, but its content gives {digest[:SHORT]}"
    return ""
