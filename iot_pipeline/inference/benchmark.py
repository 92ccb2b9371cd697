"""Optimisation benchmark of inference on this machine."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student

# Variants of the prior work's benchmark that are not measured here: name -> (reason without a GPU, reason with one).
NOT_MEASURED = {
    "int8 weights": (
        "int8 by bitsandbytes is measured in a later version; published figures: slower than bf16 at this size",
    )
    * 2,
    "FlashAttention-2": ("FlashAttention-2 needs a CUDA GPU", "FlashAttention-2 is not part of the installation"),
    "vLLM engine": ("vLLM needs a CUDA GPU", "vLLM is not part of the installation"),
}


def benchmark_variants(
    base: str | Path,
    adapter: Path,
    prompts: Sequence[str],
    classes: Sequence[str],
    single: int = 40,
    explained: int = 8,
    max_new_tokens: int = 160,
    threads: int | None = None,
    log: Callable[[str], None] | None = None,
    card: str | None = None,
) -> list[dict[str, Any]]:
    """Benchmark the inference variants; return one dictionary for each measurement.

    Keys: name, run (bool), reason (why not run), device, flows, seconds_p50, seconds_p95 (of one call),
    flows_per_second, new_tokens_per_second, ended_share, label_agreement (with fp32, adapter unmerged, batched).

    Args:
        base: Folder or hub id of the base.
        adapter: Folder of the adapter.
        prompts: Flow texts; UserError if there are none.
        classes: Class names to score.
        single: Prompts that are timed one by one.
        explained: Prompts that are explained.
        max_new_tokens: Token limit of an explanation.
        threads: CPU threads.
        log: Called with progress messages.
        card: GPU to measure on (`cuda:1`); None: no GPU.
    """
    import torch

    if not prompts:
        raise UserError("inference benchmark: no prompts to measure on")
    say = log or (lambda _message: None)
    measured: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for name, device, dtype, merge in (
        ("fp32, adapter", "cpu", "fp32", False),
        ("fp32, merged", "cpu", "fp32", True),
        ("bf16, merged", "cpu", "bf16", True),
        ("GPU bf16, adapter", card, "bf16", False),
        ("GPU bf16, merged", card, "bf16", True),
    ):
        if device is None:
            measured.append({"name": name, "run": False, "reason": "no GPU on this machine"})
            continue
        student = Student.load(base, adapter, device, threads, dtype, merge)
        student.score_labels(prompts[:2], classes)  # warm-up
        many, scores = _timed(student.score_labels, prompts, classes)
        picked = scores.argmax(1)
        if reference is None:
            reference = picked
        calls = [_timed(student.score_labels, [text], classes) for text in prompts[:single]]
        alone = np.array([scores.argmax() for _, scores in calls])
        device_name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
        common = {"run": True, "reason": "", "device": device_name}
        measured += [
            {
                **common,
                "name": f"label only, {name}, batch 1",
                **_one_by_one([seconds for seconds, _ in calls], digits=2),
                "label_agreement": round(float((alone == reference[: len(alone)]).mean()), 6),
            },
            {
                **common,
                "name": f"label only, {name}, batched",
                "flows": len(prompts),
                "flows_per_second": round(len(prompts) / many, 2),
                "label_agreement": round(float((picked == reference).mean()), 6),
            },
        ]
        milliseconds = 1000 * np.median([seconds for seconds, _ in calls])
        say(f"{name}: {len(prompts) / many:,.0f} flows/s batched, {milliseconds:.1f} ms alone")
        if merge:
            explanations = _explanations(student, name, list(prompts[:explained]), max_new_tokens, say)
            measured += [common | one for one in explanations]
        student.close()
    reasons = {name: pair[card is not None] for name, pair in NOT_MEASURED.items()}
    return measured + [{"name": name, "run": False, "reason": reason} for name, reason in reasons.items()]


def _explanations(
    student: Student, name: str, prompts: list[str], max_new_tokens: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time explanations one by one and in a batch of 32."""
    alone = [_timed(student.explain, [text], max_new_tokens)[0] for text in prompts]
    together, found = _timed(student.explain, (prompts * 32)[:32], max_new_tokens)
    tokens = sum(len(ids) for ids in student.tokenizer([text for text, _ended in found])["input_ids"])
    say(f"{name}: an explanation takes {np.median(alone):.2f} s alone, {together / 32:.3f} s in a batch of 32")
    return [
        {"name": f"explanation, {name}, batch 1", **_one_by_one(alone, digits=3)},
        {
            "name": f"explanation, {name}, batch 32",
            "flows": 32,
            "flows_per_second": round(32 / together, 3),
            "new_tokens_per_second": round(tokens / together, 1),
            "ended_share": round(sum(ended for _text, ended in found) / 32, 4),
        },
    ]


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Call a function; return the seconds that it took and its value."""
    started = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - started, value


def _one_by_one(seconds: list[float], digits: int) -> dict[str, Any]:
    """Summarise the seconds of single calls."""
    return {
        "flows": len(seconds),
        "seconds_p50": round(float(np.percentile(seconds, 50)), 5),
        "seconds_p95": round(float(np.percentile(seconds, 95)), 5),
        "flows_per_second": round(len(seconds) / sum(seconds), digits),
    }
