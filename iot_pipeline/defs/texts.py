"""How assets turn flows into the text that teacher, student and evaluation all see."""

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
    """The data set as texts show it: with the scales of the train pool, where they are fitted."""
    if step.spec.scaling != "train_pool":
        return step.spec
    fitted = json.loads((step.input("evaluation_split") / "scaling.json").read_text())
    return step.spec.with_scales({name: Scale.model_validate(scale) for name, scale in fitted.items()})


def evaluation_prompts(step: Step) -> set[str]:
    """Ids of the `values` texts that no training text may have: those of validation, calibration and test flows."""
    records = step.input("evaluation_split") / "records.parquet"
    spec = text_spec(step)
    if not spec.fitted_scales:
        return evaluation_groups(records)
    found = prompts(spec, step.input("flows") / "flows.parquet", records)
    return set(found.loc[found["side"] != "train", "prompt"])


def rank_table(step: Step) -> RankTable:
    """The rank table of the train pool."""
    return RankTable.from_json(json.loads((step.input("training_order") / "ranks.json").read_text()))


def _ranks(step: Step) -> RankTable | None:
    """The rank table where the serialisation needs it."""
    return rank_table(step) if step.settings.serialisation == "ranked" else None


def text_writer(step: Step) -> Callable[[pd.DataFrame], list[str]]:
    """A function from a table with the feature columns to one text a row, for tables that are read in parts."""
    return partial(texts, text_spec(step), step.settings.serialisation, ranks=_ranks(step))


def table_texts(step: Step, flows: pd.DataFrame) -> list[str]:
    """One text a row of a table with the feature columns."""
    return text_writer(step)(flows)


def one_text(step: Step) -> Callable[[Sequence[float]], str]:
    """A function from 29 values to text, for flows that are not in the table (varied ones)."""
    return flow_writer(text_spec(step), step.settings.serialisation, _ranks(step))
