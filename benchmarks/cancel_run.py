"""How long after a cancel in the Dagster UI is the last process of a training gone?

    make run && .venv/bin/python benchmarks/cancel_run.py

Opens the UI on the lake, materialises a checkpoint through its GraphQL interface as a click would (a training of far
too many steps, in a copy of the lake), waits for live progress, terminates the run, and watches for training processes.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import psutil
from dagster_ui import launch, opened, until
from result import save

from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import Trained


def main() -> None:
    """Start, cancel, count, write benchmarks/results/cancel_run.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with stage 10K in it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        shutil.copytree(chosen.lake, lake, ignore=shutil.ignore_patterns(".dagster"))
        with opened(lake, IOT_TRAIN_MAX_STEPS="100000") as client:
            run = launch(client, "lora_checkpoint_10K", Trained(load_settings().seeds[0], "original").key)
            until(lambda: len(trainings(lake)) > 0 and any((lake / ".work").glob("*/*/progress.jsonl")))
            found = len(trainings(lake))
            client.terminate_run(run)
            started = time.monotonic()
            until(lambda: not trainings(lake))
            seconds = time.monotonic() - started
            until(lambda: client.get_run_status(run).value == "CANCELED")
            said = time.monotonic() - started
    save(
        "cancel_run",
        {
            "question": "seconds from a cancel in the UI to the end of the last training process",
            "training_processes": found,
            "seconds_until_gone": round(seconds, 2),
            "seconds_until_canceled": round(said, 2),
        },
    )


def trainings(lake: Path) -> list[int]:
    """Ids of processes that train in this lake."""
    commands = {process.pid: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
    return [
        pid for pid, command in commands.items() if "iot_pipeline.training.train" in command and str(lake) in command
    ]


if __name__ == "__main__":
    main()
