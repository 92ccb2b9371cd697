"""Check of new flows against the train pool that the students of this lake learnt from."""

import dagster as dg
import pyarrow.parquet as pq

from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.evaluation.drift import Drift, sentences
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import settings

ADVICE = "The students of this lake learnt from other flows: make all anew, or give this source a lake of its own."


@dg.asset_check(asset="flows", blocking=False)
def flows_are_like_the_last_train_pool(lake: LakeResource) -> dg.AssetCheckResult:
    """Warn if newly built flows have drifted from the train pool that the lake's present texts were fitted on.

    It matters where another source is read into a lake whose students learnt from an earlier one. A new lake has no
    train pool to compare with, and flows that are built again from the same source do not differ. The check is on
    `flows` because `raw_flows` has no features yet. Dagster's UI and daemon run it; `iot-pipeline run` only makes
    assets.
    """
    place = Lake(lake.root())
    flows, texts = place.folder(ArtefactId("flows")), place.folder(ArtefactId("flow_texts"))
    if not (texts / "writer.json").is_file():
        return dg.AssetCheckResult(passed=True, description="this lake has no train pool yet")
    spec = with_kept_classes(load_spec(settings().data.dataset), flows)
    counted = Drift(FlowTextWriter.load(texts, spec))
    with pq.ParquetFile(flows / "flows.parquet") as file:
        for part in file.iter_batches(columns=spec.feature_names):
            counted.add(part.to_pandas())
    found = counted.report()
    large = [row["feature"] for row in found["features"] if row["shift"] == "large"]
    return dg.AssetCheckResult(
        passed=not large,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join([*sentences(found), *([ADVICE] if large else [])]),
        metadata={"moved_far": ", ".join(large) or "none", "rows": found["rows"]},
    )
