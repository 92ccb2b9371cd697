"""The GPU benchmark of inference at small size on a CPU: every part measures or says why not, within one deadline."""

import importlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline_tests.benchmark_scripts import SCRIPTS, needs_scripts, printed_result

pytestmark = needs_scripts
SMALL = {"shape": "tiny", "flows": 16, "batch": 3, "old_tokens": 16, "answer_tokens": 8}


@pytest.mark.slow
def test_every_part_measures_or_says_why_not(tmp_path: Path) -> None:
    given = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    arguments = ["--out", str(tmp_path), "--seconds", "900", *given]
    found = printed_result("gpu_inference.py", *arguments, seconds=1000)
    assert found == json.loads((tmp_path / "gpu_inference.json").read_text())
    parts = found["parts"]
    assert not [name for name, part in parts.items() if part.get("error")], parts
    old = parts["explanation, fp32, batch 1, 16 tokens (the old way)"]
    assert old["new_tokens_per_second"] > 0 and "label_agreement" not in old
    assert parts["explanation, fp32, batch 1, prompt-lookup speculation"]["equal_answers"] == 1.0
    assert parts["vllm"]["not_measured"].startswith("vllm ")
    scored = {row["name"]: row for row in parts["labels, options"]["variants"] if row["run"]}
    assert "label only, + prefix reuse" in scored  # its prompts begin alike
    assert all(row["label_agreement"] == 1.0 for row in scored.values())
    assert {row["card"] for row in found["projection"]} >= {"H100", "H200"}


def test_what_has_no_time_is_named_and_nothing_is_measured_without_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    running, shares = importlib.import_module("gpu_inference"), importlib.import_module("time_shares")
    parts = running.parts_of(Namespace(**SMALL), tmp_path / "base")
    told: list[dict[str, Any]] = []
    late = shares.carry_out(parts, 1.0, told.append)
    assert len(late) == len(parts) == len(told) and all(part["skipped"].startswith("needs ") for part in late.values())
    assert parts[1].measure(1.0) == {"skipped": "the base was not made"}
    texts = running.flow_texts(50)
    assert len(set(texts)) == 50 and 459 <= min(map(len, texts)) < max(map(len, texts))
