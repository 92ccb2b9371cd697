"""Speed and hardware use of a training."""

import contextlib
import math
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

# Dense bf16 peaks in FLOP/s from vendors' data sheets (sparse figures halved); the first whole-word match counts.
PEAK_BF16 = {
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


class Clock:
    """Clock of a training: seconds of its parts, and of forward, backward and optimiser together.

    A GPU computes asynchronously, so its own events are read, once a step (`collect`): waiting for it within a step
    would slow it down.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.seconds = {"train": 0.0, "validation": 0.0, "checkpoint": 0.0}
        self.computed = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as a part of `seconds`; it must end with the GPU idle."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Time the block as computing."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            yield
            self.computed += time.perf_counter() - started
            return
        import torch

        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        yield
        pair[1].record()
        self._events.append(pair)

    def collect(self) -> None:
        """Add the times of the GPU's events; waits for the last of them."""
        for begin, end in self._events:
            end.synchronize()
            self.computed += begin.elapsed_time(end) / 1000
        self._events.clear()


def count_parameters(parameters: Iterable[Any]) -> int:
    """Count the weights of `parameters`; nf4 stores two in a byte, and each counts as one."""
    states = ((parameter, getattr(parameter, "quant_state", None)) for parameter in parameters)
    return sum(math.prod(state.shape) if state is not None else parameter.numel() for parameter, state in states)


def flops_per_token(model: Any, length: float, supervised_share: float) -> float:
    """Return the FLOPs of one trained token, forward and backward, with the base frozen.

    4 N + 2 A + 6 L d T: N weights of the body, for values forward and gradients backward (no weight gradients, because
    it is frozen); A adapter weights, for their gradients; attention over T = `length` positions in L layers of width d,
    half of it masked. The output projection counts for supervised tokens only.
    """
    config = model.config
    trainable = count_parameters(p for p in model.parameters() if p.requires_grad)
    frozen = count_parameters(p for p in model.parameters() if not p.requires_grad)
    table = config.vocab_size * config.hidden_size
    tables = table if config.tie_word_embeddings else 2 * table
    body = frozen - tables + trainable + supervised_share * table
    return 4.0 * body + 2.0 * trainable + 6.0 * config.num_hidden_layers * config.hidden_size * length


def mfu(flops_per_second: float, device_name: str) -> float | None:
    """Return the MFU: share of one GPU's dense bf16 peak that the model's operations use; None for an unknown GPU."""
    peaks = [peak for name, peak in PEAK_BF16.items() if re.search(rf"\b{name}\b", device_name)]
    return round(flops_per_second / peaks[0], 4) if peaks else None


def peak_memory_gib(device: Any) -> float:
    """Return the peak memory so far in GiB: of the GPU if there is one, else of this process."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)
