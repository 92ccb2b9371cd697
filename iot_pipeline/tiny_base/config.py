"""Shape and pre-training recipe of the tiny base."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BaseRecipe:
    """Shape of the tiny Qwen2 and its pre-training: `steps` optimiser steps of `rows` tasks each."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    steps: int = 450
    rows: int = 28
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.01
    flow_weight: float = 0.3
    group_sizes: tuple[int, ...] = (6, 12, 12, 24, 24, 48, 48, 96)
    pool: int = 30_000

    def plain(self) -> dict[str, Any]:
        """Return JSON values for model cards and content hashes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
