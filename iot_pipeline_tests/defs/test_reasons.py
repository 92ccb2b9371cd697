"""Sides that right reasons read: baselines learn from train flows, tree depth and teacher are of validation flows."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from iot_pipeline.baseline import contributions
from iot_pipeline.baseline.lightgbm import train_model
from iot_pipeline.defs.evaluation import assets as evaluation
from iot_pipeline.defs.evaluation import reason_baselines as baselines
from iot_pipeline.defs.evaluation.reasons import reasons
from iot_pipeline.evaluation.ablation import MedianFlow
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline_tests.defs.sides import CLASSES, STUDENT, Sides, Student, make

FREE = ArtefactId("reason_baselines", "10K")


def groups_by_values(sides: Sides) -> dict[bytes, str]:
    """Flow group of each row's features."""
    table = pq.read_table(sides.lake.folder(ArtefactId("flows")) / "flows.parquet").to_pandas()
    values = np.ascontiguousarray(table[load_spec("farm_flow").feature_names].to_numpy(np.float64))
    return {row.tobytes(): group for row, group in zip(values, table["flow_group"], strict=True)}


def test_free_baselines_learn_from_train_flows_and_explain_test_flows(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(values: np.ndarray, *rest: Any, **changed: Any) -> Any:
        trained.extend(row.tobytes() for row in np.ascontiguousarray(values))
        return train_model(values, *rest, **changed)

    def tree(train: Any, validation: Any, flows: Any, *rest: Any) -> Any:
        fitted.update({"train": set(train["flow_group"]), "validation": set(validation["flow_group"])})
        fitted["test"] = set(flows["flow_group"])
        return contributions.explain_tree(train, validation, flows, *rest)

    trained: list[bytes] = []
    fitted: dict[str, set[str]] = {}
    judged: list[Any] = []
    monkeypatch.setattr(contributions, "train_model", train)
    monkeypatch.setattr(baselines, "explain_tree", tree)
    teacher = baselines.teacher_reasons
    monkeypatch.setattr(
        baselines, "teacher_reasons", lambda asked, *rest: judged.extend(asked) or teacher(asked, *rest)
    )
    make(baselines.reason_baselines, partition="10K")
    groups = groups_by_values(sides)
    assert len(trained) > 100 and {groups[row] for row in trained} <= sides.groups["train"]
    assert all(found and found <= sides.groups[side] for side, found in fitted.items())
    assert fitted["validation"] == sides.groups["validation"]
    assert len(judged) > 10 and {row[0] for row in judged} <= sides.groups["validation"]
    table = pq.read_table(sides.lake.folder(FREE) / baselines.FREE)
    assert len(table) == 20 and set(table["flow_group"].to_pylist()) <= sides.groups["test"]
    found = sides.read(FREE, "reason_baselines.json")
    assert found["teacher"]["explanations"] == len(judged)
    measured = {row["measure"]: row for row in found["teacher"]["measures"]}
    assert measured["faultless"]["value"] == 1.0
    assert measured["evidence_named"]["over_chance_value"] is not None and "right_class" not in measured


def test_reasons_are_judged_on_test_flows_and_their_medians(sides: Sides, student: Student) -> None:
    make(evaluation.explanation_quality("10K"), partition=STUDENT)
    explained = set(student.explained)
    student.scored.clear()
    make(baselines.reason_baselines, partition="10K")
    make(reasons("10K"), partition=STUDENT)
    assert len(student.explained) == 40  # nothing is written anew
    spec = load_spec("farm_flow")
    median = MedianFlow(FlowTextWriter.load(sides.lake.folder(ArtefactId("flow_texts")), spec))
    none = median.only(next(iter(explained)), ())

    def unchanged(text: str, flow: str) -> int:
        return sum(one == other for one, other in zip(text.split("\n"), flow.split("\n"), strict=True))

    for text in student.scored:  # each line is that of one explained flow, or the median's
        lines, medians = text.split("\n"), none.split("\n")
        assert any(
            all(line in (own, middle) for line, own, middle in zip(lines, flow.split("\n"), medians, strict=True))
            for flow in explained
        )
    assert explained <= set(student.scored) and max(unchanged(none, flow) for flow in explained) < 29
    found = sides.read(ArtefactId("reasons_10K", STUDENT), "reasons.json")
    assert found["explanations"] == found["deletion_flows"] == 20 and found["not_judged"] == {}
    for who in ("student", "template", "tree"):
        assert {"right_class", "evidence_share", "comprehensiveness"} <= {
            row["measure"] for row in found["measures"][who]
        }
    template = {row["measure"]: row["value"] for row in found["measures"]["template"]}
    assert template["faultless"] == 1.0 and template["shap_agreement"] > 0.5
    assert {row["measure"] for row in found["verdicts"]["template"]} >= {"right_class", "faultless", "sufficiency"}
    assert "shap_agreement" not in {row["measure"] for row in found["verdicts"]["template"]}
    assert found["sentences"]["template"].endswith("the template.") and found["human"]["right_class"] == 0.83
    assert set(CLASSES) == set(spec.classes)
