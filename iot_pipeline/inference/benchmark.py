"""Optimisation benchmark of inference on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.student import Student


def ladder(
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

    Keys: rung (the variant), run (bool), reason (why not run), device, flows, seconds_p50, seconds_p95 (of one call),
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
    rungs: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    plans = [("fp32, adapter", "cpu", "fp32", False), ("fp32, merged", "cpu", "fp32", True)]
    plans += [("bf16, merged", "cpu", "bf16", True)]
    plans += [("GPU bf16, adapter", card or "", "bf16", False), ("GPU bf16, merged", card or "", "bf16", True)]
    for name, device, dtype, merge in plans:
        if not device:
            rungs.append({"rung": name, "run": False, "reason": "no GPU on this machine"})
            continue
        student = Student.load(base, adapter, device, threads, dtype, merge)
        student.score_labels(prompts[:2], classes)  # warm-up
        many, scores = _timed(lambda s=student: s.score_labels(prompts, classes))  # type: ignore[misc]
        picked = scores.argmax(1)
        if reference is None:
            reference = picked
        agreement = round(float((picked == reference).mean()), 6)
        device_name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
        common = {"run": True, "reason": "", "device": device_name}
        calls, alone = [], []
        for text in list(prompts)[:single]:
            seconds, one = _timed(lambda s=student, t=text: s.score_labels([t], classes))  # type: ignore[misc]
            calls.append(seconds)
            alone.append(int(one.argmax()))
        rungs.append(
            {
                **common,
                "rung": f"label only, {name}, batch 1",
                "flows": len(calls),
                **_percentiles(calls),
                "flows_per_second": round(len(calls) / sum(calls), 2),
                "label_agreement": round(float((np.array(alone) == reference[: len(alone)]).mean()), 6),
            }
        )
        rungs.append(
            {
                **common,
                "rung": f"label only, {name}, batched",
                "flows": len(prompts),
                "flows_per_second": round(len(prompts) / many, 2),
                "label_agreement": agreement,
            }
        )
        say(f"{name}: {len(prompts) / many:,.0f} flows/s batched, {1000 * np.median(calls):.1f} ms alone")
        if merge:
            rungs += _explanations(student, name, common, list(prompts)[:explained], max_new_tokens, say)
        student.close()
    rungs += _not_here(card is not None)
    return rungs


def _explanations(
    student: Student,
    name: str,
    common: dict[str, Any],
    prompts: list[str],
    max_new_tokens: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    alone: list[float] = []
    for text in prompts:
        seconds, _answer = _timed(lambda t=text: student.explain([t], max_new_tokens))  # type: ignore[misc]
        alone.append(seconds)
    batch = (prompts * 32)[:32]
    together, found = _timed(lambda: student.explain_ended(batch, max_new_tokens))
    tokens = sum(len(ids) for ids in student.tokenizer([text for text, _ended in found])["input_ids"])
    say(f"{name}: an explanation takes {np.median(alone):.2f} s alone, {together / 32:.3f} s in a batch of 32")
    return [
        {
            **common,
            "rung": f"explanation, {name}, batch 1",
            "flows": len(alone),
            **_percentiles(alone),
            "flows_per_second": round(len(alone) / sum(alone), 3),
        },
        {
            **common,
            "rung": f"explanation, {name}, batch 32",
            "flows": 32,
            "flows_per_second": round(32 / together, 3),
            "new_tokens_per_second": round(tokens / together, 1),
            "ended_share": round(sum(ended for _text, ended in found) / 32, 4),
        },
    ]


def _not_here(gpu: bool) -> list[dict[str, Any]]:
    """Return the variants of the prior work's benchmark that this version does not measure, with reasons."""
    int8 = "int8 by bitsandbytes is measured in a later version; published figures: slower than bf16 at this size"
    flash = "FlashAttention-2 needs a CUDA GPU" if not gpu else "FlashAttention-2 is not part of the installation"
    engine = "vLLM needs a CUDA GPU" if not gpu else "vLLM is not part of the installation"
    return [
        {"rung": "int8 weights", "run": False, "reason": int8},
        {"rung": "FlashAttention-2", "run": False, "reason": flash},
        {"rung": "vLLM engine", "run": False, "reason": engine},
    ]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {
        "seconds_p50": round(float(np.percentile(seconds, 50)), 5),
        "seconds_p95": round(float(np.percentile(seconds, 95)), 5),
    }
