"""Products of float32 matrices on the CPU."""

import warnings
from functools import lru_cache
from typing import Any

from iot_pipeline.machine import cpu_info

_kept: list[Any] = []  # kernels end with the library that registered them


@lru_cache(maxsize=1)
def use_onednn() -> bool:
    """Let oneDNN multiply float32 matrices in this process where MKL leaves AVX-512 unused; return whether it does.

    Both ship with PyTorch, and both compute in float32. On an AMD EPYC a training step of the tiny base takes 0.36 s of
    one core by oneDNN and 0.52 s by MKL 2024.2 (benchmarks/cpu_products.py). The processor decides and no measurement,
    so that every process on a machine computes the same digits.
    """
    import torch

    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and has_amd_avx512()):
        return False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")  # that MKL's are replaced
        kernels = torch.library.Library("aten", "IMPL")
        kernels.impl("mm", _mm, "CPU")
        kernels.impl("addmm", _addmm, "CPU")
    _kept.append(kernels)
    return True


def has_amd_avx512() -> bool:
    """Return whether this is an AMD processor whose AVX-512 PyTorch uses."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512" and cpu_info().get("vendor_id") == "AuthenticAMD"


def _mm(left: Any, right: Any) -> Any:
    import torch

    if _takes(left, right):
        return torch.ops.mkldnn._linear_pointwise.default(left, right.t(), None, "none", [], "")
    return torch.mm(left, right, out=left.new_empty(0))


def _addmm(bias: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    import torch

    if beta == 1 and alpha == 1 and bias.dim() == 1 and len(bias) == right.shape[1] and _takes(left, right):
        return torch.ops.mkldnn._linear_pointwise.default(left, right.t(), bias, "none", [], "")
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(0))


def _takes(left: Any, right: Any) -> bool:
    """Return whether two matrices are such that oneDNN multiplies them; PyTorch takes the others, and refuses some."""
    import torch

    floats = left.dtype == right.dtype == torch.float32
    matrices = left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
    return floats and matrices and left.numel() > 0 and right.numel() > 0
