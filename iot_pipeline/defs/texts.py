"""How assets turn flows into the text that teacher, student and evaluation all see.

Belongs here: picking serialisation and rank table from the lake. Does not belong here: printing (flows.serialise).
"""

import json
from collections.abc import Callable, Sequence

import pandas as pd

from iot_pipeline.defs.step import Step
from iot_pipeline.flows.serialise import RankTable, flow_writer, texts


def rank_table(step: Step) -> RankTable:
    """The rank table of the train pool."""
    return RankTable.from_json(json.loads((step.input("training_order") / "ranks.json").read_text()))


def _ranks(step: Step) -> RankTable | None:
    """The rank table where the serialisation needs it."""
    return rank_table(step) if step.settings.serialisation == "ranked" else None


def table_texts(step: Step, flows: pd.DataFrame) -> list[str]:
    """One text a row of a table with the feature columns."""
    return texts(step.spec, step.settings.serialisation, flows, _ranks(step))


def one_text(step: Step) -> Callable[[Sequence[float]], str]:
    """A function from 29 values to text, for flows that are not in the table (varied ones)."""
    return flow_writer(step.spec, step.settings.serialisation, _ranks(step))
