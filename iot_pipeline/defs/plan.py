"""Plan of a run: the artefacts to materialise, their order, and which of them are fresh."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import dagster as dg

from iot_pipeline.defs.dagster_internals import tags_by_partition
from iot_pipeline.defs.reads import present_value
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import FOLLOWS, ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import STAGES, TRACKS, ZERO_SHOT, Trained, partition_parts, stages_up_to, unstaged

# Assets whose partition is needed for every stage below the wanted one: a stage is cumulative.
CUMULATIVE = set(TRACKS)
DATA_VERSION = "dagster/data_version"
STATE = "lake_state"  # asset that shows what the manifests say of all others
# Parts of the method, one job each; an asset is of the part of its group, if it is not named here.
PARTS = ("data", "augment", "train_track", "evaluate", "report")
_PART_OF_GROUP = {
    "flows": "data", "quality": "data", "splits": "data", "baseline": "data", "prompts": "augment",
    "augmentation": "augment", "training": "train_track", "evaluation": "evaluate", "report": "report",
}  # fmt: skip
_PART_OF = {"training_split": "augment", "zero_shot_teacher": "augment", "study": "report"}
HASHES = re.compile(r" \([^()]*\)$")


@dataclass(frozen=True)
class Planned:
    """Planned artefact, with what Dagster needs to materialise it."""

    artefact: ArtefactId
    group: str
    code_version: str

    @property
    def key(self) -> dg.AssetKey:
        """Asset key."""
        return dg.AssetKey(self.artefact.asset)

    @property
    def part(self) -> str:
        """Part of the method, which is the name of its job."""
        return _PART_OF.get(unstaged(self.artefact.asset)[0]) or _PART_OF_GROUP.get(self.group, "")


def wanted(definitions: dg.Definitions, settings: Settings, until: str | None = None) -> list[Planned]:
    """List the artefacts that the settings' stages, tracks and controls require, upstream first.

    `until`: up to this asset. Raises UserError for an empty choice or an unknown asset.
    """
    if not settings.run.stages or not settings.run.tracks:
        raise UserError("IOT_STAGES and IOT_TRACKS must each name at least one")
    if settings.run.grid and TRACKS[0] not in settings.run.tracks:
        raise UserError(f"IOT_GRID=true trains on the track {TRACKS[0]}: add it to IOT_TRACKS")
    graph = definitions.resolve_asset_graph()
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    chosen = set(specs)
    if until is not None:
        last = {key for key in specs if until in (_name(key), unstaged(_name(key))[0])}
        if not last:
            names = sorted({unstaged(_name(key))[0] for key in specs})
            raise UserError(f"--until {until}: no such asset; there are: {', '.join(names)}")
        chosen = last.union(*(graph.get_ancestor_asset_keys(key) for key in last))
    return [
        Planned(ArtefactId(_name(key), partition), specs[key].group_name or "", specs[key].code_version or "")
        for key in graph.toposorted_asset_keys
        if key in chosen and graph.get(key).is_materializable  # others are only shown
        for partition in _partitions(specs[key], settings)
    ]


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _partitions(spec: dg.AssetSpec, settings: Settings) -> list[str]:
    """Return the partition keys of an asset that the settings require; [""] for an asset without partitions."""
    name, stage = unstaged(_name(spec.key))
    if name == "unknown_detection" and not (settings.run.unknown and stage in settings.run.stages):
        return []
    if spec.partitions_def is None:
        return [""]
    stages: list[str] = list(settings.run.stages)
    if name in CUMULATIVE or settings.student.stage_chain == "warm_start":
        stages = stages_up_to(max(stages, key=STAGES.index))
    if name == "automl_baseline":
        stages = [*stages, "ALL"]  # the headline: AutoML on the whole train pool
    if name in ("baseline_probabilities", "pseudo_label_baseline") and not settings.run.distil:
        return []
    if (stage and stage not in stages) or (name == "data_grid" and not settings.run.grid):
        return []
    tracks: set[str] = {*settings.run.tracks}
    if name == "prompt":
        tracks |= {"original", *([ZERO_SHOT] if settings.evaluation.zero_shot_flows else [])}
    if name in TRACKS and name not in {*settings.run.tracks, "original"}:
        return []
    if name not in ("explanation_quality", "reasons"):  # the study compares classes
        tracks |= {*settings.beside}
    chosen = {*stages, *tracks, *map(str, settings.seeds)}
    twins = {Trained(seed, "untrained").key for seed in settings.seeds[1:]}  # the same with every seed
    keys = map(str, spec.partitions_def.get_partition_keys())
    return [key for key in keys if chosen.issuperset(partition_parts(key)) and key not in twins]


def forecast(
    lake: Lake, settings: Settings, planned: list[Planned], accept_code: bool = False
) -> dict[ArtefactId, list[str]]:
    """Return the stale reasons of every artefact of a plan as a run would find them; none if it is fresh.

    An artefact that is only downstream of a stale one gets the root cause ("follows from prompt[paraphrased]: file x
    changed"). A run rematerialises it only if the content upstream changes.

    Args:
        lake: The lake.
        settings: The present settings.
        planned: The plan, upstream first.
        accept_code: True to accept artefacts of another code version.
    """
    present = present_value(lake, settings)
    found: dict[ArtefactId, list[str]] = {}
    ahead: dict[ArtefactId, list[str]] = {}
    for p in planned:
        manifest = lake.manifest(p.artefact) if accept_code else None
        version = p.code_version if manifest is None else manifest.code_version
        found[p.artefact] = reasons = lake.stale_reasons(p.artefact, version, present, ahead)
        if reasons:  # downstream they are shown without the hashes in brackets at their ends
            root = f"{FOLLOWS}{p.artefact}: "
            ahead[p.artefact] = [r if r.startswith(FOLLOWS) else root + HASHES.sub("", r) for r in reasons]
    return found


def following(lake: Lake, planned: list[Planned], roots: set[ArtefactId]) -> set[ArtefactId]:
    """Return the artefacts that were made from `roots`, directly or not, with the roots; what lists them counts too."""
    found = {*roots}
    for p in planned:
        if (manifest := lake.manifest(p.artefact)) is not None:
            listed = manifest.listings()
            if found & manifest.upstream().keys() or any(one.belongs_to(name) for name in listed for one in found):
                found.add(p.artefact)
    return found


def batches(planned: list[Planned]) -> Iterator[list[Planned]]:
    """Split the plan into batches for one run each: neighbours without partitions together, each partition alone.

    Assets with the same partition key may have different partition definitions, which one run cannot mix.
    """
    for _, group in groupby(planned, key=lambda p: p.artefact if p.artefact.partition else None):
        yield list(group)


def recorded_versions(instance: dg.DagsterInstance, planned: list[Planned]) -> dict[ArtefactId, str]:
    """Return the data version of the latest materialisation that the instance has of each artefact in `planned`."""
    found: dict[ArtefactId, str] = {}
    for key in {p.key for p in planned}:
        by_partition = tags_by_partition(instance, key, DATA_VERSION)
        found |= {ArtefactId(_name(key), partition): version for partition, version in by_partition.items()}
        latest = instance.get_latest_materialization_event(key)
        if not by_partition and latest is not None and latest.asset_materialization is not None:
            found[ArtefactId(_name(key))] = (latest.asset_materialization.tags or {}).get(DATA_VERSION, "")
    return found
