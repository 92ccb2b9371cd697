"""The distilled student and its baseline: train flows alone, and no flow told by a model that saw its label."""

from typing import Any

import pandas as pd
import pytest

from iot_pipeline.baseline import distil
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.defs.baseline import distil as distilling
from iot_pipeline.defs.resources import TrainerResource
from iot_pipeline.defs.training import assets as training
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.vocabulary import Trained
from iot_pipeline_tests.defs.sides import Seen, Sides, assert_of_sides, catch, make, scores_of


def test_the_baseline_tells_a_student_of_train_flows_alone_and_never_of_a_flow_by_its_own_label(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def run(train: pd.DataFrame, flows: pd.DataFrame, *rest: Any) -> BaselineResult:
        seen.append((set(train["flow_group"]), set(flows["flow_group"])))
        return BaselineResult("automl", flows["flow_group"].tolist(), scores_of(flows["flow_group"]), {}, {})

    monkeypatch.setattr(distil, "run_automl", run)
    make(distilling.baseline_probabilities, partition="10K")
    assert all(not trained & told for trained, told in seen)
    assert set.union(*(trained for trained, _ in seen)) <= sides.groups["train"]
    assert set.union(*(told for _, told in seen)) == sides.groups["train"]
    make(training.training_split("10K"), partition="distilled")
    monkeypatch.setattr(TrainerResource, "train", catch(told_of := {}, "self", "step", "configs"))
    with pytest.raises(Seen):
        make(training.lora_checkpoint("10K"), partition=Trained(2027, "distilled").key)
    assert_of_sides(sides, told_of["configs"][0])


def test_the_baseline_of_pseudo_labels_reads_what_the_distilled_student_reads(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def run(train: pd.DataFrame, both: pd.DataFrame, *rest: Any) -> BaselineResult:
        seen["groups"] = set(train["flow_group"])
        return BaselineResult("automl", both["flow_group"].tolist(), scores_of(both["flow_group"]), {}, {})

    monkeypatch.setattr(distil, "run_automl", run)
    make(distilling.baseline_probabilities, partition="10K")
    monkeypatch.setattr(distilling, "run_automl", run)
    make(distilling.pseudo_label_baseline, partition="10K")
    assert seen["groups"] == sides.groups["train"]
    found = sides.read(ArtefactId("pseudo_label_baseline", "10K"), "eval_automl_pseudo.json")
    assert found["groups"] == len(sides.groups["test"])
