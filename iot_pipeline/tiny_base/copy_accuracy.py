"""Copy accuracy: the share of a flow's values that a model copies exactly into an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from iot_pipeline.flows.serialise import NUMBER
from iot_pipeline.models.tokenizer import encode, pad_id, prompt_text
from iot_pipeline.training.data import padded

# Values of KEY_INDICATORS: the first item follows the heading, each later one a `;`.
_CITED = re.compile(rf"(?:KEY_INDICATORS:|;) [^\s;]+ ({NUMBER})(?= \(|;|$)", re.MULTILINE)


def cited_values(answer: str) -> list[tuple[int, int]]:
    """Return the character spans (start, end) of the KEY_INDICATORS values in an answer."""
    start = max(answer.find("KEY_INDICATORS:"), 0)
    return [match.span(1) for match in _CITED.finditer(answer, start)]


def measure_copying(
    model: Any, tokenizer: Any, flows: Sequence[str], answers: Sequence[str], batch: int = 32
) -> tuple[int, int]:
    """Count copied values in true `answers` to flow texts, and all values cited there.

    A value is copied if each of its tokens is the model's likeliest. The model sees the true answer up to
    each token, so one slip does not spoil the rest. `batch`: rows of one pass.
    """
    import torch

    ids, places = [], []
    for flow, answer in zip(flows, answers, strict=True):
        (before,) = encode(tokenizer, [prompt_text(tokenizer, flow)])
        read = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        ids.append(np.array([*before, *read["input_ids"]]))
        offsets = list(enumerate(read["offset_mapping"], start=len(before)))
        places.append(
            [
                [token for token, (left, right) in offsets if left < end and right > start]
                for start, end in cited_values(answer)
            ]
        )
    values = copied = 0
    with torch.inference_mode():
        for first in range(0, len(ids), batch):
            rows = torch.from_numpy(padded(ids[first : first + batch], pad_id(tokenizer)))
            guessed = model(input_ids=rows, use_cache=False).logits.argmax(dim=-1)
            right = (guessed[:, :-1] == rows[:, 1:]).tolist()
            for row, spans in zip(right, places[first : first + batch], strict=True):
                values += len(spans)
                copied += sum(all(row[token - 1] for token in span) for span in spans)
    return copied, values
