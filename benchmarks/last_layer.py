"""How much of a training step does the last layer at read positions alone save (models/last_layer.py)?

    make run && .venv/bin/python benchmarks/last_layer.py

The same steps of a lake's explained rows and class rows, forward and backward, in turns in one process on one thread:
`whole` computes every position of the last layer, `read` only those whose output enters the loss. Seconds are those of
the processor, so that other work on the machine disturbs them little.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.models import last_layer
from iot_pipeline.settings import load_settings


def main() -> None:
    """Run the steps both ways, write benchmarks/results/last_layer.json, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with a base and tensors")
    parser.add_argument("--split", default="training_split_10K/original", help="folder of the lake to read")
    parser.add_argument("--steps", type=int, default=8)
    chosen = parser.parse_args()
    student = load_settings().student
    seconds, furthest = work(chosen.lake, chosen.lake / chosen.split, chosen.steps, student.class_rows)
    ratio = {kind: round(spent["whole"] / spent["read"], 3) for kind, spent in seconds.items()}
    whole, read = (sum(spent[way] for spent in seconds.values()) for way in ("whole", "read"))
    save(
        "last_layer",
        {
            "question": "processor seconds of forward and backward, last layer whole against at read positions",
            "steps": chosen.steps,
            "seconds_a_step": {kind: {way: round(s / chosen.steps, 4) for way, s in spent.items()}
                               for kind, spent in seconds.items()},
            "ratio": ratio | {"step": round(whole / read, 3)},
            "largest_difference_of_a_gradient": furthest,
        },
    )  # fmt: skip


def work(lake: Path, split: Path, steps: int, class_rows: int) -> tuple[dict[str, dict[str, float]], float]:
    """Return the seconds by kind of rows and way, and the largest difference of a gradient between the ways.

    Args:
        lake: Lake with the base.
        split: Folder of the tensors.
        steps: Steps each way, after one that is not counted.
        class_rows: Class rows of a step.
    """
    import torch

    from iot_pipeline.models.tokenizer import load_tokenizer
    from iot_pipeline.sft.tensors import load_tensors
    from iot_pipeline.training.config import TrainConfig
    from iot_pipeline.training.data import Batches, causal_loss, make_draws
    from iot_pipeline.training.distributed import find_machine
    from iot_pipeline.training.model import adapted_model

    torch.set_num_threads(1)
    base, student = lake / "base_model" / "model", load_settings().student
    config = TrainConfig(
        base=str(base), tensors=split / "train.safetensors", out=lake, lora_targets="all-linear", lora_dropout=0.0,
        lora_r=student.lora_r, lora_alpha=student.lora_alpha,
    )  # fmt: skip
    model, tokenizer = adapted_model(config, find_machine(1, config.bf16)), load_tokenizer(base)
    model.train()
    explained, classes = load_tensors(config.tensors), load_tensors(split / "classes.safetensors")
    random, draws = np.random.default_rng(1), make_draws(classes, class_rows, steps + 1, 1)
    kinds = {
        "explained": (Batches(explained, tokenizer, 32), lambda _: random.choice(len(explained), 32, replace=False)),
        "class": (Batches(classes, tokenizer, 32), draws.rows_of),
    }
    seconds = {kind: {"whole": 0.0, "read": 0.0} for kind in kinds}
    fits, furthest = last_layer.fits, 0.0
    for step in range(steps + 1):
        for kind, (batches, rows_of) in kinds.items():
            rows, found = rows_of(step), dict[str, Any]()
            for way in ("whole", "read") if step % 2 else ("read", "whole"):
                last_layer.fits = fits if way == "read" else lambda _body: False
                begun = time.process_time()
                for batch in batches.of(rows):
                    (causal_loss(model, *batch) / len(rows)).backward()
                seconds[kind][way] += (time.process_time() - begun) * (step > 0)
                found[way] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                model.zero_grad()
            furthest = max(furthest, float((found["whole"] - found["read"]).abs().max()))
    return seconds, furthest


if __name__ == "__main__":
    main()
