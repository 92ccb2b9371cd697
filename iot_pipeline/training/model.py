"""Machine and adapted model of a training process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_pipeline.models.loading import (
    ADAPTER,
    attention_kernel,
    base_identity,
    load_adapter,
    load_base,
    with_sorted_metadata,
)
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.distributed import check_sharding, shard_base
from iot_pipeline.training.launch import threads_of
from iot_pipeline.training.lora import lora_config


@dataclass(frozen=True)
class Machine:
    """Machine of one process: its rank among `world`, device and precision."""

    rank: int
    world: int
    device: Any
    bf16: bool
    threads: int
    device_name: str

    def describe(self) -> str:
        """Describe the machine for a log line."""
        return f"{self.device_name}, {'bf16' if self.bf16 else 'fp32'}, {self.threads} thread(s)"

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

        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def sum_gradients(self, parameters: list[Any], total: Any) -> None:
        """Sum gradients and `total` (any shape) over all processes, in one message; does nothing for one process."""
        if self.world == 1:
            return
        import torch
        import torch.distributed as distributed

        for parameter in parameters:
            if parameter.grad is None:  # this process had no row in the step
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([*(p.grad.reshape(-1).float() for p in parameters), total.reshape(-1).float()])
        distributed.all_reduce(flat)
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
        import torch.distributed as distributed

        largest = torch.tensor(number, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def wait_for_all(self) -> None:
        """Wait until every process arrives; does nothing for one process."""
        if self.world > 1:
            import torch.distributed as distributed

            distributed.barrier()

    def close(self) -> None:
        """Leave the process group once every process arrives."""
        self.wait_for_all()
        if self.world > 1:
            import torch.distributed as distributed

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
    bf16 = precision == "on" or (precision == "auto" and gpu and torch.cuda.is_bf16_supported())
    if world > 1:
        import torch.distributed as distributed

        distributed.init_process_group("nccl" if gpu else "gloo")
    name = torch.cuda.get_device_name(device) if gpu else "cpu"
    return Machine(rank, world, device, bf16, threads, name)


def adapted_model(config: TrainConfig, machine: Machine) -> Any:
    """Load the base with a fresh LoRA adapter or that of `warm_start`; only the adapter is trainable."""
    import torch
    from peft import get_peft_model

    check_sharding(config, machine.world)
    dtype = torch.bfloat16 if machine.bf16 else torch.float32
    # A base to be sharded moves to the device layer by layer: whole, it may not fit there.
    base = load_base(config.base, dtype, config.quantisation, machine.device, move=not config.shard)
    if config.quantisation == "nf4":
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=config.gradient_checkpointing)
    torch.manual_seed(config.seed)
    if config.warm_start is not None:
        model: Any = load_adapter(base, config.warm_start, config.base, trainable=True)
    else:
        targets = config.lora_targets
        model = get_peft_model(base, lora_config(config.lora_r, config.lora_alpha, config.lora_dropout, targets))
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.shard:
        shard_base(model, machine.device)
    return model


def save_adapter(model: Any, config: TrainConfig) -> None:
    """Write the adapter in peft's layout (weights and adapter_config.json), with sorted keys and no local path.

    The weights file records the base's identity, without which no adapter is loaded.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    from iot_pipeline.lake.atomic import write_bytes, write_text

    state = {
        name: value.detach().cpu().contiguous()
        for name, value in sorted(get_peft_model_state_dict(model, save_embedding_layers=False).items())
    }
    packed = save(state, {"format": "pt", "base": base_identity(config.base)})
    write_bytes(config.out / ADAPTER, with_sorted_metadata(packed))
    settings = model.peft_config["default"].to_dict()
    settings["inference_mode"] = True
    base = Path(config.base)
    settings["base_model_name_or_path"] = base.name if base.is_dir() else config.base
    for name, value in settings.items():
        if isinstance(value, set):
            settings[name] = sorted(value)
    write_text(config.out / "adapter_config.json", json.dumps(settings, indent=1, sort_keys=True, default=str) + "\n")
