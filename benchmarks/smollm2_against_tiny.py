"""Is a real pre-trained base worth its cost? SmolLM2-135M-Instruct and the tiny base on the same rows of one data set.

    .venv/bin/python benchmarks/smollm2_against_tiny.py                                           # Farm-Flow, simulated
    .venv/bin/python benchmarks/smollm2_against_tiny.py --dataset rt_iot2022 --source sample.csv  # of real flows

Each base gets a lake of its own under `--lakes`, made by the product's assets (track original, stage 10K): same flows,
split, order, teacher, rows and steps, one seed. The recipes differ where the bases do: the tiny base is the demo
profile's, SmolLM2 learns at a fifth of its rate. Accuracy is on distinct test flows; grounding is that of free writing,
on `--explained` of them. A killed run is taken up again by the same command.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from result import save

from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.models.smollm2 import SMOLLM2_LABEL
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline.training.data import make_plan

BASES = {"tiny": {}, "smollm2": {"IOT_LEARNING_RATE": "1e-3", "IOT_WARMUP_STEPS": "5"}}
OWN = ("lakes", "print_only", "source")  # settings that say nothing of the result
RECIPE = ("learning_rate", "label_weight", "lora_r", "lora_targets", "max_steps", "step_rows", "class_rows")
SHARES = (
    "faultless",
    "values_true",
    "numbers_grounded",
    "percentiles_true",
    "directions_true",
    "schema_valid",
    "ended",
)


def main() -> None:
    """Make both lakes, read the figures off them, write benchmarks/results/smollm2_against_tiny-<data set>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lakes", type=Path, default=Path("data_lake"), help="folder of the two lakes")
    parser.add_argument("--dataset", default="farm_flow")
    parser.add_argument("--source", default="simulate", help="file of the data set, or simulate")
    parser.add_argument(
        "--rows", type=int, default=13_000, help="rows to simulate; 10,000 give 262 distinct test flows"
    )
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of --step-rows rows")
    parser.add_argument("--step-rows", type=int, default=16)
    parser.add_argument("--class-rows", type=int, default=16, help="class rows of a step")
    parser.add_argument("--micro-rows", type=int, default=4, help="rows of a forward pass: SmolLM2 takes 0.3 GiB a row")
    parser.add_argument("--explained", type=int, default=100, help="test flows that are explained")
    parser.add_argument("--words", type=int, default=30, help="words asked of an explanation")
    parser.add_argument("--serialisation", default="compact", help="how a flow becomes text; compact is shortest")
    parser.add_argument("--base-steps", type=int, default=450, help="pre-training steps of the tiny base")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--print-only", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    table = {base: measured(base, chosen) for base in BASES}
    result = {
        "question": "SmolLM2 against the tiny base on the same rows",
        "smollm2": SMOLLM2_LABEL,
        "settings": {name: value for name, value in vars(chosen).items() if name not in OWN},
        "simulated": chosen.source == "simulate",
        "table": table,
    }
    save(f"smollm2_against_tiny-{chosen.dataset}", result, print_only=chosen.print_only)


def measured(base: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Make the lake of a base, and read accuracy, grounding and seconds."""
    lake = Lake((chosen.lakes / f"{chosen.dataset}-{base}-against").absolute())
    started = time.perf_counter()
    for asset in ("eval_metrics_10K", "explanation_quality_10K"):
        make(asset, lake.root, base, chosen)
    wall = time.perf_counter() - started
    (key,) = (artefact.partition for artefact in lake.artefacts() if artefact.asset == "eval_metrics_10K")
    metrics, quality = folder(lake, "eval_metrics_10K", key), folder(lake, "explanation_quality_10K", key)
    training = json.loads((folder(lake, "lora_checkpoint_10K", key) / "training.json").read_text())
    scored = json.loads((metrics / "eval.json").read_text())["views"]["distinct"]
    timing = json.loads((metrics / "timing.json").read_text())
    explained = json.loads((quality / "quality.json").read_text())
    facts, config = training["facts"], training["config"]
    return {
        "parameters": facts["total_parameters"],
        "rows_read": facts["rows_read"],
        "distinct_rows_read": distinct_read(folder(lake, "training_split_10K", "original"), config, facts["steps"]),
        "tokens_read": facts["tokens_read"],
        "test_flows": pq.read_metadata(metrics / "predictions.parquet").num_rows,
        **{name: [scored[name], *scored["intervals"][name]] for name in ("accuracy", "macro_f1")},
        "explained": explained["aggregate"]["explained"],
        "free": {name: explained["aggregate"][name] for name in SHARES},
        "right_reason": explained.get("right_reason"),
        "train_seconds": round(training["timings"]["train_seconds"], 1),
        "tokens_per_second": round(training["timings"]["tokens_per_second"], 1),
        "scoring_flows_per_second": round(timing["flows"] / timing["seconds"], 2),
        "wall_seconds_of_this_call": round(wall, 1),
        "recipe": {name: config[name] for name in RECIPE},
    }


def distinct_read(split: Path, config: dict[str, Any], steps: int) -> int:
    """Count the distinct rows among those that the training read."""
    tensors = load_tensors(split / "train.safetensors")
    plan = make_plan(tensors.lengths, config["step_rows"], config["epochs"], config["max_steps"], config["seed"])
    rows = np.unique(np.concatenate([plan.rows_of(step) for step in range(steps)]))
    return len({tensors.digest(int(row)) for row in rows})


def make(asset: str, lake: Path, base: str, chosen: argparse.Namespace) -> None:
    """Run the product until an asset of the lake is made; SystemExit if that fails."""
    settings = {
        "IOT_LAKE": str(lake),
        "IOT_DATASET": chosen.dataset,
        "IOT_SOURCE": chosen.source,
        "IOT_BASE_MODEL": base,
        "IOT_BASE_STEPS": str(chosen.base_steps),
        "IOT_SERIALISATION": chosen.serialisation,
        "IOT_EXPLANATION_WORDS": str(chosen.words),
        "IOT_TRAIN_MAX_STEPS": str(chosen.steps),
        "IOT_TRAIN_STEP_ROWS": str(chosen.step_rows),
        "IOT_TRAIN_MICRO_ROWS": str(chosen.micro_rows),
        "IOT_CLASS_ROWS": str(chosen.class_rows),
        "IOT_VALIDATION_FLOWS": "10",
        "IOT_EXPLAINED_FLOWS": str(chosen.explained),
        "IOT_PROCESSES": "1",
        "IOT_THREADS": str(chosen.threads),
    } | BASES[base]
    if chosen.source == "simulate":
        settings["IOT_ROWS"] = str(chosen.rows)
    command = [sys.executable, "-m", "iot_pipeline", "run", "--stages", "10K", "--tracks", "original", "--until", asset]
    if subprocess.run(command, env=os.environ | settings, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(f"{base}: {asset} was not made")


def folder(lake: Lake, asset: str, partition: str) -> Path:
    """Folder of an artefact."""
    return lake.folder(ArtefactId(asset, partition))


if __name__ == "__main__":
    main()
