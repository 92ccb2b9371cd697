"""Partition axes stage and track, and the mappings from one asset's partitions to another's.

Every asset that has a track is partitioned by stage x track; `original` has the single track `original`, and so on.
Keys then look the same across the graph (`10K|paraphrased`), and a mapping can say exactly which partitions feed which:
an edited paraphrase prompt leaves the other two tracks fresh.
"""

import dagster as dg

from iot_pipeline.vocabulary import STAGES, TRACKS

stage_partitions = dg.StaticPartitionsDefinition(STAGES)
track_partitions = dg.StaticPartitionsDefinition(TRACKS)

SAME = dg.IdentityPartitionMapping()
# A stage is cumulative: it takes the increments of every stage up to its own.
UP_TO = dg.StaticPartitionMapping({stage: STAGES[i:] for i, stage in enumerate(STAGES)})


def grid(stages: list[str] = STAGES, tracks: list[str] = TRACKS) -> dg.MultiPartitionsDefinition:
    """Return partitions `stage|track` over the given stages and tracks."""
    return dg.MultiPartitionsDefinition(
        {"stage": dg.StaticPartitionsDefinition(stages), "track": dg.StaticPartitionsDefinition(tracks)}
    )


def only(key: str, to: str | None = None) -> dg.StaticPartitionMapping:
    """Map one partition key of an axis to one key downstream (by default the same) and nothing else."""
    return dg.StaticPartitionMapping({key: to or key})


def grid_dep(
    asset: str | list[str], stage: dg.PartitionMapping = SAME, track: dg.PartitionMapping = SAME
) -> dg.AssetDep:
    """Return the dependency of a stage x track asset on another one, mapped axis by axis."""
    return dg.AssetDep(
        dg.AssetKey(asset),
        partition_mapping=dg.MultiPartitionMapping(
            {
                "stage": dg.DimensionPartitionMapping("stage", stage),
                "track": dg.DimensionPartitionMapping("track", track),
            }
        ),
    )


def prompt_dep(track: str) -> dg.AssetDep:
    """Return the dependency on the prompt of one track alone."""
    return dg.AssetDep("prompt", partition_mapping=dg.SpecificPartitionsPartitionMapping([track]))
