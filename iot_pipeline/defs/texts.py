"""How assets turn flows into the text that teacher, student and evaluation all see.

Belongs here: picking serialisation and rank table from the lake. Does not belong here: printing (flows.serialise).
"""

import json
from collections.abc import Callable, Sequence

import pandas as pd

from iot_pipeline.defs.step import Step
from iot_pipeline.flows.serialise import RankTable, ranked_text, texts, values_text


def rank_table(step: Step) -> RankTable:
    """The rank table of the train pool."""
    return RankTable.from_json(json.loads((step.input("training_order") / "ranks.json").read_text()))


def table_texts(step: Step, flows: pd.DataFrame) -> list[str]:
    """One text a row of a table with the feature columns."""
    kind = step.settings.serialisation
    return texts(step.spec, kind, flows, rank_table(step) if kind == "ranked" else None)


def one_text(step: Step) -> Callable[[Sequence[float]], str]:
    """A function from 29 values to text, for flows that are not in the table (varied ones)."""
    spec = step.spec
    if step.settings.serialisation == "values":
        return lambda values: values_text(spec, values)
    ranks = rank_table(step)
    return lambda values: ranked_text(spec, values, ranks)
