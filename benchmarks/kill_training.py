"""Does a training killed at random steps end with the weights of one that was left alone?

    make run && .venv/bin/python benchmarks/kill_training.py

The same training twice on the CPU: once whole, once killed with SIGKILL at random moments and started again each time.
Compared: every step's loss and the adapter's bytes. The obvious way (start again from step 0) would do every step
before a kill twice; counted here is how many were.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.settings import load_settings
from iot_pipeline.training import launch
from iot_pipeline.training.config import TrainConfig


def main() -> None:
    """Train whole, train killed, compare, write benchmarks/results/kill_training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with a base and tensors")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        run(config(chosen, whole), None)
        lost = []
        for at in sorted(random.sample(range(4, chosen.steps - 2), chosen.kills)):
            lost.append(run(config(chosen, killed), at))
        run(config(chosen, killed), None)
        same = {
            name: (whole / name).read_bytes() == (killed / name).read_bytes()
            for name in ("loss.jsonl", "adapter_model.safetensors")
        }
        save(
            "kill_training",
            {
                "question": "weights of a training killed at random steps against one left alone",
                "steps": chosen.steps,
                "kills": lost,
                "same_bytes": same,
                "steps_done_twice": sum(one["lost"] for one in lost if one),
                "left_behind": left_behind(killed),
                "final_loss": [training(folder)["facts"]["final_loss"] for folder in (whole, killed)],
            },
        )


def config(chosen: argparse.Namespace, out: Path) -> TrainConfig:
    """A short training of the lake's first paraphrased rows."""
    return TrainConfig(
        base=str(chosen.lake / "base_model" / "model"),
        out=out,
        max_steps=chosen.steps,
        step_rows=8,
        threads=1,
        tensors=chosen.lake / "training_split_10K" / "paraphrased" / "train.safetensors",
        save_every=5,
        lora_targets="all-linear",
        learning_rate=5e-3,
        log_seconds=0.001,
    )


def run(settings: TrainConfig, kill_at: int | None) -> dict[str, Any] | None:
    """Train to the end, or kill it as soon as it reports step `kill_at`; says how many steps that costs."""
    path = settings.write(settings.out / "config.json")
    progress = settings.out / "progress.jsonl"
    progress.unlink(missing_ok=True)
    process = subprocess.Popen(
        launch.command(path),
        env={**os.environ, **launch.environment(settings.base, 1, 1)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        if kill_at is not None and (done := last_step(progress)) >= kill_at:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"at": done, "lost": done % settings.save_every}
        time.sleep(0.005)
    if process.returncode != 0 or kill_at is not None:
        raise SystemExit(f"the training ended with {process.returncode} before it was to be killed at {kill_at}")
    return None


def last_step(progress: Path) -> int:
    """The last step that was reported."""
    lines = [line for line in progress.read_text().splitlines() if line.endswith("}")] if progress.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def training(folder: Path) -> dict[str, Any]:
    """Read the result of a training."""
    result: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return result


def left_behind(folder: Path) -> list[str]:
    """Files of an unfinished training."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("checkpoint", "best", ".")))


if __name__ == "__main__":
    main()
