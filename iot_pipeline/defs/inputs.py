"""Inputs that assets of several groups read alike: the split, the flow texts and the base model."""

from pathlib import Path
from typing import Protocol

import pandas as pd

from iot_pipeline.flows.dataset import pool_size, training_rows
from iot_pipeline.flows.spec import DatasetSpec, Scale
from iot_pipeline.flows.split import DROPPED, stage_rows
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.settings import Settings

PROBABILITIES = "probabilities.parquet"


class Reader(Protocol):
    """Reader of a lake: the step of an asset, or the estimate of one."""

    settings: Settings

    @property
    def spec(self) -> DatasetSpec:
        """Spec of the data set."""

    def input(self, asset: str, partition: str = "") -> Path:
        """Return the folder of an artefact."""


def flows_of(step: Reader) -> Path:
    """Return the file of the accepted rows."""
    return step.input("flows") / "flows.parquet"


def order_of(step: Reader) -> Path:
    """Return the file of the train pool in its order."""
    return step.input("training_order") / "order.parquet"


def records_of(step: Reader) -> Path:
    """Return the file of the evaluation split."""
    return step.input("evaluation_split") / "records.parquet"


def dropped_of(step: Reader) -> Path | None:
    """Return the file of the rows that a publisher's split leaves out; None under a split by flow group."""
    file = records_of(step).with_name(DROPPED)
    return file if file.is_file() else None


def texts_of(step: Reader) -> Path:
    """Return the file with the text of every distinct flow."""
    return step.input("flow_texts") / "texts.parquet"


def printed_spec(step: Reader) -> DatasetSpec:
    """Return the spec with the scales that texts apply: those fitted on the train pool, if the data set asks for it."""
    if step.spec.scaling != "train_pool":
        return step.spec
    fitted = read_json(step.input("evaluation_split") / "scaling.json")
    return step.spec.with_scales({name: Scale.model_validate(scale) for name, scale in fitted.items()})


def told_spec(step: Reader) -> DatasetSpec:
    """Return the spec by which raw values are told: assumed scales count as known only where the rows are simulated."""
    return step.spec.of_simulated_rows() if step.settings.data.source == "simulate" else step.spec


def writer_of(step: Reader) -> FlowTextWriter:
    """Return the writer of flow texts, with the scales and ranks of the train pool."""
    return FlowTextWriter.load(step.input("flow_texts"), step.spec)


def labelled_rows(step: Reader, stage: str) -> pd.DataFrame:
    """Return the training rows of a stage with features and labels, exactly the student's."""
    order = order_of(step)
    _, stop, _ = stage_rows(stage, pool_size(order))
    return training_rows(flows_of(step), order, 0, stop)


def probabilities_of(step: Reader, stage: str) -> Path:
    """Return the file of the baseline's class probabilities for the train pool."""
    return step.input("baseline_probabilities", stage) / PROBABILITIES


def base_location(step: Reader) -> str:
    """Return folder or hub id of the base model."""
    folder = step.input("base_model")
    base = read_json(folder / "base.json")
    return str(base["name"]) if base["kind"] == "given" else str(folder / "model")
