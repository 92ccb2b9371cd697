"""A small run with controls: they are trained, scored and compared, and stand in no table of tracks."""

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = {
    "IOT_ROWS": "1000",
    "IOT_BASE_STEPS": "12",
    "IOT_TRAIN_MAX_STEPS": "4",
    "IOT_TRACKS": "original",
    "IOT_CONTROLS": "label_only,untrained",
    "IOT_PROCESSES": "1",
}


def test_controls_are_in_the_study_and_in_no_comparison_of_tracks(tmp_path: Path) -> None:
    def make(until: str) -> list[str]:
        command = [sys.executable, "-m", "iot_pipeline", "run", "--json", "--until", until]
        variables = os.environ | SMALL | {"IOT_LAKE": str(tmp_path)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(done.stdout)["made"]

    made = make("track_comparison")
    assert [name for name in made if "label_only" in name or "untrained" in name] == [
        "training_split_10K[label_only]",
        "lora_checkpoint_10K[2027|label_only]",
        "eval_metrics_10K[2027|label_only]",
        "eval_metrics_10K[2027|untrained]",
    ]
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    students = sorted(name for name in study["arms"] if not name.startswith(("AutoML", "LightGBM")))
    assert students == ["label_only 10K", "original 10K", "untrained 10K"]
    pairs = {(row["first"], row["second"]) for row in study["contrasts"]}
    assert {(f"{control} 10K", "original 10K") for control in ("label_only", "untrained")} <= pairs
    scored = [study["arms"][name]["accuracy"]["mean"] for name in students]
    assert len(set(scored)) > 1 and all(0 <= one <= 1 for one in scored)
    compared = json.loads((tmp_path / "track_comparison" / "track_comparison.json").read_text())
    assert [row["name"] for row in compared["rows"] if row["kind"] == "student"] == ["original"]
    assert compared["best"]["name"] == "original"
    assert make("track_comparison") == []
