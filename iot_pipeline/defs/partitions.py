"""Partitions, and the mappings from one asset's partitions to another's.

A prompt has one partition a track; a track asset one a stage. What follows has one asset a stage: training tensors are
partitioned by track, students and what is measured of them by training seed and track. So a mapping can say exactly
which partitions feed which: an edited paraphrase prompt leaves the other two tracks fresh.
"""

import dagster as dg

from iot_pipeline.settings import settings
from iot_pipeline.vocabulary import STAGES, TRACKS, stages_up_to

stage_partitions = dg.StaticPartitionsDefinition(STAGES)
track_partitions = dg.StaticPartitionsDefinition(TRACKS)
student_partitions = dg.MultiPartitionsDefinition(
    {"seed": dg.StaticPartitionsDefinition([str(seed) for seed in settings().seeds]), "track": track_partitions}
)


def prompt_dep(track: str) -> dg.AssetDep:
    """Return the dependency on the prompt of one track alone."""
    return dg.AssetDep("prompt", partition_mapping=dg.SpecificPartitionsPartitionMapping([track]))


def increments_dep(track: str, stage: str) -> dg.AssetDep:
    """Return the dependency of a stage's training tensors on a track: its increments of all stages up to that one."""
    return dg.AssetDep(track, partition_mapping=dg.StaticPartitionMapping(dict.fromkeys(stages_up_to(stage), track)))


def tensors_dep(asset: str) -> dg.AssetDep:
    """Return the dependency of a student on the training tensors of its track, whatever its seed."""
    return dg.AssetDep(asset, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("track"))
