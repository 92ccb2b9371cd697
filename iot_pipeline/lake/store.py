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
from iot_pipeline.lake.atomic import fsync, sha256_file, write_json

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
        self._recover(folder)
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            return Manifest(**json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{path} is not a manifest ({error}); delete the folder to make it again") from None

    @contextlib.contextmanager
    def replacing(self, artefact: ArtefactId) -> Iterator[Path]:
        """Yield an empty folder to fill; when the block ends well it takes the place of the artefact's folder."""
        folder = self.folder(artefact)
        staging = folder.with_name(f".{folder.name}.staging")
        retired = folder.with_name(f".{folder.name}.retired")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        for path in staging.rglob("*"):
            fsync(path)
        self._recover(folder)
        if folder.exists():
            os.rename(folder, retired)
        os.rename(staging, folder)
        fsync(folder.parent)
        shutil.rmtree(retired, ignore_errors=True)

    def _recover(self, folder: Path) -> None:
        """Undo a swap that was killed between its two renames (the old folder is whole, and comes back)."""
        retired = folder.with_name(f".{folder.name}.retired")
        if retired.exists():
            if folder.exists():
                shutil.rmtree(retired, ignore_errors=True)
            else:
                os.rename(retired, folder)

    def artefacts(self) -> list[ArtefactId]:
        """Every artefact that has a manifest, sorted."""
        found = []
        for path in self.root.rglob(MANIFEST):
            if any(part.startswith(".") for part in path.relative_to(self.root).parts):
                continue
            record = json.loads(path.read_text())
            found.append(ArtefactId(record["asset"], record["partition"]))
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


def finish_artefact(staging: Path, manifest: Manifest, volatile: set[str]) -> Manifest:
    """Hash the files of a staged artefact, set its data version and write its manifest into the folder.

    `volatile` names files (timings, machine facts) that are listed but do not count for the data version.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in staging.rglob("*") if p.is_file()):
        name = path.relative_to(staging).as_posix()
        facts = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "volatile": name in volatile}
        manifest.files[name] = facts
        if not facts["volatile"]:
            digest.update(f"{name}\0{facts['sha256']}\n".encode())
    manifest.data_version = digest.hexdigest()
    write_json(staging / MANIFEST, asdict(manifest))
    return manifest


def input_key(artefact: ArtefactId) -> str:
    """How an input is named in a manifest: `asset@partition`."""
    return f"{artefact.asset}@{artefact.partition}"
