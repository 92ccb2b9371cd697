"""Sharding of a larger base's frozen layers over the processes (FSDP); the adapter is whole in each."""

from __future__ import annotations

from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.lora import count_parameters


def check_sharding(config: TrainConfig, world: int) -> None:
    """Check the sharding settings; UserError if the base cannot be sharded."""
    if not config.shard:
        return
    if world == 1:
        raise UserError("IOT_SHARD=true needs more than one training process: set IOT_PROCESSES")
    if config.quantisation != "none":
        raise UserError("IOT_SHARD=true and IOT_QUANTISATION=nf4 do not go together: choose one")


def shard_base(model: Any, device: Any) -> None:
    """Shard the frozen weights of the decoder layers: 1/world in each process, gathered layer by layer in use.

    Adapter, embeddings and norm outside the layers stay whole in every process: the adapter, so that its gradients,
    optimiser and checkpoints equal those of unsharded training; the embeddings, because they may be tied. Every process
    has read the whole base into main memory (not GPU memory) before: with n processes it must fit n times.
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
    """Count the parameters whose values this process holds between steps."""
    held = (parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in model.parameters())
    return count_parameters(held)
