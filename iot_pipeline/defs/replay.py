"""Replay of one artefact: it is made again in a scratch lake, without a request to the teacher, and compared."""

import contextlib
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline import settings as settings_module
from iot_pipeline.augmentation.ask import check_imported
from iot_pipeline.defs.execute import sentence_of
from iot_pipeline.defs.reads import present_value
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.lake.integrity import SHORT
from iot_pipeline.lake.store import MANIFEST, VERIFIED, ArtefactId, Lake, Manifest
from iot_pipeline.lineage.promises import Kind, promise_of
from iot_pipeline.lineage.staleness import followers
from iot_pipeline.machine import this_machine
from iot_pipeline.settings import Settings
from iot_pipeline.teacher.archive import Replay, export_answers, import_answers
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.request import EMBEDDED
from iot_pipeline.teacher.store.database import is_file, shown
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import store_of

STORE = "teacher.sqlite"
SMALL = 0.01  # smaller numbers are differences close to 0: they are compared by this size
LEDGER = "cost_report"  # it reads the store, and asks nobody


@dataclass(frozen=True)
class Replayed:
    """Outcome of a replay. `differences` are sentences; `kept` is True if what was promised holds."""

    artefact: str
    promise: Kind
    equal: bool
    kept: bool
    expected: str
    found: str
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        how = "equal to the byte" if self.equal else f"version {self.found[:SHORT]}, was {self.expected[:SHORT]}"
        promised = {"bytes": "equal bytes", "tolerance": "equal within a tolerance", "none": "nothing"}[self.promise]
        verdict = "" if self.kept else " NOT KEPT"
        more = "".join(f"\n  {line}" for line in self.differences)
        return f"{self.artefact}: {how}; promised: {promised}{verdict}{more}"


class ReplayTeacher(TeacherResource):
    """Teacher that gives out the stored answers of one source and sends nothing."""

    store: str = ""
    source: str = ""

    @contextlib.contextmanager
    def open(self, step: Step) -> Iterator[Teacher]:
        """Open the copy of the store."""
        if step.settings.teacher.server == EMBEDDED:
            step.code("iot_pipeline.embedded_teacher.analyst")
        yield Replay(Path(self.store), step.log, self.source)


def replay(definitions: dg.Definitions, settings: Settings, artefact: ArtefactId) -> Replayed:
    """Make an artefact again in a scratch lake, whose inputs are links into the lake, and compare both.

    Raises UserError if it has not been made, is stale (it would come out differently) or cannot be made again.
    """
    lake = Lake(settings.lake_path, read_only=True)
    manifest = lake.manifest(artefact)
    if manifest is None:
        raise UserError(f"{artefact} has not been made; `iot-pipeline status` lists what there is")
    if broken := lake.broken_lineage(artefact, present_value(lake, settings)):
        raise UserError(f"{artefact} cannot be replayed as it was made: {broken}; `iot-pipeline run` makes it again")
    with tempfile.TemporaryDirectory(prefix="iot-pipeline-replay-") as name:
        scratch = Path(name) / "lake"
        link_lake(lake, scratch, artefact)
        source = manifest.provenance.get("teacher", "")
        if source or artefact.asset == LEDGER:
            copy_store(settings, scratch / STORE)
        with _settings_of(scratch):
            _make(definitions, artefact, scratch, source)
        made = Lake(scratch).manifest(artefact)
        if made is None:
            raise UserError(f"{artefact} was not made in the scratch lake")
        return compared(artefact, manifest, made, lake.folder(artefact), Lake(scratch).folder(artefact))


def link_lake(lake: Lake, scratch: Path, target: ArtefactId) -> None:
    """Fill a scratch lake with links to all files of a lake, except an artefact and what follows from it."""
    manifests = {one: made for one in lake.artefacts() if (made := lake.manifest(one)) is not None}
    for artefact in manifests.keys() - followers(target, manifests) - {target}:
        folder, there = lake.folder(artefact), scratch / lake.folder(artefact).relative_to(lake.root)
        there.mkdir(parents=True)
        for name in [*manifests[artefact].files, MANIFEST]:
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).symlink_to((folder / name).absolute())
    scratch.mkdir(parents=True, exist_ok=True)
    if (known := lake.root / VERIFIED).is_dir():  # the links lead to the same files, whose hashes are known
        shutil.copytree(known, scratch / VERIFIED, dirs_exist_ok=True)


def copy_store(settings: Settings, to: Path) -> None:
    """Copy the teacher's answers into a file, which a replay may write to."""
    location = store_of(settings)
    if not exists(location):
        raise UserError(f"the store of answers {shown(location)} is gone; `iot-pipeline cache import` makes one")
    if not is_file(location):
        export_answers(location, to.with_suffix(".parquet"))
        import_answers(to, to.with_suffix(".parquet"), check_imported)
        return
    with Store(location, read_only=True) as opened, contextlib.closing(sqlite3.connect(to)) as copy:
        connection: Any = opened.connection.connection.driver_connection
        connection.backup(copy)


@contextlib.contextmanager
def _settings_of(scratch: Path) -> Iterator[None]:
    """Let the settings name the scratch lake; a base model is built again, not taken from the cache."""
    changed = {
        "IOT_LAKE": str(scratch),
        "IOT_BASE_CACHE": str(scratch.parent / "bases"),
        "IOT_TEACHER_STORE": str(scratch / STORE),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    settings_module.settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        settings_module.settings.cache_clear()


def _make(definitions: dg.Definitions, artefact: ArtefactId, scratch: Path, source: str) -> None:
    """Materialise an artefact in the scratch lake; Dagster keeps no record of it."""
    teacher, key = ReplayTeacher(store=str(scratch / STORE), source=source), dg.AssetKey(artefact.asset)
    found = (one for one in definitions.assets or [] if isinstance(one, dg.AssetsDefinition) and key in one.keys)
    if (asset := next(found, None)) is None:
        raise UserError(f"{artefact} cannot be replayed: this code has no asset {artefact.asset}")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset],
            partition_key=artefact.partition or None,
            instance=instance,
            resources={"lake": LakeResource(folder=str(scratch)), "teacher": teacher, "trainer": TrainerResource()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        failed = [sentence_of(event) for event in result.all_events if event.is_step_failure]
    if failed and Lake(scratch).manifest(artefact) is None:
        raise UserError(f"{artefact} could not be made again: {failed[0]}")


def compared(artefact: ArtefactId, was: Manifest, now: Manifest, old: Path, new: Path) -> Replayed:
    """Compare an artefact with its replay by the hashes of its files, and hold it to its promise.

    Args:
        artefact: The artefact.
        was: Its manifest.
        now: The manifest of the replay.
        old: Its folder.
        new: The folder of the replay.
    """
    promise = promise_of(artefact.asset)
    here = was.provenance.get("machine") == this_machine()
    kind = promise.here if here else promise.elsewhere
    if artefact.belongs_to("automl_baseline") and was.settings.get("setting automl_preset") != "fixed":
        kind = "none"
    lasting = {name for name, facts in {**was.files, **now.files}.items() if not facts["volatile"]}
    changed = sorted(name for name in lasting if was.files.get(name, {}) != now.files.get(name, {}))
    far = {name: _distance(old / name, new / name) for name in changed}
    told = [
        f"{name}: numbers differ by up to {distance:.2g} of their size" if distance < math.inf else f"{name}: differs"
        for name, distance in far.items()
    ]
    equal = was.data_version == now.data_version
    close = all(distance <= promise.tolerance for distance in far.values())
    kept = equal or kind == "none" or (kind == "tolerance" and close)
    return Replayed(str(artefact), kind, equal, kept, was.data_version, now.data_version, told)


def _distance(old: Path, new: Path) -> float:
    """Return the largest relative difference of the numbers of two JSON or safetensors files; else infinity."""
    try:
        if old.suffix == ".safetensors":
            return _tensors_apart(old, new)
        return _apart(read_json(old), read_json(new))
    except (OSError, ValueError):
        return math.inf


def _tensors_apart(old: Path, new: Path) -> float:
    import numpy as np
    from safetensors.numpy import load_file

    one, other = load_file(old), load_file(new)
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return math.inf
    pairs = ((one[name].astype(float), other[name].astype(float)) for name in one)
    far = (abs(a - b) / np.maximum(np.maximum(abs(a), abs(b)), SMALL) for a, b in pairs)
    return max((float(distance.max()) for distance in far if distance.size), default=0.0)


def _apart(one: Any, other: Any) -> float:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return max((_apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(_apart, one, other), default=0.0)
    if type(one) in (int, float) and type(other) in (int, float):
        return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other), SMALL)
    return 0.0 if one == other else math.inf
