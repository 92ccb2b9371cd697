"""Fake trainer (IOT_TRAINER=fake): learns nothing, in a second; for tests and rehearsals of everything around it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_bytes, write_json, write_text
from iot_pipeline.models.loading import ADAPTER, base_identity, with_sorted_metadata
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline.training.config import ALL_LINEAR, RESULT, TrainConfig, read_config
from iot_pipeline.training.data import make_plan, within_tokens
from iot_pipeline.training.reporter import Reporter, complain, dagster_pipes, describe_progress


def main() -> int:
    """Run the fake trainer on the configuration file named on the command line; exit code as train.py's."""
    try:
        config = read_config(Path(sys.argv[1]))
        with dagster_pipes() as pipes:
            fake(config, Reporter(pipes, config.out, first=True))
    except UserError as error:
        complain(error)
        return 2
    return 0


def fake(config: TrainConfig, reporter: Reporter) -> None:
    """Write the files of a training of `config`: an adapter with B = 0, a constant loss curve, training.json."""
    tensors = load_tensors(config.tensors)
    plan = make_plan(len(tensors), config.step_rows, config.epochs, config.max_steps, config.seed)
    plan = within_tokens(plan, tensors.lengths, config.max_tokens)
    weights = adapter_weights(config)
    curve = [{"step": step + 1, "loss": 1.0} for step in range(plan.steps)]
    write_adapter(config, weights)
    write_text(config.out / "loss.jsonl", "".join(json.dumps(line) + "\n" for line in curve))
    progress = {"step": plan.steps, "steps": plan.steps, "loss": 1.0}
    reporter.progress(**progress)
    reporter.line(f"FAKE trainer, nothing is learned: {describe_progress(progress)}")
    trained = sum(value.size for value in weights.values())
    facts: dict[str, Any] = {
        "processes": 1,
        "trainable_parameters": trained,
        "rows": len(tensors),
        "steps": plan.steps,
        "kept_step": plan.steps,
        "rows_per_step": plan.per_step,
        "rows_read": plan.steps * plan.per_step,
        "tokens_read": plan.tokens(tensors.lengths, plan.steps),
        "first_loss": 1.0,
        "final_loss": 1.0,
        "validation_loss": 1.0 if config.validation else None,
        "validation_history": [],
    }
    write_json(
        config.out / RESULT,
        {
            "identity": config.identity(),
            "config": json.loads(config.model_dump_json()),
            "facts": facts,
            "machine": {"trainer": "fake", "device": "none", "seed": config.seed},
            "timings": {"train_seconds": 0.0, "tokens_per_second": 0.0, "padding_share": 0.0},
        },
    )


def adapter_weights(config: TrainConfig) -> dict[str, np.ndarray]:
    """Return the tensors of a fresh peft adapter, by the shapes in the base's safetensors: A random, B = 0."""
    from safetensors import safe_open

    files = sorted(Path(config.base).glob("*.safetensors"))
    if not files:
        raise UserError(f"IOT_TRAINER=fake needs a base in a folder, with safetensors: {config.base} has none")
    random, found = np.random.default_rng(config.seed), {}
    for file in files:
        with safe_open(file, framework="np") as tensors:
            for name in sorted(tensors.keys()):
                layer, shape = name.removesuffix(".weight"), tensors.get_slice(name).get_shape()
                if ".layers." not in layer or len(shape) != 2 or not _chosen(layer, config.lora_targets):
                    continue
                key = f"base_model.model.{layer}"
                found[f"{key}.lora_A.weight"] = random.normal(0, 0.02, (config.lora_r, shape[1])).astype(np.float32)
                found[f"{key}.lora_B.weight"] = np.zeros((shape[0], config.lora_r), dtype=np.float32)
    if not found:
        raise UserError(f"IOT_LORA_TARGETS: {config.base} has no layer named {config.lora_targets}")
    return found


def _chosen(layer: str, targets: list[str] | str) -> bool:
    return targets == ALL_LINEAR or layer.rsplit(".", 1)[-1] in targets


def write_adapter(config: TrainConfig, weights: dict[str, np.ndarray]) -> None:
    """Write the adapter as peft reads it: adapter_model.safetensors and adapter_config.json."""
    from safetensors.numpy import save

    packed = save(weights, {"format": "pt", "base": base_identity(config.base)})
    write_bytes(config.out / ADAPTER, with_sorted_metadata(packed))
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": config.lora_targets,
        "bias": "none",
        "base_model_name_or_path": Path(config.base).name,
        "inference_mode": True,
    }
    write_json(config.out / "adapter_config.json", settings)


if __name__ == "__main__":
    raise SystemExit(main())
