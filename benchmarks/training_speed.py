"""How many rows a second does training read on this machine, against the old recipe, and when cores are shared?

    make run && .venv/bin/python benchmarks/training_speed.py

Same base, adapter and rows of a lake's tensors, in turns in one run: `old` pads every row to 512 tokens and computes
the loss of every position, batch 2 x 8, as transformers does it for a user; `ours` is the project's batches and loss.
Then two trainings at once on the same cores, with threads that wait passively (what the project sets) and with the
default. Every worker is a process of its own and leaves its first steps out of the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.settings import load_settings

ROWS_A_STEP = 16
OLD_LENGTH = 512
WARM_UP = 2
ROUNDS = 3


def main() -> None:
    """Run every worker, write benchmarks/results/training_speed.json, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with a base and tensors")
    parser.add_argument("--split", default="training_split_10K/paraphrased", help="folder of the lake to read")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker", choices=["old", "ours"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(json.dumps(work(chosen.worker, chosen.lake, chosen.split, chosen.steps)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {"old": [], "ours": []}
    for _ in range(ROUNDS):
        for name in rounds:
            rounds[name] += together([name], chosen)
    alone = {name: statistics.median(one["rows_per_second"] for one in found) for name, found in rounds.items()}
    shared = {
        policy: [one["tokens_per_second"] for one in together(["ours", "ours"], chosen, policy)]
        for policy in ("PASSIVE", "default")
    }
    save(
        "training_speed",
        {
            "question": "rows a second of LoRA training, project against old recipe; and two at once on the same cores",
            "rows_per_step": ROWS_A_STEP,
            "steps": chosen.steps,
            "split": chosen.split,
            "rounds": rounds,
            "rows_per_second_median": alone,
            "ratio": round(alone["ours"] / alone["old"], 2),
            "two_at_once_tokens_per_second_by_wait_policy": shared,
        },
    )


def together(names: list[str], chosen: argparse.Namespace, policy: str = "PASSIVE") -> list[dict[str, Any]]:
    """Results of workers that run at the same time."""
    variables = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if policy != "default":
        variables["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "--lake", str(chosen.lake), "--split", chosen.split, "--steps"]
    processes = [
        subprocess.Popen([*command, str(chosen.steps), "--worker", name], env=variables, stdout=subprocess.PIPE)
        for name in names
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


def work(name: str, lake: Path, split: str, steps: int) -> dict[str, Any]:
    """Train for `steps` steps; rows and tokens a second, and the share of time outside compute."""
    import torch

    from iot_pipeline.models.tokenizer import load_tokenizer
    from iot_pipeline.sft.tensors import load_tensors
    from iot_pipeline.training.config import TrainConfig
    from iot_pipeline.training.data import Batches
    from iot_pipeline.training.distributed import find_machine
    from iot_pipeline.training.model import adapted_model

    base = lake / "base_model" / "model"
    path = lake / split / "train.safetensors"
    config = TrainConfig(base=str(base), tensors=path, out=lake, lora_targets="all-linear", lora_dropout=0.0)
    machine = find_machine(config.threads, config.bf16)
    model, tensors = adapted_model(config, machine), load_tensors(path)
    batches = Batches(tensors, load_tokenizer(base), ROWS_A_STEP)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
    rows = np.random.default_rng(1).permutation(len(tensors))
    model.train()
    started, compute, read = 0.0, 0.0, 0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            started, compute, read = time.perf_counter(), 0.0, 0
        chosen = rows[step * ROWS_A_STEP : (step + 1) * ROWS_A_STEP]
        old = name == "old"
        for loss_of in old_passes(model, tensors, batches.pad, chosen) if old else our_passes(model, batches, chosen):
            begun = time.perf_counter()
            loss_of().backward()
            compute += time.perf_counter() - begun
        begun = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad()
        compute += time.perf_counter() - begun
        read += int(tensors.lengths[chosen].sum())
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": round(steps * ROWS_A_STEP / seconds, 2),
        "tokens_per_second": round(read / seconds, 1),
        "outside_compute_share": round(1 - compute / seconds, 4),
    }


def our_passes(model: Any, batches: Any, rows: np.ndarray) -> Any:
    """The project's forward passes of a step."""
    from iot_pipeline.training.data import causal_loss

    divisor = batches.weight_total(rows)
    for batch in batches.of(rows):
        yield lambda batch=batch: causal_loss(model, *batch) / divisor


def old_passes(model: Any, tensors: Any, pad: int, rows: np.ndarray) -> Any:
    """Eight batches of two rows, each row padded to 512 tokens, loss on every real token, by transformers."""
    import torch

    for pair in rows.reshape(-1, 2):
        ids = np.full((2, OLD_LENGTH), pad, dtype=np.int64)
        mask = np.zeros((2, OLD_LENGTH), dtype=np.int64)
        for place, row in enumerate(pair):
            found = tensors.row(int(row))[0][:OLD_LENGTH]
            ids[place, : len(found)], mask[place, : len(found)] = found, 1
        labels = np.where(mask == 1, ids, -100)
        given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        yield lambda given=given: model(**{key: torch.from_numpy(value) for key, value in given.items()}).loss / 8


if __name__ == "__main__":
    main()
