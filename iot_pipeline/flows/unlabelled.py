"""Unlabelled flows, read by the rules of a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.reading.rules import rules_of
from iot_pipeline.flows.source import read_tables
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, literal, scan, write_query


def read_unlabelled(
    spec: DatasetSpec, source: str, log: Callable[[str], None] | None = None, words: Collection[str] | None = None
) -> pd.DataFrame:
    """Read the flows of `source`, one per data row: flow_group, features.

    A label column is not required and not read.

    Args:
        spec: Spec of the data set.
        source: Files as in IOT_SOURCE.
        log: Receives progress messages.
        words: Columns that expressions see as text, as in the training source; None: those that are text here.

    Raises:
        UserError: A column is missing, or a row is invalid: every row must get an answer.
    """
    # Reading and validating need a label: first a needed source column serves as one, then the first class.
    without = spec.model_copy(update={"label_column": spec.source_columns[0]})
    with tempfile.TemporaryDirectory(prefix="iot_flows_") as folder, connect(Path(folder)) as connection:
        raw, labelled, flows = (Path(folder) / f"{name}.parquet" for name in ("raw", "labelled", "flows"))
        # No column is the label: a decimal comma is read in the first one too.
        rules, with_files = replace(rules_of(without), label=None), SOURCE_FILE in without.source_columns
        columns = read_tables(source, raw, rules, log, max_rejected_share=0.0, with_files=with_files).columns
        there = ", ".join(identifier(name) for name in columns if name.lower() != spec.label_column.lower())
        label = f"{literal(spec.classes[0])} AS {identifier(spec.label_column)}"
        write_query(connection, f"SELECT {there}, {label} FROM {scan(raw)}", labelled)
        build_flows(spec, labelled, flows, max_rejected_share=0.0, log=log, words=words)
        table = pq.read_table(flows, columns=["flow_group", *spec.feature_names])
    return table.to_pandas()
