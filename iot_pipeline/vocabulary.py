"""The words of the method, each list written down once: stages, tracks, controls, sides of the split, views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

Stage = Literal["10K", "30K", "70K", "150K", "ALL"]
Track = Literal["original", "paraphrased", "feature_varied"]
Control = Literal[
    "label_only",
    "shuffled_explanations",
    "other_class_explanations",
    "repeated_originals",
    "shuffled_names",
    "untrained",
]

STAGES: list[str] = list(get_args(Stage))
TRACKS: list[str] = list(get_args(Track))
# Students that `original` is held against, each with the question that it answers; sft/controls.py defines them.
CONTROLS: Mapping[str, str] = {
    "label_only": "Do explanations help the class? It learns the class alone.",
    "shuffled_explanations": "Is it what explanations say, or only more tokens? Each row has that of another row.",
    "other_class_explanations": "Does an explanation of a wrong class do harm? Each row has one of another class.",
    "repeated_originals": "Is it new text, or the weight of flows? Distinct original rows, repeated to equal tokens.",
    "shuffled_names": "Do feature names carry meaning? They change places, in training and in every prompt.",
    "untrained": "What does the base know alone? It has no adapter.",
}
DISTILLED = "distilled"  # `original`, whose class rows also learn from AutoML's probabilities (IOT_DISTIL)
ARMS = [*TRACKS, DISTILLED, *CONTROLS]  # all students of a stage, in the order of reports
ZERO_SHOT = "zero_shot"  # the prompt of the teacher as a control: no track is made of its answers
# Rows of each cumulative stage; None is the whole train pool.
STAGE_ROWS: Mapping[str, int | None] = {"10K": 10_000, "30K": 30_000, "70K": 70_000, "150K": 150_000, "ALL": None}
SIDES = ("train", "validation", "calibration", "test")
VIEWS = {
    "row": "every row counts",
    "distinct": "every distinct flow counts once",
    "clean": "distinct flows with one label",
}


class Partition(NamedTuple):
    """A stage of a track, as reports key their students: `10K|original`."""

    stage: str
    track: str

    @property
    def key(self) -> str:
        """Key of both."""
        return f"{self.stage}|{self.track}"

    @classmethod
    def parse(cls, key: str) -> Partition:
        """Read a key; ValueError where it has not two parts."""
        return cls(*key.split("|"))


class Trained(NamedTuple):
    """A training seed and a track or control, as partition keys of students spell them: `2027|original`."""

    seed: int
    track: str

    @property
    def key(self) -> str:
        """Partition key, its parts in the order in which Dagster sorts the dimensions `seed` and `track`."""
        return f"{self.seed}|{self.track}"

    @classmethod
    def parse(cls, key: str) -> Trained:
        """Read a partition key; ValueError where it has not two parts."""
        seed, track = key.split("|")
        return cls(int(seed), track)


def staged(name: str, stage: str) -> str:
    """Name the asset of one stage: `lora_checkpoint_10K`."""
    return f"{name}_{stage}"


def unstaged(asset: str) -> tuple[str, str]:
    """Split the name of an asset into name and stage; the stage is empty if the name ends in none."""
    name, _, stage = asset.rpartition("_")
    return (name, stage) if stage in STAGES else (asset, "")


def partition_parts(key: str) -> list[str]:
    """Split a partition key into its dimensions' keys; [] for the empty one."""
    return [part for part in key.split("|") if part]


def stages_up_to(stage: str) -> list[str]:
    """List the stages whose increments make up `stage`."""
    return STAGES[: STAGES.index(stage) + 1]


def previous_stage(stage: str) -> str | None:
    """Return the stage before, or None for the first."""
    index = STAGES.index(stage)
    return STAGES[index - 1] if index else None
