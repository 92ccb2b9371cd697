"""Checkpoints for resuming: parameters and optimiser moments as safetensors, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.models.loading import check_tensors_of

FILE = "checkpoint.safetensors"


def save(
    folder: Path,
    step: int,
    parameters: dict[str, Any],
    optimiser: Any,
    losses: list[float],
    validation: list[tuple[int, float]],
    key: str,
    halvings: int = 0,
) -> None:
    """Write a checkpoint after `step` optimiser steps.

    The random state is not stored: every step sets its own seed.

    Args:
        folder: Folder of the checkpoint.
        step: Steps done.
        parameters: Trained parameters by name.
        optimiser: AdamW with their moments.
        losses: Loss of each step.
        validation: (step, validation loss) so far.
        key: Identity of configuration and data.
        halvings: Times that the forward pass was halved because memory ran out.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "validation": torch.tensor(validation, dtype=torch.float64).reshape(-1, 2),
    }
    for name, parameter in parameters.items():
        moments = optimiser.state[parameter]
        tensors[f"p.{name}"] = parameter.detach().cpu().contiguous()
        tensors[f"m.{name}"] = moments["exp_avg"].cpu().contiguous()
        tensors[f"v.{name}"] = moments["exp_avg_sq"].cpu().contiguous()
    with replacing(folder / FILE) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "key": key, "halvings": str(halvings)})


def load(
    folder: Path, parameters: dict[str, Any], optimiser: Any, key: str
) -> tuple[int, list[float], list[tuple[int, float]], int] | None:
    """Load a checkpoint into parameters and optimiser.

    Returns:
        (steps done, their losses, validation losses by step, halvings); None if there is no checkpoint of `key`.

    Raises:
        UserError: The checkpoint is damaged or lacks a tensor.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); remove it, and training starts from the beginning") from error
    wanted = {f"{kind}.{name}": parameter for kind in "pmv" for name, parameter in parameters.items()}
    losses, validation = held.pop("losses", None), held.pop("validation", None)
    check_tensors_of(path, held, wanted)
    if losses is None or validation is None:
        raise UserError(f"{path}: lacks its losses; remove it, and training starts from the beginning")
    step = int(facts["step"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(held[f"p.{name}"])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": held[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": held[f"v.{name}"].to(parameter.device),
            }
    seen = [(int(at), float(loss)) for at, loss in validation.tolist()]
    return step, losses.tolist(), seen, int(facts["halvings"])
