"""Figures that follow from published shapes and tables by arithmetic, whatever a lake holds."""

from typing import Any

import numpy as np

from iot_pipeline.flows.spec import load_spec

# Shape and context of Qwen2.5-1.5B-Instruct in the names of its config.json. They say nothing of the weights: another
# model of this shape passes for it.
QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
}
# Accuracy and F1 on Farm-Flow's two classes of one publication: JISEM, article 11984 (its abstract).
PUBLISHED_ACCURACY, PUBLISHED_F1 = 0.9967, 0.9213
HALF_DIGIT = 0.00005


def qwen2_parameters() -> tuple[int, int]:
    """Count (trainable, all) parameters of Qwen2.5-1.5B, which ties its embeddings, with LoRA of rank 16 on q, k, v, o.

    The shape is the published one.
    """
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    (hidden, intermediate, layers, vocabulary), rank = (int(QWEN[name]) for name in names), 16
    kv = hidden // int(QWEN["num_attention_heads"]) * int(QWEN["num_key_value_heads"])
    projections = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    lora = layers * sum(rank * (into + out) for into, out in projections)
    biases = hidden + 2 * kv  # q, k and v have a bias, o has none
    layer = sum(into * out for into, out in projections) + biases + 3 * hidden * intermediate + 2 * hidden
    return lora, vocabulary * hidden + layers * layer + hidden + lora


def published_binary_table() -> tuple[int, int]:
    """Return rows of Normal and all rows of Farm-Flow's published table, whose other classes are attacks."""
    table = load_spec("farm_flow").facts["class_rows_published"]
    return table["Normal"], sum(table.values())


def nearest_f1(accuracy: float, f1: float, rarer: int, rows: int) -> float:
    """Return the F1 nearest to `f1` that a table of two classes allows at an accuracy, over all ways of averaging.

    The averages are F1 of the rarer class, of the other, their mean, and their mean by rows. The errors may fall on
    either class, and the accuracy may be rounded.

    Args:
        accuracy: Accuracy, to four digits.
        f1: Published F1.
        rarer: Rows of the rarer class.
        rows: All rows.
    """
    found = []
    for exact in (accuracy - HALF_DIGIT, accuracy, accuracy + HALF_DIGIT):
        wrong = (1 - exact) * rows
        missed = np.linspace(0, min(wrong, rarer), 1001)  # errors among rows of the rarer class
        of_rarer = _f1(rarer - missed, wrong)
        of_other = _f1(rows - rarer - (wrong - missed), wrong)
        share = rarer / rows
        found += [of_rarer, of_other, (of_rarer + of_other) / 2, share * of_rarer + (1 - share) * of_other]
    every = np.concatenate(found)
    return float(every[np.abs(every - f1).argmin()])


def _f1(hits: np.ndarray, wrong: float) -> np.ndarray:
    """Return F1 by right answers of one class of two: each error is a miss of one and a false alarm of the other."""
    return 2 * hits / (2 * hits + wrong)


def fitting_shares(accuracy: float, f1: float) -> tuple[float, float]:
    """Return the least and the greatest share of rows of a class whose F1 is `f1` at an accuracy."""
    hits = f1 * (1 - accuracy) / (2 * (1 - f1))
    return hits, hits + 1 - accuracy
