"""Projection of speed by rooflines from data sheets, and which base fits a memory: bounds, never measurements.

A token takes at least the time to read the weights and the cache, and at least the time to compute its products. No
engine is faster; engines that are well kept reach half of it or more.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from iot_pipeline.lake.yaml_reader import read_own_yaml

CARDS = Path(__file__).parent / "cards.yaml"
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.56}  # int4 with a scale a group of 64 (nf4)
CACHED = 2 * 2  # bytes: a key and a value, in bf16
PROMPT, ANSWER = 459, 256  # tokens of a ranked flow by Qwen2.5's tokenizer, and of an explanation
ROWS = 32  # of a batch of explanations
WORKING = 1.5  # GB for activations, CUDA and the allocator


class Card(NamedTuple):
    """Card: bandwidth in GB/s, bf16 in dense TFLOPS, memory in GB, data sheet."""

    name: str
    bandwidth: float
    bf16: float
    memory: float
    source: str


class Base(NamedTuple):
    """Base: billions of parameters, those that every token passes, bytes of the cache of a token."""

    name: str
    parameters: float
    computed: float
    cache: int


@cache
def cards_and_bases() -> tuple[list[Card], list[Base]]:
    """Read cards.yaml: cards, and bases from small to large."""
    found = read_own_yaml(CARDS)
    cards = [Card(name, **facts) for name, facts in found["cards"].items()]
    bases = [
        Base(name, one["parameters"], one["computed"], CACHED * one["layers"] * one["kv_heads"] * one["head_size"])
        for name, one in found["bases"].items()
    ]
    return cards, sorted(bases, key=lambda base: base.parameters)


def label_seconds(card: Card, base: Base, weights: str = "bf16", rows: int = ROWS) -> float:
    """Return the least seconds a flow of label scoring: one pass over the prompts, computed in bf16.

    Args:
        card: Card.
        base: Base.
        weights: Number format of the weights.
        rows: Rows of a batch.
    """
    computing = 2 * base.computed * 1e9 * PROMPT * rows / (card.bf16 * 1e12)
    reading = base.parameters * 1e9 * WEIGHT_BYTES[weights] / (card.bandwidth * 1e9)
    return max(computing, reading) / rows


def explanation_seconds(card: Card, base: Base, weights: str = "bf16", rows: int = ROWS, tokens: int = ANSWER) -> float:
    """Return the least seconds a flow of an explanation: the prompt, then each token with weights and cache read.

    Args:
        card: Card.
        base: Base.
        weights: Number format of the weights.
        rows: Rows of a batch.
        tokens: New tokens.
    """
    read = base.parameters * 1e9 * WEIGHT_BYTES[weights] + rows * base.cache * (PROMPT + tokens / 2)
    computing = 2 * base.parameters * 1e9 * rows / (card.bf16 * 1e12)
    step = max(read / (card.bandwidth * 1e9), computing)
    return label_seconds(card, base, weights, rows) + tokens * step / rows


def memory_gb(base: Base, weights: str) -> float:
    """Return the GB that a base needs to explain with weights of a format: weights, a batch's cache, and WORKING."""
    return base.parameters * WEIGHT_BYTES[weights] + ROWS * base.cache * (PROMPT + ANSWER) / 1e9 + WORKING


def projection() -> list[dict[str, Any]]:
    """Project every card and base that fits it: the least seconds a flow, as bounds and at half of the roofline."""
    cards, bases = cards_and_bases()
    rows = []
    for card in cards:
        for base in bases:
            weights = next((kind for kind in ("bf16", "int8", "int4") if memory_gb(base, kind) <= card.memory), None)
            if weights is None:
                continue
            label, explained = label_seconds(card, base, weights), explanation_seconds(card, base, weights)
            old = explanation_seconds(card, base, weights, rows=1, tokens=512)
            rows.append(
                {
                    "card": card.name,
                    "base": base.name,
                    "weights": weights,
                    "projected": True,
                    "memory_gb": round(memory_gb(base, weights), 1),
                    "label_seconds_bound": round(label, 7),
                    "label_seconds_at_half": round(2 * label, 7),
                    "explanation_seconds_bound": round(explained, 5),
                    "explanation_seconds_at_half": round(2 * explained, 5),
                    "old_way_seconds_bound": round(old, 4),
                    "source": card.source,
                }
            )
    return rows


def guide(memory: float, on_card: bool) -> dict[str, Any]:
    """Advise by memory in GB: the largest base in bf16 (fp32 on a CPU), in int8 and in int4; None if none fits.

    On a CPU half of the memory is counted: the rest is for flows, the system and other programs.
    """
    room = memory if on_card else memory / 2
    _, bases = cards_and_bases()
    kinds = ("bf16", "int8", "int4") if on_card else ("fp32", "int8", "int4")
    fitting = {
        kind: next((base.name for base in reversed(bases) if memory_gb(base, kind) <= room), None) for kind in kinds
    }
    return {"memory_gb": round(memory, 1), "on_card": on_card, "largest": fitting}


def advice(memory: float, on_card: bool) -> str:
    """Return the guide of a memory in GB in one sentence."""
    found = guide(memory, on_card)["largest"]
    told = [f"{base} in {kind}" for kind, base in found.items() if base is not None]
    where = "GPU" if on_card else "CPU, half of it for the student"
    fits = ", ".join(dict.fromkeys(told)) or "no base of Qwen2.5; the tiny one and SmolLM2 do"
    return f"{memory:.0f} GB ({where}) hold at most {fits}"
