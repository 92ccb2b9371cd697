"""Processes of a training: the machine of each, sums over all, and a base sharded over them (FSDP)."""

import os
import platform
import subprocess
from dataclasses import dataclass
from typing import Any

from iot_pipeline.models.cpu_products import use_onednn
from iot_pipeline.models.loading import attention_kernel
from iot_pipeline.training.launch import threads_of


@dataclass(frozen=True)
class Machine:
    """Machine of one process: its rank among `world`, device and precision."""

    rank: int
    world: int
    device: Any
    bf16: bool
    threads: int
    device_name: str

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        import peft
        import torch
        import transformers

        return {
            "device": self.device_name,
            "cores": os.cpu_count(),
            "threads": self.threads,
            "processes": self.world,
            "bf16": self.bf16,
            "attention": self.attention,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "onednn": self.device.type == "cpu" and use_onednn(),
            "tf32": torch.get_float32_matmul_precision() != "highest",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "cuda": torch.version.cuda if self.device.type == "cuda" else None,
            "driver": driver_version() if self.device.type == "cuda" else None,
            "platform": platform.machine(),
        }

    @property
    def attention(self) -> str:
        """Attention kernel that a base is loaded with here."""
        import torch

        return attention_kernel(self.device, torch.bfloat16 if self.bf16 else torch.float32)

    @property
    def flash(self) -> bool:
        """True if attention reads packed rows by their lengths; a block mask costs more than 5 % of padding does."""
        return self.attention != "sdpa"

    def autocast(self) -> Any:
        """Return the autocast context of a forward pass."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def sum_gradients(self, parameters: list[Any], total: Any) -> None:
        """Sum gradients and `total` (any shape) over all processes, in one message; does nothing for one process."""
        if self.world == 1:
            return
        import torch

        for parameter in parameters:
            if parameter.grad is None:  # this process had no row in the step
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([*(p.grad.reshape(-1).float() for p in parameters), total.reshape(-1).float()])
        torch.distributed.all_reduce(flat)
        place = 0
        for parameter in parameters:
            parameter.grad.copy_(flat[place : place + parameter.numel()].view_as(parameter))
            place += parameter.numel()
        total.copy_(flat[place:].view_as(total))

    def most(self, number: int) -> int:
        """Return the largest `number` over all processes."""
        if self.world == 1:
            return number
        import torch

        largest = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)


def leave_processes() -> None:
    """Leave the process group, if there is one, once every process arrives; there is no coming back to it."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def keep_freed_memory() -> None:
    """Keep freed memory in this process (glibc only): returning it after every operation costs a fifth."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library: slower, nothing else
    for option, value in ((-1, 2**31 - 1), (-2, 64 << 20), (-4, 0)):  # trim threshold, top pad, no mmap
        mallopt(option, value)


def driver_version() -> str | None:
    """Return the GPU driver's version, None if nvidia-smi does not answer."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def find_machine(threads: int | None = None, precision: str = "auto", cards: bool = True) -> Machine:
    """Find device and processes as the launcher set them, and join the process group.

    `precision`: "auto" (bf16 where a GPU supports it), "on" or "off". `cards` False: no GPU even if there is one.
    """
    import torch

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    keep_freed_memory()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = cards and torch.cuda.is_available()
    threads = threads_of(world, threads)
    torch.set_num_threads(threads)
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    own = gpu and torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 emulates bf16, slower than fp32
    bf16 = precision == "on" or (precision == "auto" and own)
    if world > 1 and not torch.distributed.is_initialized():  # a second training uses the group of the first
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    name = torch.cuda.get_device_name(device) if gpu else "cpu"
    return Machine(rank, world, device, bf16, threads, name)


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
