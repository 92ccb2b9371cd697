"""Training data of a student that never saw one class: rows, texts, percentiles and scales without it."""

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
PARTS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class LeftOut:
    """The data of a student that a class is kept from.

    `tables`: distinct flows by part (PARTS), with flow_group, `label` (of the train part: the commonest one of the rows
    that are left) and the features. `texts`: their texts, by a writer whose percentiles and scales are fitted on the
    train pool without the class.
    """

    classes: list[str]
    tables: dict[str, pd.DataFrame]
    texts: dict[str, list[str]]


def leave_out(
    label: str,
    spec: DatasetSpec,
    serialisation: str,
    rows: pd.DataFrame,
    sides: dict[str, pd.DataFrame],
    files: tuple[Path, Path],
    work: Path,
) -> LeftOut:
    """Take a class out of all that a student learns from.

    Args:
        label: The class.
        spec: Spec of the data set, without fitted scales.
        serialisation: How a flow becomes text.
        rows: Training rows of the stage, with flow_group, label and features.
        sides: Distinct flows of the other PARTS.
        files: flows.parquet, and records.parquet of the split.
        work: Folder for a temporary file.
    """
    flows, records = files
    without = work / "flows.parquet"
    with connect(flows) as connection:
        write_query(connection, f"SELECT * FROM {scan(flows)} WHERE label <> {literal(label)}", without)
    spec = fit_scaling(spec, without, records) if spec.scaling == "train_pool" else spec
    writer = FlowTextWriter(spec, serialisation, fit_ranks(spec, without, records))
    without.unlink()
    tables = {"train": distinct_labelled(rows[rows["label"] != label]), **sides}
    classes = [name for name in spec.classes if name != label]
    return LeftOut(classes, tables, {part: writer.texts(table) for part, table in tables.items()})


def distinct_labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the distinct flows of labelled rows, each under its commonest label; of several, the first by name."""
    counts = rows.groupby(["flow_group", "label"]).size().rename("n").reset_index()
    counts = counts.sort_values(["flow_group", "n", "label"], ascending=[True, False, True])
    labels = counts.drop_duplicates("flow_group").set_index("flow_group")["label"]
    distinct = rows.drop_duplicates("flow_group").sort_values("flow_group").reset_index(drop=True)
    return distinct.assign(label=labels.loc[distinct["flow_group"]].to_numpy())


def questions_of(left: LeftOut, rows: pd.DataFrame, tasks: Tasks, seed: int) -> Questions:
    """Return the class rows of a student's training rows, the class that is left out not among them.

    Args:
        left: The data without the class.
        rows: Training rows of the stage, with flow_group and label.
        tasks: Tasks of the student (IOT_TASKS).
        seed: Seed of the masked copies.
    """
    text_of = dict(zip(left.tables["train"]["flow_group"], left.texts["train"], strict=True))
    kept = rows[rows["label"].isin(left.classes)]
    pairs = zip(kept["flow_group"], kept["label"], strict=True)
    found = labelled(((asked(text_of[group], "classify", tasks), group, name) for group, name in pairs), left.classes)
    return masked(found, COPIES, seed)
