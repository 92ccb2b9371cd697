"""Asset group baseline: models that the student is compared with, on the same rows and the same test set."""

import dagster as dg
import pandas as pd

from iot_pipeline.baseline.automl import run_automl
from iot_pipeline.baseline.hash_lookup import run_hash_lookup
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.baseline.majority import run_majority
from iot_pipeline.baseline.nearest import run_nearest
from iot_pipeline.baseline.row_split import run_row_split
from iot_pipeline.defs.baseline.fitting import configurations, rows_and_sides, score
from iot_pipeline.defs.inputs import flows_of, printed_spec
from iot_pipeline.defs.partitions import baseline_partitions
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.vocabulary import STAGES


@dg.asset(
    group_name="baseline", partitions_def=baseline_partitions, deps=["flows", "evaluation_split", "training_order"]
)
def automl_baseline(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """AutoGluon, LightGBM, 1-NN, hash lookup and majority class on the stage's rows (`ALL`: the train pool), scored."""
    with lake.step(context) as step:
        train, sides = rows_and_sides(step)
        both = pd.concat(sides.values(), ignore_index=True)
        names, classes, seed = step.spec.feature_names, step.spec.classes, step.settings.data.seed
        step.summarise(rows=len(train))
        for result in (
            *(run_automl(train, both, names, classes, config, step.log) for config in configurations(step)),
            run_lightgbm(train, both, names, classes, seed),
            run_nearest(train, both, printed_spec(step), classes),
            run_hash_lookup(train, both, classes),
            run_majority(train, both, classes),
        ):
            score(step, result)
        if step.artefact.partition == STAGES[-1]:
            measure_row_split(step, names, classes)
    return step.result()


def measure_row_split(step: Step, names: list[str], classes: list[str]) -> None:
    """Write the accuracy that AutoML's fixed configuration has on a split by row, as the prior work measured it.

    Costs one more training on the whole table, so it is done once, beside the whole train pool.
    """
    rows = pd.read_parquet(flows_of(step), columns=["flow_group", *names, "label"])
    found, timings = run_row_split(rows, names, classes, configurations(step)[0], step.log)
    step.json("row_split.json", found)
    step.json("timing_row_split.json", timings, volatile=True)
    step.summarise(row_split_accuracy=found["accuracy"], row_split_seconds=round(timings["total_s"], 1))
