"""Columns of the table assets: what they mean, and what each is made from, as Dagster's column lineage.

https://docs.dagster.io/guides/build/assets/metadata-and-tags/column-level-lineage
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.vocabulary import TRACKS

Columns = Mapping[str, Sequence[tuple[str, str]]]  # column -> (asset, column) of each that it is made from


def flows_columns(spec: DatasetSpec) -> Columns:
    """Return the lineage of flows.parquet: features by their expressions, label, and group over all features."""
    made = {feature.name: [("raw_flows", column) for column in feature.source_columns] for feature in spec.features}
    every = list(dict.fromkeys(one for found in made.values() for one in found))
    return made | {"label": [("raw_flows", spec.label_column)], "flow_group": every, "occurrence": every}


def column_meanings(spec: DatasetSpec) -> dict[str, str]:
    """Return what each column of flows.parquet means, features with their units."""
    own = {
        "row_id": "accepted rows in the order of the source, from 0",
        "label": "class",
        "flow_group": "sha256 of the flow's text; equal in all rows that a model reads alike",
        "occurrence": "number of the row within its flow group, from 0",
    }
    return own | {feature.name: f"{feature.meaning} ({feature.unit})" for feature in spec.features}


def split_columns() -> Columns:
    """Return the lineage of records.parquet, one row a flow group and label."""
    same = {name: [("flows", name)] for name in ("flow_group", "label", "row_id")}
    group, label = ("flows", "flow_group"), ("flows", "label")
    return same | {"rows": [group, label], "group_rows": [group], "side": [group, label]}


def order_columns() -> Columns:
    """Return the lineage of order.parquet: the train pool in its order."""
    same = {name: [("flows", name)] for name in ("row_id", "flow_group", "label")}
    side = ("evaluation_split", "side")
    return same | {"position": [side, ("flows", "label")], "repeat": [("flows", "occurrence"), side]}


def texts_columns(spec: DatasetSpec) -> Columns:
    """Return the lineage of texts.parquet: a text prints every feature, with ranks of the train pool."""
    features = [("flows", feature.name) for feature in spec.features]
    return {"flow_group": [("flows", "flow_group")], "text": [*features, ("evaluation_split", "side")]}


def answers_columns(track: str) -> Columns:
    """Return the lineage of a track's provenance.parquet: rows of the order, answers to prompts over flow texts."""
    rows = "evaluation_split" if track == "validation_answers" else "training_order"
    same = ("row_id", "flow_group", "label", *(("position", "repeat") if rows == "training_order" else ()))
    asked = [("flow_texts", "text"), (rows, "label")]
    given = [*asked, ("original", "answer")] if track in TRACKS[1:] else asked
    return {name: [(rows, name)] for name in same} | {"answer": given, "key": given}


def column_lineage(columns: Columns) -> dg.TableColumnLineage:
    """Return the lineage as Dagster shows it."""
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=column) for asset, column in found]
            for name, found in columns.items()
        }
    )
