"""What does it save to let oneDNN multiply matrices on this processor (models/cpu_products.py)?

    make run && .venv/bin/python benchmarks/cpu_products.py

The lake's first student trains, scores flows and writes explanations, in turns: one process with oneDNN's products, one
with PyTorch's default, each with one thread, so that a second core may be busy. Seconds are those of the processor.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from result import save

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.models import cpu_products
from iot_pipeline.settings import load_settings

ROUNDS = 3
STEPS = 12
FLOWS = 512
ANSWER_TOKENS = 64


def main() -> None:
    """Run both ways in turns, write benchmarks/results/cpu_products.json, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with a student at 10K")
    parser.add_argument("--worker", choices=["onednn", "default"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        return print(json.dumps(work(chosen.lake, chosen.worker)))
    found: dict[str, list[dict[str, float]]] = {"onednn": [], "default": []}
    for number in range(ROUNDS):
        for way in ("onednn", "default") if number % 2 else ("default", "onednn"):
            command = [sys.executable, __file__, "--lake", str(chosen.lake), "--worker", way]
            found[way].append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    least = {way: {task: min(one[task] for one in found[way]) for task in found[way][0]} for way in found}
    save(
        "cpu_products",
        {
            "question": "processor seconds with products by oneDNN against PyTorch's default, least of the rounds",
            "rounds": ROUNDS, "training_steps": STEPS, "flows_scored": FLOWS, "explanations": FLOWS // 8,
            "seconds": {way: {task: round(value, 3) for task, value in tasks.items()} for way, tasks in least.items()},
            "ratio": {task: round(value / least["onednn"][task], 2) for task, value in least["default"].items()},
        },
    )  # fmt: skip


def work(lake: Path, way: str) -> dict[str, float]:
    """Return the seconds of training, scoring and writing in this process."""
    if way == "default":
        cpu_products.has_amd_avx512 = lambda: False
    import torch

    from iot_pipeline.inference.student import Student
    from iot_pipeline.training import train
    from iot_pipeline.training.config import TrainConfig

    torch.set_num_threads(1)
    place = next((lake / "lora_checkpoint_10K").glob("*/original"))
    config = json.loads((place / "training.json").read_text())["config"]
    with tempfile.TemporaryDirectory() as out:
        training = train.setup(TrainConfig(**config | {"out": out, "threads": 1, "validation": None}), None)
    assert cpu_products.use_onednn() is (way == "onednn")
    found: dict[str, float] = {}

    def clock(task: str, run: Callable[[], object]) -> None:
        run()  # first calls choose kernels
        begun = time.process_time()
        run()
        found[task] = time.process_time() - begun

    def steps() -> None:
        for _ in range(STEPS):
            train.backward(training)
            training.optimiser.step()
            training.optimiser.zero_grad()

    clock("training", steps)
    student, classes = Student.load(config["base"], place, threads=1), load_spec(load_settings().data.dataset).classes
    prompts = pd.read_parquet(lake / "flow_texts" / "texts.parquet")["text"].iloc[:FLOWS].tolist()
    clock("scoring", lambda: student.score_labels(prompts, classes))
    clock("writing", lambda: student.explain(prompts[: FLOWS // 8], ANSWER_TOKENS))
    return found


if __name__ == "__main__":
    main()
