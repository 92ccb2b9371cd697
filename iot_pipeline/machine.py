"""The machine that an artefact is made on: what its timings and the last digits of its floating point depend on."""

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMPUTING = ("autogluon.tabular", "lightgbm", "numpy", "pyarrow", "scikit-learn", "scipy", "torch", "transformers")
DRAWING = ("matplotlib",)
CPU_INFO = Path("/proc/cpuinfo")
SHAPE_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")  # PyTorch's and oneDNN's own
SHAPES = "64"


@cache
def this_machine() -> dict[str, Any]:
    """Return system, Python, cores, processor and the versions of the packages that compute or draw.

    Two machines alike in all of these compute the same digits. Two kinds of processor do not: PyTorch adds in another
    order on each, and a training takes another path from the first rounding on.
    """
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "packages": {name: found for name in (*COMPUTING, *DRAWING) if (found := _version(name))},
    }


def cpu_info() -> dict[str, str]:
    """Read what Linux tells of the first processor; {} elsewhere."""
    try:
        first = CPU_INFO.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


@cache
def processor() -> str:
    """Name the processor: maker and model where Linux tells them."""
    told = cpu_info()
    # Virtual machines often say "Intel(R) Xeon(R) Processor" for all of a maker's: family and model tell them apart.
    numbers = [f"{name} {told[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in told]
    named = told.get("model name") or platform.processor() or platform.machine()
    return f"{named} ({', '.join(numbers)})" if numbers else named


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def bound_shape_caches() -> None:
    """Bound the memory of a process that scores batches of ever new shapes; call it before torch is loaded.

    PyTorch and oneDNN each keep what they compiled for the last 1,024 shapes of a matrix product. Scoring 60 batches of
    200 to 400 flows, a process grew from 967 to 1,079 MiB, and stays at 943 with 64 shapes each (AMD, oneDNN).
    What the user has set stays.
    """
    for name in SHAPE_CACHES:
        os.environ.setdefault(name, SHAPES)
