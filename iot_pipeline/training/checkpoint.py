"""Checkpoints for resuming: safetensors, never pickle."""

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.models.loading import check_tensors_of
from iot_pipeline.training.state import Progress, Training

FILE = "checkpoint.safetensors"


def save(training: Training) -> None:
    """Write a checkpoint. The random state is not stored: every step sets its own seed."""
    import torch
    from safetensors.torch import save_file

    progress = training.progress
    tensors = {
        "losses": torch.tensor(progress.losses, dtype=torch.float64),
        "validation": torch.tensor(progress.validation, dtype=torch.float64).reshape(-1, 2),
        **{f"b.{name}": value for name, value in progress.best.items()},
    }
    for name, parameter in training.parameters.items():
        moments = training.optimiser.state[parameter]
        tensors[f"p.{name}"] = parameter.detach().cpu().contiguous()
        tensors[f"m.{name}"] = moments["exp_avg"].cpu().contiguous()
        tensors[f"v.{name}"] = moments["exp_avg_sq"].cpu().contiguous()
    with replacing(training.config.out / FILE) as temporary:
        save_file(tensors, temporary, metadata={"key": training.key, "halvings": str(progress.halvings)})


def load(training: Training) -> Progress:
    """Load this training's checkpoint into its parameters and optimiser; without one, the training begins.

    Raises UserError if the checkpoint is damaged or lacks a tensor.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path, parameters = training.config.out / FILE, training.parameters
    if not path.is_file():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != training.key:
                return Progress()
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); remove it, and training starts from the beginning") from error
    losses, validation = held.pop("losses", None), held.pop("validation", None)
    if losses is None or validation is None:
        raise UserError(f"{path}: lacks its losses; remove it, and training starts from the beginning")
    kinds = "pmvb" if training.config.keep == "best" and len(validation) else "pmv"
    check_tensors_of(path, held, {f"{kind}.{name}": value for kind in kinds for name, value in parameters.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(held[f"p.{name}"])
            training.optimiser.state[parameter] = {
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
