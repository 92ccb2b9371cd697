"""Training tensors by the prior work's recipe, reproduced exactly to measure its harm. For audits only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.models.tokenizer import END_OF_TURN, LabelFinder, chat_texts, encode
from iot_pipeline.sft.tensors import IGNORED, Tensors

PAPER_LENGTH = 512


def build_paper_tensors(
    messages: Sequence[dict[str, Any]], tokenizer: Any, out: Path, kept_share: float | None = None
) -> dict[str, Any]:
    """Write the tensor file `out` as the old scripts would, in the layout of `sft.tensors.build_tensors`.

    The whole conversation is tokenised and cut to PAPER_LENGTH. Every token is in the loss except the end of turn,
    which is also the padding token and is masked with it.

    Args:
        messages: Chat rows (`{"messages": [user, assistant]}`).
        tokenizer: Tokeniser of the base.
        out: Tensor file to write.
        kept_share: Keep this share of each answer instead: the effect of the cut on answers of the prior work's length,
            applied to shorter ones.

    Returns:
        Statistics of the rows, and the shares that claims cite; token means are over the rows, before the cut.
        answer_kept_share: mean share of the answer that remains after the cut. rows_with_label: rows in which the first
        token of the class after `CLASSIFICATION:` remains and is in the loss. rows_with_end: those with the end of the
        answer in the loss. prompt_loss_tokens: tokens in the loss before the answer.
    """
    end = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    finder = LabelFinder(tokenizer)
    rows, lengths, prompt_sizes, kept = [], [], [], []
    prompts = cut = labelled = ended = 0
    for row in messages:
        head, tail = chat_texts(tokenizer, *(turn["content"] for turn in row["messages"]))
        text, prompt_ids = encode(tokenizer, [head + tail, head])
        whole, prompt = np.array(text, dtype=np.int32), len(prompt_ids)
        stop = PAPER_LENGTH if kept_share is None else prompt + int(kept_share * (len(whole) - prompt))
        ids = whole[:stop]
        cut += len(ids) < len(whole)
        kept.append(max(0, len(ids) - prompt) / (len(whole) - prompt))
        labels = np.where(ids == end, IGNORED, ids)
        rows.append((ids, labels))
        lengths.append(len(whole))
        prompt_sizes.append(prompt)
        prompts += int((labels[:prompt] != IGNORED).sum())
        labelled += finder.span(ids[prompt:].tolist()) is not None
        ended += bool((labels[prompt:] == end).any())
    tensors = Tensors.of(rows)
    tensors.save(out)
    loss_tokens = int((tensors.labels != IGNORED).sum())
    return {
        "rows": len(rows),
        "limit": PAPER_LENGTH if kept_share is None else None,
        "answer_kept_share": round(float(np.mean(kept)), 4),
        "prompt_tokens_mean": round(float(np.mean(prompt_sizes)), 1),
        "row_tokens_mean": round(float(np.mean(lengths)), 1),
        "rows_cut": cut,
        "rows_with_label": labelled,
        "rows_with_end": ended,
        "loss_tokens": loss_tokens,
        "prompt_loss_tokens": prompts,
        "rows_cut_share": cut / len(rows),
        "label_survives_share": labelled / len(rows),
        "end_supervised_share": ended / len(rows),
        "prompt_share_of_loss": prompts / loss_tokens,
    }
