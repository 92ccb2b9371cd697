"""LoRA on a causal language model: configuration and parameter counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class ParameterCount:
    """Parameter counts of base plus adapter: those that are trained, and all."""

    trainable: int
    total: int


def count_parameters(parameters: Iterable[Any]) -> int:
    """Count the weights of `parameters`; nf4 stores two in a byte, and each counts as one."""
    states = ((parameter, getattr(parameter, "quant_state", None)) for parameter in parameters)
    return sum(math.prod(state.shape) if state is not None else parameter.numel() for parameter, state in states)


def lora_config(r: int, alpha: int, dropout: float, targets: Sequence[str] | str) -> Any:
    """Build peft's LoraConfig for a causal language model; `targets` are module names or "all-linear"."""
    from peft import LoraConfig, TaskType

    modules = targets if isinstance(targets, str) else list(targets)
    return LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, bias="none", task_type=TaskType.CAUSAL_LM
    )


def largest_change(adapter: Path, start: Path | None) -> float:
    """Return the largest absolute change of the adapter's B matrices: from 0, or from the adapter `start`."""
    import numpy as np
    from safetensors.numpy import load_file

    name = "adapter_model.safetensors"
    now, before = load_file(adapter / name), load_file(start / name) if start else {}
    changes = [np.abs(value - before.get(key, 0)).max() for key, value in now.items() if "lora_B" in key]
    return float(max(changes, default=0.0))


def trainable_parameters(
    config: Any, r: int = 16, targets: Sequence[str] | str = PAPER_TARGETS, alpha: int = 32
) -> ParameterCount:
    """Count the parameters for a transformers `config` without allocating a weight (meta device)."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        model = get_peft_model(base, lora_config(r, alpha, 0.0, targets))
    trainable = count_parameters(p for p in model.parameters() if p.requires_grad)
    return ParameterCount(trainable, count_parameters(model.parameters()))
