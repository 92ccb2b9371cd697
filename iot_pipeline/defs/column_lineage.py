"""Columns of the table assets: what they mean, and what each is made from, as Dagster's column lineage.

https://docs.dagster.io/guides/build/assets/metadata-and-tags/column-level-lineage
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.vocabulary import TRACKS

Columns = Mapping[str, Sequence[tuple[str, str]]]  # column -> (asset, column) of each that it is made from
NAMED = 3  # sources of one asset that a description names; a text is made from every feature
MEANINGS = {
    "row_id": "accepted rows in the order of the source, from 0",
    "label": "class",
    "flow_group": "sha256 of the flow's text; equal in all rows that a model reads alike",
    "occurrence": "number of the row within its flow group, from 0",
    "rows": "rows of this flow group and label",
    "group_rows": "rows of this flow group",
    "side": "train, calibration, validation or test",
    "position": "place in the training order, from 0; a stage is its first rows",
    "repeat": "number of the row among those of its flow group and label, in training order, from 0",
    "text": "the flow as teacher and student read it",
    "kind": "original, paraphrase, varied, or unchanged where a flow could not be varied",
    "status": "ok, or quarantined where no answer passed the gates",
    "reasons": "why the answer was refused",
    "answer": "the teacher's answer",
    "key": "key of the request in the teacher's store",
    "seed": "seed of the request; none where the answer is the first row's",
    "variation": "what became of the flow in feature_varied, and why",
    "factor": "factor of the times of a varied flow",
    "varied_group": "flow group of the varied text",
    "model": "model that answered",
    "source": "server that answered",
    "attempts": "requests until this answer",
    "from_cache": "true if an earlier run had asked",
}


def flows_columns(spec: DatasetSpec) -> Columns:
    """Return the lineage of flows.parquet: features by their expressions, label, and group over all features."""
    made = {feature.name: [("raw_flows", column) for column in feature.source_columns] for feature in spec.features}
    every = list(dict.fromkeys(one for found in made.values() for one in found))
    return made | {"label": [("raw_flows", spec.label_column)], "flow_group": every, "occurrence": every}


def column_meanings(spec: DatasetSpec) -> dict[str, str]:
    """Return what each column of flows.parquet means, features with their units."""
    return MEANINGS | {feature.name: f"{feature.meaning} ({feature.unit})" for feature in spec.features}


def split_columns() -> Columns:
    """Return the lineage of records.parquet, one row a flow group and label."""
    same = {name: [("flows", name)] for name in ("flow_group", "label", "row_id")}
    group, label = ("flows", "flow_group"), ("flows", "label")
    return same | {"rows": [group, label], "group_rows": [group], "side": [group, label]}


def order_columns() -> Columns:
    """Return the lineage of order.parquet: the train pool in its order."""
    same = {name: [("flows", name)] for name in ("row_id", "flow_group", "label")}
    # The place of a row follows from a hash of its flow group, label and number in the group.
    ordered = [("flows", "flow_group"), ("flows", "label"), ("flows", "occurrence"), ("evaluation_split", "side")]
    return same | {"position": ordered, "repeat": ordered}


def texts_columns(spec: DatasetSpec) -> Columns:
    """Return the lineage of texts.parquet: a text prints every feature, with ranks of the train pool."""
    features = [("flows", feature.name) for feature in spec.features]
    return {"flow_group": [("flows", "flow_group")], "text": [*features, ("evaluation_split", "side")]}


def answers_columns(track: str, features: Sequence[str] = ()) -> Columns:
    """Return the lineage of a track's provenance.parquet: rows of the order, answers to prompts over flow texts.

    `features`: of the data set; those of further rows of a flow group are varied in the track feature_varied.
    """
    rows = "evaluation_split" if track == "validation_answers" else "training_order"
    same = ("row_id", "flow_group", "label", *(("position", "repeat") if rows == "training_order" else ()))
    asked = [("flow_texts", "text"), (rows, "label")]
    given = [*asked, ("original", "answer")] if track in TRACKS[1:] else asked
    varied: dict[str, list[tuple[str, str]]] = {}
    if track == "feature_varied":  # models that judge a variation have seen other rows of the train pool
        moved = [*(("flows", name) for name in features), (rows, "label"), ("evaluation_split", "side")]
        varied, given = dict.fromkeys(("variation", "factor", "varied_group"), moved), [*given, *moved[:-2]]
    return {name: [(rows, name)] for name in same} | varied | {"answer": given, "key": given}


def column_lineage(columns: Columns) -> dg.TableColumnLineage:
    """Return the lineage as Dagster shows it."""
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=column) for asset, column in found]
            for name, found in columns.items()
        }
    )


def description(meaning: str, sources: Sequence[tuple[str, str]]) -> str:
    """Say what a column means and is made from: Dagster's own server shows a column's lineage on no page."""
    by_asset: dict[str, list[str]] = {}
    for asset, column in sources:
        by_asset.setdefault(asset, []).append(column)
    told = [f"from {asset}: {_listed(columns)}" for asset, columns in by_asset.items()]
    return "; ".join(filter(None, [meaning, *told]))


def _listed(columns: Sequence[str]) -> str:
    more = len(columns) - NAMED
    return ", ".join(columns[:NAMED]) + (f" and {more} more" if more > 0 else "")
