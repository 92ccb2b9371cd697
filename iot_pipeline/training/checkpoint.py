"""Checkpoints for resuming, and the choice of the best: safetensors, never pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.models.loading import check_tensors_of

FILE = "checkpoint.safetensors"


@dataclass
class Progress:
    """Progress of a training, stored in its checkpoints.

    losses: loss of each step. validation: (step, validation loss) of each measurement. best: the trained parameters at
    the lowest validation loss, on the CPU; empty where the last are kept. halvings: times that the forward pass was
    halved because memory ran out.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    halvings: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def best_step(self) -> int:
        """Step of the lowest validation loss, the earliest of equals; the last step without a measurement."""
        return min(self.validation, key=lambda seen: (seen[1], seen[0]))[0] if self.validation else self.step

    def stalled(self, patience: int | None) -> bool:
        """Return True if the last `patience` measurements brought no lower loss; never for None."""
        return patience is not None and sum(step > self.best_step for step, _ in self.validation) >= patience


def save(folder: Path, key: str, progress: Progress, parameters: dict[str, Any], optimiser: Any) -> None:
    """Write a checkpoint. The random state is not stored: every step sets its own seed.

    Args:
        folder: Folder of the checkpoint.
        key: Identity of configuration and data.
        progress: Progress so far.
        parameters: Trained parameters by name.
        optimiser: AdamW with their moments.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {
        "losses": torch.tensor(progress.losses, dtype=torch.float64),
        "validation": torch.tensor(progress.validation, dtype=torch.float64).reshape(-1, 2),
        **{f"b.{name}": value for name, value in progress.best.items()},
    }
    for name, parameter in parameters.items():
        moments = optimiser.state[parameter]
        tensors[f"p.{name}"] = parameter.detach().cpu().contiguous()
        tensors[f"m.{name}"] = moments["exp_avg"].cpu().contiguous()
        tensors[f"v.{name}"] = moments["exp_avg_sq"].cpu().contiguous()
    with replacing(folder / FILE) as temporary:
        save_file(tensors, temporary, metadata={"key": key, "halvings": str(progress.halvings)})


def load(folder: Path, key: str, parameters: dict[str, Any], optimiser: Any, best: bool) -> Progress:
    """Load the checkpoint of `key` into parameters and optimiser; without one, the training begins.

    Args:
        folder: Folder of the checkpoint.
        key: Identity of configuration and data.
        parameters: Trained parameters by name.
        optimiser: AdamW that gets their moments.
        best: True if the parameters at the lowest validation loss are kept.

    Raises:
        UserError: The checkpoint is damaged or lacks a tensor.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return Progress()
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); remove it, and training starts from the beginning") from error
    losses, validation = held.pop("losses", None), held.pop("validation", None)
    if losses is None or validation is None:
        raise UserError(f"{path}: lacks its losses; remove it, and training starts from the beginning")
    kinds = "pmvb" if best and len(validation) else "pmv"
    check_tensors_of(path, held, {f"{kind}.{name}": value for kind in kinds for name, value in parameters.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(held[f"p.{name}"])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(len(losses)), device=parameter.device),
                "exp_avg": held[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": held[f"v.{name}"].to(parameter.device),
            }
    return Progress(
        losses=losses.tolist(),
        validation=[(int(step), float(loss)) for step, loss in validation.tolist()],
        best={name: held[f"b.{name}"] for name in parameters} if "b" in kinds else {},
        halvings=int(facts["halvings"]),
    )
