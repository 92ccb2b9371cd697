"""How fast a training runs and how much of the machine it uses.

Belongs here: tokens a second, floating-point work, MFU, memory. Does not belong here: making it faster.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

# Dense bf16 peaks in FLOP/s from the makers' data sheets (sparse figures halved).
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}


def flops_per_token(model: Any, length: float, supervised_share: float) -> float:
    """Floating-point operations of one trained token, forward and backward, with the base frozen.

    4 N + 2 A + 6 L d T: N weights of the body, through which values go forward and gradients back (no weight
    gradients: it is frozen); A adapter weights, whose gradients are computed; attention over T = `length` positions
    in L layers of width d, half of it masked. The output projection counts for supervised tokens only.
    """
    config = model.config
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    table = config.vocab_size * config.hidden_size
    tables = table if config.tie_word_embeddings else 2 * table
    body = frozen - tables + trainable + supervised_share * table
    return 4.0 * body + 2.0 * trainable + 6.0 * config.num_hidden_layers * config.hidden_size * length


def mfu(flops_per_second: float, device_name: str, processes: int) -> float | None:
    """Share of the cards' dense bf16 peak that the model's own operations use; None for a card not in the table."""
    peaks = [peak for name, peak in PEAK_BF16.items() if name in device_name]
    return round(flops_per_second / (peaks[0] * processes), 4) if peaks else None


def peak_memory_gib(device: Any) -> float:
    """Most memory in use so far, GiB: of the card where there is one, else of this process."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)
