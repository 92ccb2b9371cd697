"""Flow texts of assets, the same for teacher, student and evaluation."""

import json
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd

from iot_pipeline.defs.recording import Step
from iot_pipeline.flows.dataset import evaluation_groups
from iot_pipeline.flows.scaling import prompts
from iot_pipeline.flows.serialise import RankTable, flow_writer, texts
from iot_pipeline.flows.spec import DatasetSpec, Scale


def text_spec(step: Step) -> DatasetSpec:
    """Return the data set spec with the scales used in texts: those of the train pool, if they are fitted."""
    if step.spec.scaling != "train_pool":
        return step.spec
    fitted = json.loads((step.input("evaluation_split") / "scaling.json").read_text())
    return step.spec.with_scales({name: Scale.model_validate(scale) for name, scale in fitted.items()})


def evaluation_prompts(step: Step) -> set[str]:
    """Return the ids of `values` texts that no training text may have (validation, calibration and test flows)."""
    records = step.input("evaluation_split") / "records.parquet"
    spec = text_spec(step)
    if not spec.fitted_scales:
        return evaluation_groups(records)
    found = prompts(spec, step.input("flows") / "flows.parquet", records)
    return set(found.loc[found["side"] != "train", "prompt"])


def rank_table(step: Step) -> RankTable:
    """Read the rank table of the train pool."""
    return RankTable.from_json(json.loads((step.input("training_order") / "ranks.json").read_text()))


def _ranks(step: Step) -> RankTable | None:
    """Return the rank table if the serialisation needs it, else None."""
    return rank_table(step) if step.settings.data.serialisation == "ranked" else None


def text_writer(step: Step) -> Callable[[pd.DataFrame], list[str]]:
    """Return a text writer for tables read in parts: from a table with the feature columns to one text per row."""
    return partial(texts, text_spec(step), step.settings.data.serialisation, ranks=_ranks(step))


def table_texts(step: Step, flows: pd.DataFrame) -> list[str]:
    """Return one text per row of a table with the feature columns."""
    return text_writer(step)(flows)


def one_text(step: Step) -> Callable[[Sequence[float]], str]:
    """Return a text writer for single flows outside the table (varied ones), given by their feature values."""
    return flow_writer(text_spec(step), step.settings.data.serialisation, _ranks(step))
