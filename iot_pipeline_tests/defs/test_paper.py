"""The audit's arms: as many steps each, read where their rows train the class, beside the majority class."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.training import paper
from iot_pipeline.inference.student import Student
from iot_pipeline.settings import load_settings
from iot_pipeline.training.config import TrainConfig
from iot_pipeline_tests.reporting.audited import trained
from iot_pipeline_tests.tiny_model import CLASSES, answer_of, chats, flow_texts, label_of

TEXTS = flow_texts(6)
CUT = trained(0.0, 1.0) | {"longest_answer": 17}


def step_of(**parts: Any) -> Step:
    return cast(Step, SimpleNamespace(spec=SimpleNamespace(classes=CLASSES), log=None, **parts))


class Writer:
    """A student that writes right answers, but none where the text is among `silent`."""

    def __init__(self, silent: str = "") -> None:
        self.silent, self.room = silent, 0

    def score_labels(self, prompts: list[str], classes: list[str], **_: Any) -> np.ndarray:
        return np.log([[0.9 if name == label_of(text) else 0.05 for name in classes] for text in prompts])

    def explain(self, prompts: list[str], room: int, batch: int, **_: Any) -> list[tuple[str, bool]]:
        self.room = room
        return [("" if text == self.silent else f"A {label_of(text)} flow, orig_pkts", False) for text in prompts]


def read(student: Writer, tensors: dict[str, Any]) -> list[str]:
    found = paper.read_classes(step_of(), cast(Student, student), TEXTS, tensors)
    assert found.shape == (len(TEXTS), len(CLASSES) + 1)
    return [[*CLASSES, "none"][column] for column in found.argmax(axis=1)]


def test_an_arm_of_the_old_protocol_is_read_from_what_it_writes() -> None:
    student = Writer(silent=TEXTS[2])
    wanted = [label_of(text) for text in TEXTS]
    assert read(student, CUT) == [*wanted[:2], "none", *wanted[3:]] and student.room == 17


def test_an_arm_of_ours_is_read_in_front_of_the_answer() -> None:
    student = Writer(silent=TEXTS[2])
    assert read(student, {"rows": 6}) == [label_of(text) for text in TEXTS] and student.room == 0


@pytest.mark.parametrize(
    ("tensors", "wanted"),
    [
        ({"rows": 6}, ""),
        (trained(0.0, 1.0), ""),
        (trained(0.0, 0.0), "cannot be scored: no class token is trained"),
        (
            trained(0.0, 0.35),
            "cannot be scored: 35 % of its rows tell their class after the cut, the others train no class",
        ),
    ],
)
def test_an_arm_whose_rows_tell_no_class_cannot_be_scored(tensors: dict[str, Any], wanted: str) -> None:
    assert paper.unscorable(tensors) == wanted
    found = paper.arm("paper", {}, tensors)
    assert found == {"arm": "paper", "accuracy": None, "interval": None, "where": wanted}


def test_the_majority_class_is_that_of_the_distinct_training_flows() -> None:
    texts = flow_texts(40)
    first, second = ([text for text in texts if label_of(text) == name] for name in CLASSES[:2])
    rows = chats([*first[:2], *second[:1] * 9])  # most rows are of the second class, most flows of the first
    side = pd.DataFrame(
        {
            "flow_group": ["a", "b", "c", "d"],
            "label": [CLASSES[0], CLASSES[1], CLASSES[0], CLASSES[2]],
            "rows": 1,
            "group_rows": 1,
        }
    )
    found = paper.majority(side, ["a", "b", "c", "d"], rows, [*CLASSES, paper.NO_CLASS])
    assert found["class"] == CLASSES[0] and found["accuracy"] == 0.5


def test_all_arms_take_as_many_steps_of_as_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "base_location", lambda _: "tiny")
    kept: list[TrainConfig] = []
    trainer = SimpleNamespace(train=lambda _step, configs, _count: kept.extend(configs), count=lambda _step: 1)
    settings = load_settings({"IOT_TRAIN_STEP_ROWS": "32", "IOT_LABEL_WEIGHT": "8"})
    paper.train_arms(step_of(settings=settings), cast(Any, trainer), tmp_path, 2048, paper.ARMS)
    assert {(config.max_steps, config.step_rows) for config in kept} == {(160, 16)}
    weights = {name: config.label_weight for name, config in zip(paper.ARMS, kept, strict=True)}
    assert weights.pop("leak_free") == 8 and set(weights.values()) == {1.0}
    assert kept[0].warmup_steps == 5  # 100 of 3,125 steps in the old scripts


def test_rows_are_turned_round_and_keep_their_class() -> None:
    rows = chats(TEXTS)
    (row, *_) = paper.reordered(rows, "explanation_first")
    turned = row["messages"][1]["content"]
    assert turned.splitlines()[-1] == f"CLASSIFICATION: {label_of(TEXTS[0])}"
    assert paper.reordered([row], "label_first")[0]["messages"][1]["content"] == answer_of(TEXTS[0])
