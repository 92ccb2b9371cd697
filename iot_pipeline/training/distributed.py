"""Sharing out the frozen layers of a larger base over the processes (FSDP), the adapter whole in each."""

from __future__ import annotations

from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.lora import count_parameters


def check_sharding(config: TrainConfig, world: int) -> None:
    """UserError for what cannot be shared out."""
    if not config.shard:
        return
    if world == 1:
        raise UserError("IOT_SHARD=true needs more than one training process: set IOT_PROCESSES")
    if config.quantisation != "none":
        raise UserError("IOT_SHARD=true and IOT_QUANTISATION=nf4 do not go together: choose one")


def shard_base(model: Any, device: Any) -> None:
    """Leave each process 1/world of every frozen weight of the decoder's layers; gathered layer by layer in use.

    Adapter, embeddings and norm outside the layers stay whole in every process: the adapter, because then its
    gradients, optimiser and checkpoints are those of unsharded training; the embeddings, because they may be tied.
    Every process has read the whole base into the machine's memory before (not the card's): with n processes that
    memory must hold it n times.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    inner = model.get_base_model()
    body = getattr(inner, inner.base_model_prefix)
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    adapter = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in body.layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapter)
    in_layers = {parameter for layer in body.layers for parameter in layer.parameters()}
    rest = set(body.parameters()) - in_layers
    fully_shard(body, mesh=mesh, ignored_params=adapter | rest)
    for parameter in [*adapter, *(p for p in model.parameters() if p not in in_layers)]:
        parameter.data = parameter.data.to(device)


def held_parameters(model: Any) -> int:
    """Parameters whose values this process holds between steps."""
    held = (parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in model.parameters())
    return count_parameters(held)
