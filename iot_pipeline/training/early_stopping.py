"""Validation during training: loss on the common set, best checkpoint, early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.lake.atomic import replacing
from iot_pipeline.training.batches import Batches
from iot_pipeline.training.loss import causal_loss

FILE = "best.safetensors"


def loss_of_share(model: Any, batches: Batches, machine: Any) -> Any:
    """Sum the token loss (scalar tensor) over this process's share of the rows of `batches`."""
    import torch

    total = torch.zeros((), device=machine.device)
    model.eval()
    with torch.no_grad(), machine.autocast():
        for batch in batches.of(np.arange(len(batches.tensors))):
            total += causal_loss(model, batch.ids, batch.labels, batch.weights, batch.positions)
    model.train()
    return total


def mean_loss(total: Any, batches: Batches, machine: Any) -> float:
    """Return the mean loss of the supervised tokens of `batches`: the sums `total` of all processes, added up."""
    machine.sum_gradients([], total)
    return round(float(total) / float(batches.supervised.sum()), 6)


class Selection:
    """Validation losses by step, the best adapter, and the early-stopping rule.

    `best.safetensors` stores the best adapter with its step and `key`, so that a resumed run can restore it.
    """

    def __init__(self, folder: Path, parameters: dict[str, Any], patience: int | None, key: str, writes: bool) -> None:
        self.folder, self.parameters, self.patience, self.key, self.writes = folder, parameters, patience, key, writes
        self.history: list[tuple[int, float]] = []

    @property
    def best(self) -> tuple[int, float] | None:
        """Lowest loss so far as (step, loss); the earliest of equals."""
        return min(self.history, key=lambda seen: (seen[1], seen[0])) if self.history else None

    def record(self, step: int, loss: float) -> None:
        """Record the loss after `step`; save the adapter if the loss is the lowest."""
        from safetensors.torch import save_file

        self.history = [seen for seen in self.history if seen[0] < step] + [(step, loss)]
        if self.best == (step, loss) and self.writes:
            tensors = {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}
            with replacing(self.folder / FILE) as temporary:
                save_file(tensors, temporary, metadata={"step": str(step), "key": self.key})

    def stops(self) -> bool:
        """Return True if the last `patience` measurements brought no lower loss."""
        if self.patience is None or self.best is None:
            return False
        return sum(step > self.best[0] for step, _ in self.history) >= self.patience

    def restore(self) -> int:
        """Restore the best adapter into the model; return its step."""
        import torch
        from safetensors import safe_open

        with safe_open(self.folder / FILE, framework="pt") as file, torch.no_grad():
            facts = file.metadata() or {}
            if facts.get("key") != self.key or self.best is None or int(facts["step"]) != self.best[0]:
                raise RuntimeError(f"{FILE} is not of step {self.best} of this run")
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(name))
        return int(facts["step"])
