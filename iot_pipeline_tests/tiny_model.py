"""A tiny world for the tests of sft, training and inference: flows of three features, a base of a few steps."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.tiny_base.build import BaseRecipe, build_tiny_base

# Qwen2.5's own tokenizer, where a developer has it; it is too large to lie in the repository.
REAL = Path(os.environ.get("QWEN_TOKENIZER", os.devnull))
NO_REAL = "QWEN_TOKENIZER names no folder with the tokenizer of Qwen2.5"
FEATURES = ["orig_pkts", "resp_pkts", "flow_iat.avg"]
CLASSES = ["Normal", "Port_Scanning", "TCP_Flood"]
RECIPE = BaseRecipe(
    vocabulary=700, hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48, steps=3, rows=6, group_sizes=(2, 3)
)


def flow_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct-ish flow texts in the `values` serialisation."""
    numbers = np.random.default_rng(seed).normal(0, 1, (count, len(FEATURES)))
    return ["\n".join(f"{name}: {value:.3f}" for name, value in zip(FEATURES, row, strict=True)) for row in numbers]


def label_of(text: str) -> str:
    """A class that follows from the first feature."""
    first = float(text.split("\n")[0].split(": ")[1])
    return CLASSES[0] if first < -0.5 else CLASSES[1] if first < 0.5 else CLASSES[2]


def answer_of(text: str) -> str:
    """An answer in the contract's form."""
    value = text.split("\n")[0].split(": ")[1]
    return f"CLASSIFICATION: {label_of(text)}\nANALYSIS: orig_pkts of {value}.\nKEY_INDICATORS: orig_pkts {value}"


def write_answer(text: str, name: str, random: np.random.Generator) -> str:
    """Write an answer of class `name` that cites one or two of the flow's values."""
    cited = [line.replace(": ", " ") for line in text.split("\n")[: int(random.integers(1, 3))]]
    return f"CLASSIFICATION: {name}\nANALYSIS: {' and '.join(cited)}.\nKEY_INDICATORS: {'; '.join(cited)}"


def chats(texts: list[str]) -> list[dict[str, Any]]:
    """Rows of messages."""
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer_of(text)}]}
        for text in texts
    ]


def make_base(folder: Path) -> Path:
    """Put the base of a few steps, built once a process, in `folder`."""
    shutil.copytree(Path(_built().name) / "base", folder)
    return folder


@cache
def _built() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    build_tiny_base(flow_texts(60), CLASSES, FEATURES, Path(folder.name) / "base", write_answer, 1, RECIPE)
    return folder
