"""What a run makes, in which order, and which of it is already there."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

import dagster as dg

from iot_pipeline.defs.recording import present_value
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import FOLLOWS, ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import STAGES, TRACKS, stages_up_to

# Assets whose partition is needed for every stage below the wanted one: a stage is cumulative.
CUMULATIVE = set(TRACKS)


@dataclass(frozen=True)
class Planned:
    """One artefact to look after, with what Dagster needs to make it."""

    artefact: ArtefactId
    group: str
    code_version: str

    @property
    def key(self) -> dg.AssetKey:
        """The asset key."""
        return dg.AssetKey(self.artefact.asset.split("/"))


def wanted(definitions: dg.Definitions, settings: Settings, until: str | None = None) -> list[Planned]:
    """Every artefact that the settings' stages and tracks call for, upstream first; `until`: up to this asset.

    Raises UserError for an empty choice and an unknown asset.
    """
    if not settings.stages or not settings.tracks:
        raise UserError("IOT_STAGES and IOT_TRACKS must each name at least one")
    graph = definitions.resolve_asset_graph()
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    chosen = set(specs)
    if until is not None:
        last = dg.AssetKey(until.split("/"))
        if last not in specs:
            raise UserError(f"--until {until}: no such asset; there are: {', '.join(sorted(map(_name, specs)))}")
        chosen = {last, *graph.get_ancestor_asset_keys(last)}
    planned = []
    for key in graph.toposorted_asset_keys:
        if key not in chosen:
            continue
        spec = specs[key]
        for partition in _partitions(spec, settings):
            artefact = ArtefactId(key.to_user_string(), partition)
            planned.append(Planned(artefact, spec.group_name or "", spec.code_version or ""))
    return planned


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _partitions(spec: dg.AssetSpec, settings: Settings) -> list[str]:
    """Partition keys of one asset that the settings call for; [""] where it has none."""
    if spec.partitions_def is None:
        return [""]
    top = max(settings.stages, key=STAGES.index)
    stages: list[str] = list(settings.stages)
    name = spec.key.path[0]
    if name in CUMULATIVE or settings.stage_chain == "warm_start":
        stages = stages_up_to(top)
    if name == "automl_baseline":
        stages = [*stages, "ALL"]  # the headline: AutoML on the whole train pool
    tracks = {*settings.tracks, "original"} if name in {"original", "prompt"} else set(settings.tracks)
    keys = []
    for key in spec.partitions_def.get_partition_keys():
        parts = set(str(key).split("|"))
        if (parts & set(STAGES) <= set(stages)) and (parts - set(STAGES) <= tracks):
            keys.append(str(key))
    return keys


def stale(lake: Lake, settings: Settings, planned: Planned, accept_code: bool = False) -> list[str]:
    """Why an artefact has to be made; empty where it is there and follows from its inputs.

    `accept_code`: also where another version of the code made it.
    """
    return _reasons(lake, planned, accept_code, present_value(lake, settings))


def forecast(
    lake: Lake, settings: Settings, planned: list[Planned], accept_code: bool = False
) -> dict[ArtefactId, list[str]]:
    """Stale reasons of every artefact of a plan as a run would meet them, before anything is made.

    What is not stale by itself but downstream of something that is gets the root cause ("follows from
    prompt[paraphrased]: file x changed"). A run makes it again only if what it follows from comes out different.
    """
    present = present_value(lake, settings)
    found: dict[ArtefactId, list[str]] = {}
    ahead: dict[ArtefactId, list[str]] = {}
    for p in planned:
        found[p.artefact] = reasons = _reasons(lake, p, accept_code, present, ahead)
        if reasons:
            ahead[p.artefact] = [r if r.startswith(FOLLOWS) else _as_root(p.artefact, r) for r in reasons]
    return found


def _as_root(artefact: ArtefactId, reason: str) -> str:
    """A reason as what is downstream tells it: without the hashes, which stand in brackets at its end."""
    return f"{FOLLOWS}{artefact}: " + re.sub(r" \([^()]*\)$", "", reason)


def _reasons(
    lake: Lake,
    planned: Planned,
    accept_code: bool,
    present: Callable[[str], Any],
    ahead: Mapping[ArtefactId, Sequence[str]] = MappingProxyType({}),
) -> list[str]:
    version = planned.code_version
    if accept_code and (manifest := lake.manifest(planned.artefact)) is not None:
        version = manifest.code_version
    return lake.stale_reasons(planned.artefact, version, present, ahead)


def batches(planned: list[Planned]) -> Iterator[list[Planned]]:
    """What Dagster can make in one run: neighbours without partitions together, each partition by itself.

    Two assets with the same partition key may still have different partition definitions, which no run can mix.
    """
    for _, group in groupby(planned, key=lambda p: p.artefact if p.artefact.partition else None):
        yield list(group)


DATA_VERSION = "dagster/data_version"


def recorded_versions(instance: dg.DagsterInstance, planned: list[Planned]) -> dict[ArtefactId, str]:
    """The data version of the latest materialisation that the instance has of each artefact among `planned`."""
    found: dict[ArtefactId, str] = {}
    for key in {p.key for p in planned}:
        name = key.to_user_string()
        by_partition = instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
        )
        found |= {ArtefactId(name, partition): tags[DATA_VERSION] for partition, tags in by_partition.items()}
        latest = instance.get_latest_materialization_event(key)
        if not by_partition and latest is not None and latest.asset_materialization is not None:
            found[ArtefactId(name)] = (latest.asset_materialization.tags or {}).get(DATA_VERSION, "")
    return found
