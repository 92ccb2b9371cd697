"""Products by oneDNN are those of PyTorch, in every shape and type, and errors stay PyTorch's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iot_pipeline import machine
from iot_pipeline.models import cpu_products

COMPARE = """
import torch
from iot_pipeline.models import cpu_products

def linear(x, weight, bias):
    x, weight, bias = (t.clone().requires_grad_() for t in (x, weight, bias))
    y = torch.nn.functional.linear(x, weight, bias)
    y.square().sum().backward()
    return [y.detach(), x.grad, weight.grad, bias.grad]

torch.manual_seed(1)
floats = [(torch.randn(*shape), torch.randn(out, shape[-1]), torch.randn(out))
          for shape, out in (((5, 3), 4), ((2, 7, 64), 96), ((1, 128), 384), ((0, 3), 2), ((3, 0), 2), ((300, 33), 1))]
kinds = [torch.float64, torch.bfloat16, torch.int64]
def results():
    found = [linear(*parts) for parts in floats]
    for kind in kinds:
        left, right = torch.ones(3, 5).to(kind), torch.ones(5, 2).to(kind)
        found.append([left @ right, left[:, ::2] @ right[::2]])
    found.append([torch.addmm(torch.ones(2), torch.ones(3, 2), torch.ones(2, 2), beta=0.5, alpha=2)])
    found.append([torch.addmm(torch.ones(3, 1), torch.ones(3, 2), torch.ones(2, 2))])
    return found

before = results()
cpu_products.has_amd_avx512 = lambda: True
assert cpu_products.use_onednn() and cpu_products.use_onednn()
for old, new in zip(before, results(), strict=True):
    for one, other in zip(old, new, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
for wrong in (lambda: torch.ones(2, 3) @ torch.ones(2, 3), lambda: torch.mm(torch.ones(2), torch.ones(2, 2)),
              lambda: torch.ones(2, 3) @ torch.ones(3, 2, dtype=torch.float64)):
    try:
        wrong()
    except RuntimeError:
        continue
    raise SystemExit("no error")
print("done")
"""


def test_products_and_gradients_are_those_of_pytorch() -> None:
    """In a process of its own: kernels stay until its end."""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", COMPARE], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr


@pytest.mark.parametrize(("told", "found"), [("vendor_id: AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_the_processor_decides(told: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert cpu_products.has_amd_avx512() is found
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not cpu_products.has_amd_avx512()
