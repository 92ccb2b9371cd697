"""The baseline asset's parts: which configurations it trains, and what it keeps of a baseline's probabilities."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.defs.baseline.fitting import configurations, score
from iot_pipeline.defs.recording import Step
from iot_pipeline.evaluation.evaluate import evaluate_predictions
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.quality.factories import CLASSES, flow_table, made_spec, random_flows, record_table, save


def step_of(**parts: Any) -> Step:
    return cast(Step, SimpleNamespace(**parts))


def test_the_paper_profile_trains_the_fixed_configuration_beside_best_quality() -> None:
    demo, paper = (configurations(step_of(settings=load_settings({"IOT_PROFILE": name}))) for name in ("demo", "paper"))
    assert [config.name for config in demo] == ["automl"]
    assert [config.name for config in paper] == ["automl", "automl_best_quality"]
    assert paper[0] == demo[0] and paper[1].seconds == 600


def test_predictions_are_calibrated_and_both_log_losses_kept(tmp_path: Path) -> None:
    records = record_table(flow_table(made_spec(), random_flows(3000)), ("calibration", "test"))
    groups = sorted(set(records["flow_group"]))
    certain = np.full((len(groups), 3), 1e-6)
    certain[np.arange(len(groups)), np.random.default_rng(0).integers(0, 3, len(groups))] = 1 - 2e-6
    kept: dict[str, Any] = {}
    step = step_of(
        folder=tmp_path, spec=SimpleNamespace(classes=CLASSES), settings=load_settings({"IOT_SEED": "1"}),
        input=lambda _: save(records, tmp_path / "records.parquet").parent,
        json=lambda name, content, **_: kept.update({name: content}), summarise=lambda **_: None,
    )  # fmt: skip
    score(step, BaselineResult("made", groups, np.log(certain), {"models": []}, {}))
    facts = kept["eval_made.json"]
    fitted = facts["calibration"]
    assert fitted["log_loss_after"] < fitted["log_loss_before"] / 2 and fitted["temperature"] > 2
    written = read_predictions(tmp_path / "predictions_made.parquet", CLASSES)
    again = evaluate_predictions(records[records["side"] == "test"], *written, CLASSES, 1)["views"]["distinct"]
    told = facts["views"]["distinct"]
    assert again["log_loss"] == pytest.approx(told["calibrated"]["log_loss"], abs=1e-6) != told["log_loss"]
