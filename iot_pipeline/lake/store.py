"""The lake of one data set and profile: one folder and one manifest for each artefact (asset and partition).

Belongs here: where an artefact lies, how it is swapped in whole, what it was made of, whether that still holds.
Does not belong here: the order in which artefacts are made (defs/plan.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import fsync, held, sha256_file, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, order=True)
class ArtefactId:
    """An asset key (parts joined by `/`) and a partition key (`10K|original`, `10K`, or empty)."""

    asset: str
    partition: str = ""

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]" if self.partition else self.asset


@dataclass
class Manifest:
    """What an artefact is made of. `data_version` covers the files' content, but not the volatile ones."""

    asset: str
    partition: str
    data_version: str
    code_version: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: dict[str, dict[str, Any]]
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def failed_blocking(self) -> list[str]:
        """Names of blocking checks that did not pass."""
        return [name for name, check in self.checks.items() if check["blocking"] and not check["passed"]]

    def told_failures(self) -> str:
        """The same in words, each with the facts that it was decided by: `good (seed: 13)`."""
        facts = {name: ", ".join(f"{k}: {v}" for k, v in self.checks[name]["facts"].items())
                 for name in self.failed_blocking()}  # fmt: skip
        return "; ".join(f"{name} ({told})" if told else name for name, told in facts.items())


class Lake:
    """Artefacts under `root`: `<asset>/<partition parts>/` with a manifest in each folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write to the lake {root} ({error.strerror}); set IOT_LAKE to a writable folder"
            ) from None

    def folder(self, artefact: ArtefactId) -> Path:
        """Folder of an artefact; it may not exist yet. `original[10K|original]` lies in `original/10K`."""
        parts = artefact.asset.split("/")
        parts += [part for part in artefact.partition.split("|") if part and part not in parts]
        return self.root.joinpath(*parts)

    def manifest(self, artefact: ArtefactId) -> Manifest | None:
        """The manifest of an artefact, or None where it has not been made."""
        folder = self.folder(artefact)
        if not folder.exists() and retired(folder).exists():
            with contextlib.suppress(UserError), self._only_writer(artefact):
                self._recover(folder)
        path = folder / MANIFEST
        return read_manifest(path) if path.is_file() else None

    @contextlib.contextmanager
    def replacing(self, artefact: ArtefactId) -> Iterator[Path]:
        """Yield an empty folder to fill; when the block ends well it takes the place of the artefact's folder.

        UserError where another process is making the same artefact.
        """
        folder = self.folder(artefact)
        staging, old = folder.with_name(f".{folder.name}.staging"), retired(folder)
        with self._only_writer(artefact):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            try:
                yield staging
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            for path in staging.rglob("*"):
                fsync(path)
            self._recover(folder)
            if folder.exists():
                os.rename(folder, old)
            os.rename(staging, folder)
            fsync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def _only_writer(self, artefact: ArtefactId) -> Iterator[None]:
        """Hold the artefact for this process (a run in the UI and one on the command line may want the same)."""
        path = self.root / ".locks" / f"{artefact.asset}@{artefact.partition}".replace("/", "-").replace("|", "-")
        path.parent.mkdir(exist_ok=True)
        with held(path, f"{artefact} is being made by another process on this lake; wait for it"):
            yield

    def _recover(self, folder: Path) -> None:
        """Undo a swap that was killed between its two renames (the old folder is whole, and comes back)."""
        old = retired(folder)
        if old.exists():
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(old, folder)

    def artefacts(self) -> list[ArtefactId]:
        """Every artefact that has a manifest, sorted."""
        found = []
        for place, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if MANIFEST in files:
                manifest = read_manifest(Path(place) / MANIFEST)
                found.append(ArtefactId(manifest.asset, manifest.partition))
        return sorted(found)

    def stale_reasons(
        self, artefact: ArtefactId, code_version: str, present: Callable[[str], Any]
    ) -> list[str]:
        """Why an artefact must be made (again); empty means that it follows from its inputs.

        Compares its code version, the settings and files it read (`present(name)` is the value now), the
        versions of the inputs it read, and the size of its files with what is there now.
        """
        manifest = self.manifest(artefact)
        if manifest is None:
            return ["not made yet"]
        reasons = [f"blocking check {name} did not pass" for name in manifest.failed_blocking()]
        if manifest.code_version != code_version:
            reasons.append(f"code changed ({manifest.code_version} -> {code_version})")
        for name, value in manifest.settings.items():
            if present(name) != value:
                reasons.append(f"{name} changed")
        for key, version in manifest.inputs.items():
            upstream = self.manifest(ArtefactId(*key.split("@", 1)))
            if upstream is None or upstream.data_version != version:
                reasons.append(f"input {key.rstrip('@')} changed")
        folder = self.folder(artefact)
        for name, facts in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != facts["bytes"]:
                reasons.append(f"file {name} is missing or was changed")
        return reasons


    def broken_lineage(
        self, artefact: ArtefactId, present: Callable[[str], Any], known: dict[ArtefactId, str] | None = None
    ) -> str:
        """Why an artefact no longer follows from what it and everything upstream of it was made of; empty if it does.

        Code versions do not count: an artefact says by itself which code made it. `known` keeps answers.
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


def retired(folder: Path) -> Path:
    """Where an artefact's old folder lies while the new one takes its place."""
    return folder.with_name(f".{folder.name}.retired")


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; UserError where it is none."""
    try:
        return Manifest(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a manifest ({error}); delete the folder to make it again") from None


def finish_artefact(staging: Path, manifest: Manifest, volatile: set[str]) -> Manifest:
    """Hash the files of a staged artefact, set its data version and write its manifest into the folder.

    `volatile` names files (timings, machine facts) that are listed but do not count for the data version; where
    there are no others they do, since they are then what the artefact is.
    """
    for path in sorted(p for p in staging.rglob("*") if p.is_file()):
        name = path.relative_to(staging).as_posix()
        facts = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "volatile": name in volatile}
        manifest.files[name] = facts
    lasting = {name: facts for name, facts in manifest.files.items() if not facts["volatile"]} or manifest.files
    digest = hashlib.sha256()
    for name, facts in lasting.items():
        digest.update(f"{name}\0{facts['sha256']}\n".encode())
    manifest.data_version = digest.hexdigest()
    write_json(staging / MANIFEST, asdict(manifest))
    return manifest


def input_key(artefact: ArtefactId) -> str:
    """How an input is named in a manifest: `asset@partition`."""
    return f"{artefact.asset}@{artefact.partition}"
