"""The study asset on made predictions: which seeds it takes, what it compares, what it says of one seed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.evaluation.arms import contrasts
from iot_pipeline.defs.evaluation.study import study
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.evaluation.study import ONE_SEED
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact

CLASSES = list(load_spec("farm_flow").classes)
FLOWS = 600
GROUPS = [f"{i:04d}" for i in range(FLOWS)]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake with a test side of one class, and AutoML, which is right everywhere."""
    monkeypatch.setenv("IOT_LAKE", str(tmp_path))
    monkeypatch.setenv("IOT_SEEDS", "1,2,3,4,5")
    settings_module.settings.cache_clear()
    lake = Lake(tmp_path)
    records = pd.DataFrame({"flow_group": GROUPS, "label": CLASSES[0], "rows": 1, "group_rows": 1, "side": "test"})
    records["row_id"] = np.arange(FLOWS)
    make(lake, "evaluation_split", "", records=records)
    make(lake, "automl_baseline", "10K", predictions_automl=0, predictions_lightgbm=3)
    yield lake
    settings_module.settings.cache_clear()


def make(lake: Lake, asset: str, partition: str, **files: pd.DataFrame | int) -> None:
    """Put an artefact into the lake: tables, or predictions with so many errors."""
    artefact = ArtefactId(asset, partition)
    with lake.replacing(artefact) as folder:
        for name, content in files.items():
            if isinstance(content, pd.DataFrame):
                content.to_parquet(folder / f"{name}.parquet", index=False)
                continue
            certain = np.full((FLOWS, len(CLASSES)), -9.0)
            certain[np.arange(FLOWS), (np.arange(FLOWS) < content).astype(int)] = 0
            write_predictions(folder / f"{name}.parquet", GROUPS, certain, CLASSES)
        finish_artefact(folder, Manifest(asset, partition, "", "1", {}, {}, {}), set())


def students(lake: Lake, track: str, *errors: int, stage: str = "10K") -> None:
    for seed, wrong in enumerate(errors, 1):
        make(lake, f"eval_metrics_{stage}", f"{seed}|{track}", predictions=wrong)


def studied(lake: Lake) -> dict[str, Any]:
    done = dg.materialize([study], instance=dg.DagsterInstance.ephemeral(), resources={"lake": LakeResource()})
    assert done.success
    return json.loads((lake.folder(ArtefactId("study")) / "study.json").read_text())


def test_tracks_stages_and_baselines_are_compared_over_all_seeds(lake: Lake) -> None:
    students(lake, "original", 60, 62, 61, 60, 62)
    students(lake, "paraphrased", 66, 54, 61, 66, 54)
    students(lake, "original", 20, 22, 21, 20, 22, stage="30K")
    found = studied(lake)
    said = {(row["first"], row["second"]): row["verdict"] for row in found["contrasts"] if row["metric"] == "accuracy"}
    assert found["seeds"] == 5 and found["left_out"] == []
    assert said == {
        ("paraphrased 10K", "original 10K"): "no difference shown",
        ("original 10K", "AutoML 10K"): "AutoML 10K is better",
        ("original 10K", "LightGBM 10K"): "LightGBM 10K is better",
        ("paraphrased 10K", "AutoML 10K"): "AutoML 10K is better",
        ("paraphrased 10K", "LightGBM 10K"): "LightGBM 10K is better",
        ("original 30K", "original 10K"): "original 30K is better",
    }
    assert found["arms"]["original 10K"]["accuracy"]["mean"] == pytest.approx(1 - 61 / FLOWS)


def test_shares_of_explanations_are_means_over_the_seeds_of_the_study(lake: Lake) -> None:
    students(lake, "original", 60, 62, 61, 60, 62)
    told = dict.fromkeys(("numbers_grounded", "values_true", "directions_true"), 1.0)
    for seed, faultless in ((1, 0.4), (2, 0.6), (99, 0.0)):
        with lake.replacing(artefact := ArtefactId("explanation_quality_10K", f"{seed}|original")) as folder:
            scored = {"aggregate": {"faultless": faultless, **told, "values_true": None}, "grounded": None}
            (folder / "quality.json").write_text(json.dumps(scored))
            finish_artefact(folder, Manifest(artefact.asset, artefact.partition, "", "1", {}, {}, {}), set())
    (row,) = studied(lake)["explanations"]
    assert (row["arm"], row["way"], row["seeds"], row["values_true"]) == ("original 10K", "free", 2, None)
    assert row["faultless"] == {"mean": 0.5, "spread": pytest.approx(0.1 * 2**0.5)}


def test_a_student_without_all_seeds_is_left_out_by_name(lake: Lake) -> None:
    students(lake, "original", 60, 62, 61, 60, 62)
    students(lake, "paraphrased", 50, 51)
    found = studied(lake)
    assert found["left_out"] == ["paraphrased 10K"] and "paraphrased 10K" not in found["arms"]


def test_of_an_arm_that_is_left_out_the_seeds_of_the_study_are_counted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOT_SEEDS", "4,5,6")
    settings_module.settings.cache_clear()
    said: list[str] = []
    monkeypatch.setattr(Step, "log", lambda _self, text: said.append(text))
    students(lake, "original", 60, 62, 61, 60, 62)
    assert studied(lake)["left_out"] == ["original 10K"]
    assert "left out: original 10K was trained with 2 of 3 seeds" in said


def test_one_seed_gives_no_verdict(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_SEEDS", "2")
    settings_module.settings.cache_clear()
    students(lake, "original", 60, 62, 61, 60, 62)
    students(lake, "paraphrased", 10, 11, 12, 13, 14)
    found = studied(lake)
    assert {row["verdict"] for row in found["contrasts"]} == {ONE_SEED}
    assert found["arms"]["original 10K"]["accuracy"]["by_seed"] == [pytest.approx(1 - 62 / FLOWS)]


def test_a_lake_without_students_has_nothing_to_contrast() -> None:
    assert contrasts(["AutoML 10K", "LightGBM 10K"]) == []
