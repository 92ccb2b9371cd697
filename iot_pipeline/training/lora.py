"""LoRA on a causal language model: making it, counting it.

Belongs here: adapters. Does not belong here: the loop that trains them (payload.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of base plus adapter, and those that are trained."""

    trainable: int
    total: int


def lora_config(r: int, alpha: int, dropout: float, targets: Sequence[str] | str) -> Any:
    """peft's LoraConfig for a causal model; `targets` are module names or "all-linear"."""
    from peft import LoraConfig, TaskType

    modules = targets if isinstance(targets, str) else list(targets)
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=modules,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def trainable_parameters(
    config: Any, r: int = 16, targets: Sequence[str] | str = PAPER_TARGETS, alpha: int = 32
) -> ParameterCount:
    """Count for a transformers `config` without allocating a weight (meta device)."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), lora_config(r, alpha, 0.0, targets))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ParameterCount(trainable, sum(p.numel() for p in model.parameters()))
