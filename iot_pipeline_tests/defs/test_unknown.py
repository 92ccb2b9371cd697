"""Leave one class out: neither its student nor its baseline sees it, a finished class is kept, the table is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.evaluation import unknown
from iot_pipeline.defs.evaluation.drift import flows_are_like_the_last_train_pool
from iot_pipeline.defs.flows import assets as flow_assets
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.resources import TrainerResource
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline_tests.defs.sides import Sides, Student, make

LEFT_OUT = "TCP_Flood"
MADE = ArtefactId("unknown_detection_10K")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Train at once, and keep what was asked for."""
    configs: list[Any] = []

    def train(_self: Any, _step: Any, given: list[Any], _processes: int) -> list[dict[str, Any]]:
        for config in given:
            configs.append((config, load_tensors(config.tensors), load_tokenizer(config.base)))
        return [{"facts": {"steps": 1, "tokens_read": 2, "first_loss": 1.0, "final_loss": 0.5}}] * len(given)

    monkeypatch.setattr(TrainerResource, "train", train)
    return configs


@pytest.fixture(autouse=True)
def settings_are_read_anew() -> Iterator[None]:
    yield
    settings_module.settings.cache_clear()


def chosen(monkeypatch: pytest.MonkeyPatch, classes: str) -> None:
    monkeypatch.setenv("IOT_UNKNOWN_CLASSES", classes)
    monkeypatch.setenv("IOT_UNKNOWN_BASELINE", "lightgbm")
    settings_module.settings.cache_clear()


def test_a_class_is_kept_from_student_and_baseline_and_a_finished_one_is_not_trained_again(
    sides: Sides, student: Student, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    run = unknown.run_lightgbm
    monkeypatch.setattr(
        unknown, "run_lightgbm", lambda rows, *rest: (seen.append({*rows["label"]}), run(rows, *rest))[1]
    )
    chosen(monkeypatch, LEFT_OUT)
    make(unknown.unknown_detection("10K"))
    ((_config, tensors, tokenizer),) = trained
    rows = [tokenizer.decode(tensors.row(row)[0]) for row in range(len(tensors))]
    assert rows and not any(row.endswith(f" {LEFT_OUT}") for row in rows)
    assert LEFT_OUT not in seen[0] and len(seen[0]) > 2
    chosen(monkeypatch, f"{LEFT_OUT},Arp_Spoofing")
    make(unknown.unknown_detection("10K"))
    assert len(trained) == 2 == len(seen)
    result = sides.read(MADE, "unknown.json")
    assert [*result["classes"]] == ["Arp_Spoofing", LEFT_OUT] and "Normal" in result["left_out"]
    for found in result["classes"].values():
        assert found["models"].keys() == {"student", "lightgbm"} and LEFT_OUT not in found["score"]
        assert 0 <= found["models"]["student"]["auroc"]["low"] <= found["models"]["student"]["auroc"]["high"] <= 1
    assert LEFT_OUT not in result["classes"][LEFT_OUT]["evidence"]
    means = [found["models"]["student"]["auroc"]["value"] for found in result["classes"].values()]
    assert result["mean"]["student"]["auroc"]["value"] == pytest.approx(np.mean(means))
    assert (sides.lake.folder(MADE) / "classes.csv").is_file()


def test_a_baseline_that_other_code_made_is_trained_again(
    sides: Sides, student: Student, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "ICMP_Flood")
    make(unknown.unknown_detection("10K"))
    trained.clear()
    run, seen, known = unknown.run_lightgbm, list[int](), unknown.code_version
    monkeypatch.setattr(unknown, "run_lightgbm", lambda *given: (seen.append(1), run(*given))[1])
    monkeypatch.setattr(unknown, "code_version", lambda module: f"{known(module)}x")
    make(unknown.unknown_detection("10K"))
    assert trained == [] and seen == [1]


@pytest.mark.slow
def test_automl_stands_beside_the_student(
    sides: Sides, student: Student, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, LEFT_OUT)
    monkeypatch.delenv("IOT_UNKNOWN_BASELINE")
    settings_module.settings.cache_clear()
    make(unknown.unknown_detection("10K"))
    result = sides.read(MADE, "unknown.json")
    found = result["classes"][LEFT_OUT]["models"]
    assert result["baseline"] == "automl" and found.keys() == {"student", "automl"}
    assert found["automl"]["accuracy"]["value"] > 0.7 and 0 <= found["automl"]["auroc"]["value"] <= 1


def test_a_class_that_the_data_set_lacks_is_refused(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch, "Nmap")
    with pytest.raises(dg.Failure, match="IOT_UNKNOWN_CLASSES names Nmap; there are"):
        make(unknown.unknown_detection("10K"))


def checked(root: Path) -> dg.AssetCheckEvaluation:
    """The verdict of the check on the flows of a lake."""
    made = dg.Definitions(
        [flow_assets.raw_flows, flow_assets.flows],
        asset_checks=[flows_are_like_the_last_train_pool],
        resources={"lake": LakeResource(folder=str(root))},
        jobs=[dg.define_asset_job("check", dg.AssetSelection.checks(flows_are_like_the_last_train_pool))],
    )
    result = made.resolve_job_def("check").execute_in_process(instance=dg.DagsterInstance.ephemeral())
    (verdict,) = result.get_asset_check_evaluations()
    return verdict


def test_new_flows_are_held_against_the_train_pool_that_students_learnt_from(sides: Sides, tmp_path: Path) -> None:
    for name in ("flows", "flow_texts"):
        shutil.copytree(sides.lake.folder(ArtefactId(name)), tmp_path / name)
    assert checked(tmp_path).passed
    file, feature = tmp_path / "flows" / "flows.parquet", load_spec("farm_flow").feature_names[0]
    table = pq.read_table(file).to_pandas()
    table[feature] = table[feature] + 5
    table.to_parquet(file)
    verdict = checked(tmp_path)
    assert not verdict.passed and verdict.severity == dg.AssetCheckSeverity.WARN
    assert feature in str(verdict.metadata["moved_far"].value)
    shutil.rmtree(tmp_path / "flow_texts")
    assert checked(tmp_path).passed
