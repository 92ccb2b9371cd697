"""Model of a training: a base with its LoRA adapter."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_bytes, write_text
from iot_pipeline.models.loading import ADAPTER, base_identity, load_adapter, load_base, with_sorted_metadata
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.distributed import Machine, shard_base


def adapted_model(config: TrainConfig, machine: Machine) -> Any:
    """Load the base with a fresh LoRA adapter or that of `warm_start`; only the adapter is trainable.

    Raises UserError if the base cannot be sharded as the settings ask.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    if config.shard and machine.world == 1:
        raise UserError("IOT_SHARD=true needs more than one training process: set IOT_PROCESSES")
    if config.shard and config.quantisation != "none":
        raise UserError("IOT_SHARD=true and IOT_QUANTISATION=nf4 do not go together: choose one")
    dtype = torch.bfloat16 if machine.bf16 else torch.float32
    # A base to be sharded moves to the device layer by layer: whole, it may not fit there.
    base, _unused = load_base(config.base, dtype, config.quantisation, machine.device, move=not config.shard)
    if config.quantisation == "nf4":
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=config.gradient_checkpointing)
    torch.manual_seed(config.seed)
    if config.warm_start is not None:
        model: Any = load_adapter(base, config.warm_start, config.base, trainable=True)
    else:
        lora = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=config.lora_targets,
            bias="none",
            task_type=TaskType.CAUSAL_LM,
        )
        model = get_peft_model(base, lora)
    if config.lora_dropout == 0 and not config.shard:
        merge_forwards(model)
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.shard:
        shard_base(model, machine.device)
    return model


def rows_stay_apart(model: Any, machine: Machine) -> bool:
    """Return True if a row reads nothing of the row before it where two stand end to end.

    Found by trying, since an architecture does not say it: OPT takes positions from the attention mask, not from their
    restart at 0, and layers that carry a state (Mamba) go on from row to row.
    """
    import torch

    first, second = [1, 2, 3, 4], [5, 6, 7, 8, 9]
    both = torch.tensor([first + second, first[::-1] + second], device=machine.device)
    positions = torch.tensor([[*range(len(first)), *range(len(second))]], device=machine.device)
    training = model.training
    model.eval()  # dropout would draw random numbers
    with torch.no_grad(), machine.autocast():
        after = [
            model(input_ids=ids[None], position_ids=positions, use_cache=False).logits[0, len(first) :].float()
            for ids in both
        ]
    model.train(training)
    return bool((after[0] - after[1]).abs().max() <= 1e-3 * after[0].abs().max())


def merge_forwards(model: Any) -> None:
    """Let small layers of an adapted model compute (W + s B A) x in place of W x + s B (A x).

    Gradients are the same. Where r (in + out) is not far below in x out, one larger product is faster than three small
    ones: on the tiny base a step's forward and backward takes 0.39 s in place of 0.49 s at rank 16, and of 0.60 s at
    rank 64. A large layer would pay for the gradient of W, which needs in x out FLOPs a token.
    """
    import torch
    from peft.tuners.lora.layer import Linear

    def forward(self: Any, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        change = self.lora_B["default"].weight @ self.lora_A["default"].weight
        weight = self.base_layer.weight + self.scaling["default"] * change
        return torch.nn.functional.linear(x, weight, self.base_layer.bias)

    for layer in model.modules():
        # GPT-2's layers hold W transposed, and those of a quantised base do not hold it as numbers.
        if isinstance(layer, Linear) and type(layer.base_layer) is torch.nn.Linear:
            high, wide = layer.weight.shape
            if wide * high <= 6 * layer.r["default"] * (wide + high):
                layer.forward = forward.__get__(layer)  # type: ignore[method-assign]


def save_adapter(model: Any, config: TrainConfig) -> None:
    """Write the adapter in peft's layout (weights and adapter_config.json), with sorted keys and no local path.

    The weights file records the base's identity, without which no adapter is loaded.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

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


def largest_change(adapter: Path, start: Path | None) -> float:
    """Return the largest absolute change of the adapter's B matrices: from 0, or from the adapter `start`."""
    from safetensors.numpy import load_file

    now, before = load_file(adapter / ADAPTER), load_file(start / ADAPTER) if start else {}
    changes = [np.abs(value - before.get(key, 0)).max() for key, value in now.items() if "lora_B" in key]
    return float(max(changes, default=0.0))
