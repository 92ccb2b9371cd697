"""Training data of a student that never saw one class: rows, texts, percentiles and scales without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from iot_pipeline.flows.scaling import fit_scaling
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, literal, scan, write_query
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline.sft.class_rows import Questions, labelled, masked
from iot_pipeline.sft.tasks import Tasks, asked

COPIES = 2  # masked copies of a flow: a short training draws about two rows of each flow


@dataclass(frozen=True)
class LeftOut:
    """The data of a student that a class is kept from.

    `tables`: distinct flows by part (`train`, and each evaluation side), with flow_group and features; those of the
    train part have none of the class, and under `label` the commonest label of their rows.
    """

    label: str
    classes: list[str]
    tables: dict[str, pd.DataFrame]


def leave_out(label: str, classes: Sequence[str], rows: pd.DataFrame, sides: dict[str, pd.DataFrame]) -> LeftOut:
    """Take a class out of what a student learns from.

    Args:
        label: The class.
        classes: All classes.
        rows: Training rows of the stage, with flow_group, label and features.
        sides: Distinct flows of each evaluation side.
    """
    tables = {"train": distinct_labelled(rows[rows["label"] != label]), **sides}
    return LeftOut(label, [name for name in classes if name != label], tables)


def texts_without(
    left: LeftOut, spec: DatasetSpec, serialisation: str, files: tuple[Path, Path], work: Path
) -> dict[str, list[str]]:
    """Return the texts of the flows of each part; percentiles and scales are fitted on the train pool less the class.

    Args:
        left: The class, and the flows.
        spec: Spec of the data set, without fitted scales.
        serialisation: How a flow becomes text.
        files: flows.parquet, and records.parquet of the split.
        work: Folder for a temporary file.
    """
    flows, records = files
    without = work / "flows.parquet"
    with connect(flows) as connection:
        write_query(connection, f"SELECT * FROM {scan(flows)} WHERE label <> {literal(left.label)}", without)
    spec = fit_scaling(spec, without, records) if spec.scaling == "train_pool" else spec
    writer = FlowTextWriter(spec, serialisation, fit_ranks(spec, without, records))
    without.unlink()
    return {part: writer.texts(table) for part, table in left.tables.items()}


def distinct_labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the distinct flows of labelled rows, each under its commonest label; of several, the first by name."""
    counts = rows.groupby(["flow_group", "label"]).size().rename("n").reset_index()
    counts = counts.sort_values(["flow_group", "n", "label"], ascending=[True, False, True])
    labels = counts.drop_duplicates("flow_group").set_index("flow_group")["label"]
    distinct = rows.drop_duplicates("flow_group").sort_values("flow_group").reset_index(drop=True)
    return distinct.assign(label=labels.loc[distinct["flow_group"]].to_numpy())


def questions_of(left: LeftOut, texts: Sequence[str], rows: pd.DataFrame, tasks: Tasks, seed: int) -> Questions:
    """Return the class rows of a student's training rows, the class that is left out not among them.

    Args:
        left: The data without the class.
        texts: Texts of its train flows.
        rows: Training rows of the stage, with flow_group and label.
        tasks: Tasks of the student (IOT_TASKS).
        seed: Seed of the masked copies.
    """
    text_of = dict(zip(left.tables["train"]["flow_group"], texts, strict=True))
    kept = rows[rows["label"].isin(left.classes)]
    pairs = zip(kept["flow_group"], kept["label"], strict=True)
    found = labelled(((asked(text_of[group], "classify", tasks), group, name) for group, name in pairs), left.classes)
    return masked(found, COPIES, seed)
