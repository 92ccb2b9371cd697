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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import fsync, held, remove, sha256_file, write_json, write_text
from iot_pipeline.lake.integrity import SHORT, FileFacts, changed_files, data_version_of, known_hash, record_finished
from iot_pipeline.vocabulary import partition_parts, unstaged

MANIFEST = "manifest.json"
LOCKS, VERIFIED, STALE = ".locks", ".verified", ".stale"
SNAPSHOTS = "prompts"  # every prompt that was ever used, as <sha256>.md
MOST_BYTES = 100_000_000  # of a manifest; that of 10,000 files has 2 MB
LARGE_BYTES = 10_000_000  # of a source: from here on, hashing takes longer than looking up a known hash
FOLLOWS = "follows from "  # how the reason of an artefact begins that another one makes stale


@dataclass(frozen=True, order=True)
class ArtefactId:
    """Artefact identifier: asset key and partition key (`2027|original`, `10K`, or empty)."""

    asset: str
    partition: str = ""

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]" if self.partition else self.asset

    def belongs_to(self, name: str) -> bool:
        """Return True if the asset is `name`, or `name` of some stage (`lora_checkpoint_10K`)."""
        return self.asset == name or unstaged(self.asset)[0] == name

    @property
    def input_key(self) -> str:
        """Key of an input in a manifest: `asset@partition`."""
        return f"{self.asset}@{self.partition}"

    @property
    def file_name(self) -> str:
        """File name of this artefact's lock and cache files: `lora_checkpoint_10K@2027-original`."""
        return f"{self.asset}@{'-'.join(partition_parts(self.partition))}"


class CheckFacts(TypedDict):
    """Verdict of one asset check."""

    passed: bool
    blocking: bool
    facts: dict[str, Any]


@dataclass
class Manifest:
    """Lineage of an artefact: inputs, settings, code version, files and checks.

    `data_version` covers the content of the non-volatile files; `digest` covers everything else in the manifest (empty
    if an earlier version of the project wrote it).
    """

    asset: str
    partition: str
    data_version: str
    code_version: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: dict[str, FileFacts]
    checks: dict[str, CheckFacts] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    def failed_blocking(self) -> list[str]:
        """Return the names of blocking checks that did not pass."""
        return [name for name, check in self.checks.items() if check["blocking"] and not check["passed"]]

    def listings(self) -> list[str]:
        """Return the names of the assets of which this artefact takes whatever is fresh, and leaves out what is not."""
        return [name.removeprefix("artefacts ") for name in self.settings if name.startswith("artefacts ")]

    def describe_failures(self) -> str:
        """Describe the failed blocking checks, each with its facts: `good (seed: 13)`."""
        facts = {name: ", ".join(f"{k}: {_joined(v)}" for k, v in self.checks[name]["facts"].items())
                 for name in self.failed_blocking()}  # fmt: skip
        return "; ".join(f"{name} ({told})" if told else name for name, told in facts.items())


class Lake:
    """Artefacts under `root`: `<asset>/<partition parts>/`, each folder with a manifest.

    Nothing is written before the first artefact is built; with `read_only`, not even verification results are recorded.
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root, self.read_only = root, read_only

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

    def folder(self, artefact: ArtefactId) -> Path:
        """Return the folder of an artefact, which may not exist yet: `original[10K]` is in `original/10K`."""
        return self.root.joinpath(artefact.asset, *partition_parts(artefact.partition))

    def manifest(self, artefact: ArtefactId) -> Manifest | None:
        """Return the manifest of an artefact, or None if it does not exist; undoes an interrupted swap first."""
        folder = self.folder(artefact)
        if not self.read_only and not folder.exists() and retired(folder).exists():
            with contextlib.suppress(UserError), self._only_writer(artefact):
                self._recover(folder)
        path = folder / MANIFEST
        manifest = read_manifest(path) if path.is_file() else None
        if manifest is None or (manifest.asset, manifest.partition) != (artefact.asset, artefact.partition):
            return None  # the folder of `original[10K]` held `original[10K|original]` until November 2026
        return manifest

    def altered(self, artefact: ArtefactId, manifest: Manifest) -> list[str]:
        """List the changes to an artefact since it was built, in manifest and files, one sentence each."""
        problem, known = manifest_problem(manifest), self.root / VERIFIED / f"{artefact.file_name}.json"
        found = [f"manifest was changed ({problem})"] if problem else []
        return found + changed_files(self.folder(artefact), manifest.files, known, record=not self.read_only)

    def verified(self, artefact: ArtefactId) -> Path:
        """Return the folder of an artefact if all its files are intact; UserError if not, or if it does not exist."""
        manifest, folder = self.manifest(artefact), self.folder(artefact)
        if manifest is None:
            raise UserError(f"{artefact} has not been made; `iot-pipeline run` makes it")
        if problems := self.altered(artefact, manifest):
            raise UserError(f"{artefact}: {problems[0]}; `iot-pipeline run` makes it again (or delete {folder} first)")
        return folder

    def source_hash(self, path: Path) -> str:
        """Return the sha256 of a file outside the lake; a large one that did not change is not read again."""
        if path.stat().st_size <= LARGE_BYTES:
            return sha256_file(path)
        return known_hash(path, self.root / VERIFIED / "sources.json", record=not self.read_only)

    def mark_stale(self, artefact: ArtefactId, reason: str) -> None:
        """Mark an artefact as stale for a reason that its inputs do not show; making it again removes the mark."""
        self.check_writable()
        write_text(self.root / STALE / artefact.file_name, reason)

    def keep_snapshot(self, text: str) -> Path:
        """Write a prompt to `prompts/<sha256>.md`, where it stays when a later one replaces the artefact."""
        path = self.root / SNAPSHOTS / f"{hashlib.sha256(text.encode()).hexdigest()}.md"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)
        return path

    @contextlib.contextmanager
    def replacing(self, artefact: ArtefactId) -> Iterator[Path]:
        """Yield an empty folder to fill; on success it replaces the artefact's folder.

        Raises UserError if another process is building the same artefact.
        """
        self.check_writable()
        folder = self.folder(artefact)
        staging, old = folder.with_name(f".{folder.name}.staging"), retired(folder)
        with self._only_writer(artefact):
            remove(staging)
            staging.mkdir(parents=True)
            try:
                yield staging
            except BaseException:
                remove(staging)
                raise
            for path in staging.rglob("*"):
                fsync(path)
            self._recover(folder)
            if os.path.lexists(folder):
                os.rename(folder, old)
            os.rename(staging, folder)
            fsync(folder.parent)
            remove(old)
            (self.root / STALE / artefact.file_name).unlink(missing_ok=True)
            if (path := folder / MANIFEST).is_file():  # hashed a moment ago: not again by its first reader
                known = self.root / VERIFIED / f"{artefact.file_name}.json"
                record_finished(folder, path, read_manifest(path).files, known)

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
        found = []
        for place, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if MANIFEST in files:
                manifest = read_manifest(Path(place) / MANIFEST)
                artefact = ArtefactId(manifest.asset, manifest.partition)
                found += [artefact] if self.folder(artefact) == Path(place) else []
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
        for key, version in manifest.inputs.items():
            upstream = ArtefactId(*key.split("@", 1))
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
                upstream = (ArtefactId(*key.split("@", 1)) for key in manifest.inputs)
                broken = (self.broken_lineage(other, present, known) for other in upstream)
                known[artefact] = next(filter(None, broken), "")
        return known[artefact]


def _joined(value: Any) -> str:
    """Format a fact; the sentences of a list are set apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value)


def retired(folder: Path) -> Path:
    """Return the path of an artefact's old folder while the new one replaces it."""
    return folder.with_name(f".{folder.name}.retired")


@cache
def _manifests() -> TypeAdapter[Manifest]:
    """Return the validating reader of manifests; created on first use, as it takes 10 ms."""
    return TypeAdapter(Manifest)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest in a file; UserError if it is not one."""
    remedy = "delete the folder to make it again"
    try:
        if not path.is_file() and path.exists():  # reading a pipe or a device would not end
            raise UserError(f"{path} is no file; {remedy}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is not a manifest ({path.stat().st_size:,} bytes); {remedy}")
        return _manifests().validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"]
        raise UserError(f"{path} is not a manifest ({told}); {remedy}") from None


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
