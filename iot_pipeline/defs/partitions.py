"""Partitions, and the mappings from one asset's partitions to another's.

A prompt has one partition a track, and one for the zero-shot teacher; a track asset one a stage. What follows has one
asset a stage: training tensors are partitioned by track, students and what is measured of them by training seed and
track. So a mapping can say exactly which partitions feed which: an edited paraphrase prompt leaves the other two tracks
fresh. Controls that IOT_CONTROLS names stand beside the tracks wherever students do; the untrained one has neither
tensors nor checkpoint.
"""

import os

import dagster as dg

from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.settings import settings
from iot_pipeline.vocabulary import ARMS, DISTILLED, STAGES, TRACKS, ZERO_SHOT, stages_up_to


def shown_stages() -> list[str]:
    """List the stages of tracks: all, or in the UI those up to the largest of IOT_STAGES: "Materialize all" takes them.

    A track that is made for 10K must not ask a paid teacher about 150K because somebody clicked on all.
    """
    asked = settings().run.stages
    return stages_up_to(max(asked, key=STAGES.index)) if os.environ.get(ONLY_WANTED) and asked else STAGES


def baseline_stages() -> list[str]:
    """List the stages of baselines: all, or in the UI those of IOT_STAGES and the whole train pool."""
    chosen = {*settings().run.stages, STAGES[-1]}
    return [stage for stage in STAGES if stage in chosen] if os.environ.get(ONLY_WANTED) else STAGES


stage_partitions = dg.StaticPartitionsDefinition(shown_stages())
baseline_partitions = dg.StaticPartitionsDefinition(baseline_stages())
prompt_partitions = dg.StaticPartitionsDefinition([*TRACKS, ZERO_SHOT])
seed_partitions = dg.StaticPartitionsDefinition([str(seed) for seed in settings().seeds])


def arms() -> list[str]:
    """List the arms that students are made of: the tracks, and the others that the settings name."""
    return [arm for arm in ARMS if arm in TRACKS or arm in settings().beside]


def tensor_partitions() -> dg.StaticPartitionsDefinition:
    """Return the partitions of training tensors."""
    return dg.StaticPartitionsDefinition(trained_arms())


def trained_arms() -> list[str]:
    """List the arms that are trained."""
    return [arm for arm in arms() if arm != "untrained"]


def student_partitions(of: list[str] | None = None) -> dg.MultiPartitionsDefinition:
    """Return the partitions of students by training seed and arm; `of`: these arms alone."""
    return dg.MultiPartitionsDefinition({"seed": seed_partitions, "track": dg.StaticPartitionsDefinition(of or arms())})


def grid_partitions(stage: str) -> dg.MultiPartitionsDefinition:
    """Return the partitions of a stage's row of the data-by-steps grid: training seed, and stage of the tokens."""
    tokens = dg.StaticPartitionsDefinition([other for other in STAGES if other != stage])
    return dg.MultiPartitionsDefinition({"seed": seed_partitions, "tokens": tokens})


def sources_of(arm: str) -> list[str]:
    """List the tracks that an arm's training tensors are made from."""
    if arm in TRACKS:
        return [arm]
    return ["original", *(["paraphrased"] if arm == "repeated_originals" else [])]


def prompt_dep(track: str) -> dg.AssetDep:
    """Return the dependency on one prompt alone."""
    return dg.AssetDep("prompt", partition_mapping=dg.SpecificPartitionsPartitionMapping([track]))


def stage_dep(asset: str, stage: str) -> dg.AssetDep:
    """Return the dependency on one stage alone of an asset that is partitioned by stage."""
    return dg.AssetDep(asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([stage]))


def increments_dep(track: str, stage: str) -> dg.AssetDep:
    """Return the dependency of a stage's training tensors on a track: its increments of all stages up to that one."""
    fed = [arm for arm in trained_arms() if track in sources_of(arm)]
    return dg.AssetDep(track, partition_mapping=dg.StaticPartitionMapping(dict.fromkeys(stages_up_to(stage), fed)))


def probabilities_deps(stage: str) -> list[dg.AssetDep]:
    """Return the dependencies of a stage's training tensors on what a distilled student learns from; none without one.

    These are the flows of the train pool, and the baseline's probabilities for them.
    """
    if DISTILLED not in trained_arms():
        return []
    mapping = dg.StaticPartitionMapping({stage: DISTILLED})
    pool = [dg.AssetDep("flow_texts"), dg.AssetDep("evaluation_split")]
    return [*pool, dg.AssetDep("baseline_probabilities", partition_mapping=mapping)]


def tensors_dep(asset: str) -> dg.AssetDep:
    """Return the dependency of a student on the training tensors of its track, whatever its seed."""
    return dg.AssetDep(asset, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("track"))


def checkpoint_dep(asset: str) -> dg.AssetDep:
    """Return the dependency of what is measured of a student on its checkpoint; the untrained one has none."""
    track = dg.StaticPartitionMapping({arm: arm for arm in trained_arms()})
    parts = {
        "seed": dg.DimensionPartitionMapping("seed", dg.IdentityPartitionMapping()),
        "track": dg.DimensionPartitionMapping("track", track),
    }
    return dg.AssetDep(asset, partition_mapping=dg.MultiPartitionMapping(parts))


def tensors_of_dep(asset: str, track: str) -> dg.AssetDep:
    """Return the dependency on the training tensors of one track alone."""
    return dg.AssetDep(asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([track]))


def budget_dep(asset: str, track: str, stage: str) -> dg.AssetDep:
    """Return the dependency of a grid's cell on the student whose tokens it takes: of its seed, of one track."""
    tokens = dg.DimensionPartitionMapping("tokens", dg.StaticPartitionMapping({track: stage}))
    seed = dg.DimensionPartitionMapping("seed", dg.IdentityPartitionMapping())
    return dg.AssetDep(asset, partition_mapping=dg.MultiPartitionMapping({"seed": seed, "track": tokens}))
