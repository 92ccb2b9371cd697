"""A lake whose flows are known by their side of the split, and a student that keeps the texts it was given."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.controls import ShuffledNames
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.vocabulary import CONTROLS, Trained

CLASSES = list(load_spec("farm_flow").classes)
SHUFFLED = ShuffledNames(tuple(load_spec("farm_flow").feature_names), "ranked", 2027)
STUDENT = Trained(2027, "original").key
TRAINED = ["original", *(control for control in CONTROLS if control != "untrained")]
VALUES = {"IOT_ROWS": "900", "IOT_EXPLAINED_FLOWS": "20", "IOT_AUDIT_ROWS": "64", "IOT_VALIDATION_FLOWS": "24"}
VALUES |= {"IOT_CONTROLS": ",".join(CONTROLS), "IOT_DISTIL": "true", "IOT_CLASS_ROWS": "8"}
VALUES |= {"IOT_CLASS_COPIES": "0"}  # a masked flow could not be told from others


class Seen(Exception):
    """Raised by a stand-in once it has seen what the asset gave it."""


class Sides:
    """Sides of a lake's flow groups and texts."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.records = lake.folder(ArtefactId("evaluation_split")) / "records.parquet"
        table = pq.read_table(self.records).to_pandas()
        self.groups = {side: set(found["flow_group"]) for side, found in table.groupby("side")}
        written = pq.read_table(lake.folder(ArtefactId("flow_texts")) / "texts.parquet").to_pandas()
        of_group = dict(zip(table["flow_group"], table["side"], strict=True))
        self.group_of = dict(zip(written["text"], written["flow_group"], strict=True))
        self.of_text = {text: of_group[group] for text, group in self.group_of.items()}

    def of(self, texts: Sequence[str], arm: str = "original") -> set[str]:
        """Return the sides of flows that occur in `texts` (prompts hold a flow's text whole), as `arm` reads them."""
        shown = {as_read(text, arm): side for text, side in self.of_text.items()}
        return {next((side for text, side in shown.items() if text in given), "unknown") for given in texts}

    def records_of(self, side: str) -> pd.DataFrame:
        return side_records(self.records, side)

    def read(self, artefact: ArtefactId, name: str) -> Any:
        return json.loads((self.lake.folder(artefact) / name).read_text())


def as_read(text: str, arm: str) -> str:
    """The flow text that a student of `arm` reads."""
    return SHUFFLED.flow(text) if arm == "shuffled_names" else text


def make(*assets: dg.AssetsDefinition, partition: str | None = None) -> None:
    """Make assets one after the other; re-raise `Seen`."""
    for asset in assets:
        dg.materialize(
            [asset],
            partition_key=partition,
            instance=dg.DagsterInstance.ephemeral(),
            resources={"lake": LakeResource(), "teacher": TeacherResource(), "trainer": TrainerResource()},
        )


def scores_of(texts: Sequence[str], classes: int = len(CLASSES)) -> np.ndarray:
    """Class scores that are the same for equal texts, and sure of themselves by a factor of their own."""
    rows = [np.random.default_rng(list(text.encode()[-40:])).normal(0, 1 + len(text) % 7, classes) for text in texts]
    return np.log(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True))


class Student:
    """Scores and explains at once, and keeps what it was asked."""

    adapter: Path | None

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.explained: list[str] = []

    def opened(self, _: Any, base: str, adapter: Path | None) -> contextlib.AbstractContextManager["Student"]:
        self.adapter = adapter
        return contextlib.nullcontext(self)

    def score_labels(self, prompts: list[str], classes: list[str], **_: Any) -> np.ndarray:
        self.scored += prompts
        return scores_of(prompts)

    def score_with_states(self, prompts: list[str], classes: list[str], **_: Any) -> tuple[np.ndarray, np.ndarray]:
        self.scored += prompts
        return scores_of(prompts, len(classes)), scores_of(prompts, 4)

    def explain(self, prompts: list[str], longest: int, **_: Any) -> list[tuple[str, bool]]:
        self.explained += prompts
        cited = [prompt.split("\n")[0].replace(": ", " ") for prompt in prompts]
        return [(f"CLASSIFICATION: Normal\nANALYSIS: {one}.\nKEY_INDICATORS: {one}", True) for one in cited]


def catch(seen: dict[str, Any], *names: str) -> Callable[..., Any]:
    """A stand-in that keeps its arguments by `names` and ends the asset."""

    def stand_in(*arguments: Any, **_: Any) -> None:
        seen.update(zip(names, arguments, strict=False))
        raise Seen

    return stand_in


def assert_of_sides(sides: Sides, config: TrainConfig, arm: str = "original") -> None:
    """A training reads train flows, and its loss is of validation flows."""
    tokenizer = load_tokenizer(config.base)
    assert config.classes is not None
    for path, side in ((config.tensors, "train"), (config.classes, "train"), (config.validation, "validation")):
        tensors = load_tensors(path)
        texts = [tokenizer.decode(tensors.row(index)[0]) for index in range(len(tensors))]
        assert sides.of(texts, arm) == {side}
