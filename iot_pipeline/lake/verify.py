"""Verification of a whole lake by hashing: every file, manifest and input against the manifests."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from iot_pipeline.errors import UserError
from iot_pipeline.lake.integrity import SHORT, file_problem
from iot_pipeline.lake.store import MANIFEST, SNAPSHOTS, ArtefactId, Lake, Manifest, manifest_problem, read_manifest

HALF = re.compile(r"\..*\.tmp")  # as `lake.atomic.replacing` names what it has not finished


@dataclass(frozen=True)
class Mismatch:
    """One deviation from a manifest; `file` is a path in the artefact's folder, or names an input."""

    artefact: str
    file: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.artefact}: {self.file}: expected {self.expected}, found {self.found}"


@dataclass
class Verification:
    """Artefacts, files, bytes and exhibits of the report that were verified, and all mismatches.

    stale: sentences on artefacts made with settings, prompts or code that changed since, which is no mismatch. notes:
    what was not verified, and why. versions: data version by artefact.

    unsealed: manifests without a digest of themselves (written by an earlier version). Edits to them, except to files
    and data version, cannot be detected.
    """

    artefacts: int = 0
    files: int = 0
    bytes: int = 0
    unsealed: int = 0
    exhibits: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def verify(lake: Lake) -> Verification:
    """Hash every file of every artefact and compare it, its manifest and its inputs; writes nothing."""
    result = Verification()
    made_there = _fetch(lake, result)
    made: dict[ArtefactId, Manifest] = {}
    for place, folders, names in os.walk(lake.root):
        folder = Path(place)
        links = [folder / name for name in folders if not name.startswith(".") and (folder / name).is_symlink()]
        if MANIFEST not in names:  # readers follow a link to an artefact, and this walk does not
            result.mismatches += [
                Mismatch(str(link.relative_to(lake.root)), "folder", "a folder", "a link") for link in sorted(links)
            ]
        if folder == lake.root:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            continue  # files beside the artefacts, such as the teacher's store
        # Skip staging and retired folders beside artefacts; inside an artefact every file is examined.
        folders[:] = sorted(name for name in folders if not re.fullmatch(r"\..*\.(staging|retired)", name))
        if folder == lake.root / SNAPSHOTS:
            result.mismatches += _snapshot_mismatches(folder, names)
        elif MANIFEST in names and made_there is not None and folder not in made_there:
            folders[:] = []  # what a mirror has of an artefact that is no more in the bucket
        elif MANIFEST in names:
            folders[:] = []
            artefact = _verify_folder(lake, folder, result)
            if artefact is not None:
                made[ArtefactId(artefact.asset, artefact.partition)] = artefact
        else:
            inside = folder.relative_to(lake.root)
            result.mismatches += [
                Mismatch(str(inside), name, f"a {MANIFEST} beside it", "none") for name in sorted(names)
            ]
    result.versions = {str(one): manifest.data_version for one, manifest in sorted(made.items())}
    for artefact_id, manifest in made.items():
        result.mismatches += _input_mismatches(artefact_id, manifest, made)
    return result


def _fetch(lake: Lake, result: Verification) -> set[Path] | None:
    """Fetch what a mirror lacks of a lake in a bucket; return the folders of its artefacts, None without a bucket.

    What is gone or was changed in the bucket is not fetched, and is then a file that is missing.
    """
    if lake.remote is None:
        return None
    lake.remote.fetch_snapshots(lake.root / SNAPSHOTS)
    artefacts = lake.artefacts()
    for artefact in artefacts:
        manifest = lake.manifest(artefact)
        result.mismatches += [
            Mismatch(str(artefact), sentence, "as written", "another content or none")
            for sentence in (lake.altered(artefact, manifest) if manifest else [])
        ]
        with contextlib.suppress(UserError):  # told above, or below as a file that is missing
            lake.folder(artefact)
    result.notes.append(
        f"files that were here were hashed here, and compared with {lake.address} by size; an empty IOT_LAKE_CACHE "
        "has all of them read from there"
    )
    return {lake.place(artefact) for artefact in artefacts}


def _verify_folder(lake: Lake, folder: Path, result: Verification) -> Manifest | None:
    """Verify one artefact's folder into `result`; return its manifest, or None if it cannot be read."""
    result.artefacts += 1
    inside = str(folder.relative_to(lake.root))
    try:
        manifest = read_manifest(folder / MANIFEST)
        artefact = ArtefactId(manifest.asset, manifest.partition)
        place = lake.place(artefact)
    except UserError as error:
        result.mismatches.append(Mismatch(inside, MANIFEST, "a manifest", str(error)))
        return None
    result.unsealed += not manifest.digest
    if place != folder:
        result.mismatches.append(Mismatch(inside, MANIFEST, f"{artefact} in {place.relative_to(lake.root)}", inside))
    if problem := manifest_problem(manifest):
        expected, _, found = problem.partition(", but ")
        result.mismatches.append(Mismatch(str(artefact), MANIFEST, expected, found))
    for name, facts in sorted(manifest.files.items()):
        if differs := file_problem(folder / name, facts):
            result.mismatches.append(Mismatch(str(artefact), name, *differs))
        else:
            result.files, result.bytes = result.files + 1, result.bytes + facts["bytes"]
    for name in extra_files(folder, manifest):
        result.mismatches.append(Mismatch(str(artefact), name, "no such file in the manifest", "a file"))
    return manifest


def extra_files(folder: Path, manifest: Manifest) -> list[str]:
    """List the files in an artefact's folder that its manifest does not name, as paths in it, sorted."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return sorted(there - manifest.files.keys() - {MANIFEST})


def _snapshot_mismatches(folder: Path, names: list[str]) -> list[Mismatch]:
    """List the prompt snapshots whose content is not what their name says; a killed writer's half file is none."""
    found = []
    for name in sorted(name for name in names if not HALF.fullmatch(name)):
        told = name.removesuffix(".md")
        size = (folder / name).lstat().st_size
        if problem := file_problem(folder / name, {"bytes": size, "sha256": told, "volatile": False}):
            found.append(Mismatch(SNAPSHOTS, name, *problem))
        elif told == name:
            found.append(Mismatch(SNAPSHOTS, name, f"{name}.md", name))
    return found


def _input_mismatches(artefact: ArtefactId, manifest: Manifest, made: dict[ArtefactId, Manifest]) -> list[Mismatch]:
    """List the inputs whose version differs from the one the artefact was built from."""
    found = []
    for upstream, version in manifest.upstream().items():
        there = made.get(upstream)
        if there is None or there.data_version != version:
            now = f"version {there.data_version[:SHORT]}" if there else "none"
            found.append(Mismatch(str(artefact), f"input {upstream}", f"version {version[:SHORT]}", now))
    return found
