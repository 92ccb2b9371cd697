"""Measuring of inference: seconds of the clock and of the processor, contenders in turn, peak memory."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Timed(NamedTuple):
    """Value of a call; seconds of the clock and of the processor (all threads) that it took."""

    value: Any
    seconds: float
    cpu: float


def timed(call: Callable[[], Any], device: str = "cpu") -> Timed:
    """Time a call; on a GPU, to the end of what it started there."""
    started, busy = time.perf_counter(), time.process_time()
    value = call()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return Timed(value, time.perf_counter() - started, time.process_time() - busy)


def alternated(calls: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, Timed]:
    """Time calls in turn, `rounds` times; return the least seconds of each.

    What else the machine does meets all of them alike; the least is what disturbs least.
    """
    found: dict[str, Timed] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            one = timed(call, device)
            best = found.get(name, one)
            found[name] = Timed(one.value, min(best.seconds, one.seconds), min(best.cpu, one.cpu))
    return found


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, float]]:
    """Measure the peak of memory inside the block, in MiB: of the GPU, or of this process under Linux.

    The dictionary is filled at the end; it stays empty where the system does not tell.
    """
    found: dict[str, float] = {}
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found["memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
        return
    with suppress(OSError):
        RESET.write_text("5")  # resets the peak of resident memory
        found["memory_mib"] = 0.0
    yield found
    if found:
        peak = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        found["memory_mib"] = round(int(peak[1]) / 1024, 1) if peak else 0.0


def one_by_one(calls: Sequence[Timed]) -> Row:
    """Summarise single calls: p50, p95, throughput, processor seconds a flow."""
    seconds = [one.seconds for one in calls]
    return {
        "flows": len(calls),
        "seconds_p50": round(float(np.percentile(seconds, 50)), 6),
        "seconds_p95": round(float(np.percentile(seconds, 95)), 6),
        "flows_per_second": round(len(calls) / sum(seconds), 3),
        "cpu_seconds_a_flow": round(sum(one.cpu for one in calls) / len(calls), 7),
    }


def together(flows: int, one: Timed) -> Row:
    """Summarise one call for many flows: throughput, processor seconds a flow."""
    return {
        "flows": flows,
        "flows_per_second": round(flows / one.seconds, 3),
        "cpu_seconds_a_flow": round(one.cpu / flows, 7),
    }


def not_run(name: str, group: str, reason: str) -> Row:
    """Return the row of a variant that is not measured, with the reason."""
    return {"name": name, "group": group, "run": False, "reason": reason}
