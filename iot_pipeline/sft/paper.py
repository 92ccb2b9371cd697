"""Training tensors by the prior work's recipe, reproduced exactly to measure its harm. For audits only."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.models.tokenizer import LINE, LabelFinder, chat_texts, encode, end_of_turn
from iot_pipeline.sft.tensors import IGNORED, Tensors

PAPER_LENGTH = 512


def build_paper_tensors(
    messages: Sequence[dict[str, Any]],
    tokenizer: Any,
    out: Path,
    classes: Sequence[str],
    kept_share: float | None = None,
) -> dict[str, Any]:
    """Write the tensor file `out` as the old scripts would, in the layout of `sft.tensors.build_tensors`.

    The whole conversation is tokenised and cut to PAPER_LENGTH. Every token is in the loss except the end of turn,
    which is also the padding token and is masked with it.

    Args:
        messages: Chat rows (`{"messages": [user, assistant]}`).
        tokenizer: Tokeniser of the base.
        out: Tensor file to write.
        classes: Classes of the data set.
        kept_share: Keep this share of each answer instead: the effect of the cut on answers of the prior work's length,
            applied to shorter ones. 1 cuts nothing.

    Returns:
        Statistics of the rows, and the shares that claims cite; token means are over the rows, before the cut.
        answer_kept_share: mean share of the answer that remains after the cut. rows_with_label: rows in which the first
        token of the class after `CLASSIFICATION:` remains and is in the loss. rows_naming_class: those whose class is
        named anywhere in the rest of the answer. rows_telling_class: those from which `named_class` reads it.
        rows_with_end: those with the end of the answer in the loss. prompt_loss_tokens: tokens in the loss before the
        answer. longest_answer: most tokens of an answer after the cut.
    """
    end = end_of_turn(tokenizer)
    finder = LabelFinder(tokenizer)
    rows, lengths, prompt_sizes, kept = [], [], [], []
    prompts = cut = labelled = ended = naming = telling = 0
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
        left = tokenizer.decode(ids[prompt:].tolist(), skip_special_tokens=True)
        label = named_class(row["messages"][1]["content"], classes)
        naming += label in named_classes(left, tuple(classes))
        telling += named_class(left, classes) == label
    tensors = Tensors.of(rows)
    tensors.save(out)
    loss_tokens = int((tensors.labels != IGNORED).sum())
    return {
        "rows": len(rows),
        "limit": PAPER_LENGTH if kept_share is None else None,
        "answer_kept_share": round(float(np.mean(kept)), 4),
        "prompt_tokens_mean": round(float(np.mean(prompt_sizes)), 1),
        "row_tokens_mean": round(float(np.mean(lengths)), 1),
        "longest_answer": max(len(ids) - prompt for (ids, _), prompt in zip(rows, prompt_sizes, strict=True)),
        "rows_cut": cut,
        "rows_with_label": labelled,
        "rows_naming_class": naming,
        "rows_telling_class": telling,
        "rows_with_end": ended,
        "loss_tokens": loss_tokens,
        "prompt_loss_tokens": prompts,
        "rows_cut_share": cut / len(rows),
        "label_survives_share": labelled / len(rows),
        "class_named_share": naming / len(rows),
        "class_told_share": telling / len(rows),
        "end_supervised_share": ended / len(rows),
        "prompt_share_of_loss": prompts / loss_tokens,
    }


def named_class(answer: str, classes: Sequence[str]) -> str | None:
    """Read the class that an answer gives: that of its CLASSIFICATION line, else the first that it names; or None."""
    line = LINE.search(answer)
    told = answer[line.end() :].split("\n", 1)[0] if line else answer
    return next(iter(named_classes(told, tuple(classes))), None)


def named_classes(text: str, classes: tuple[str, ...]) -> list[str]:
    """Return the classes that a text names, in the order of their first mention."""
    found = {name: match for name in classes if (match := _pattern(name).search(text))}
    # Of two names that begin at one place, the longer is meant: DOS_SYN_Hping, not DOS.
    return sorted(found, key=lambda name: (found[name].start(), -len(found[name][0])))


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of a class name as prose writes it: `TCP flood` for TCP_Flood.

    A single word must be written as the class is: Normal is a class, normal an adjective.
    """
    words = re.split(r"[\s_-]+", name)
    written = r"[\s_-]+".join(map(re.escape, words))
    return re.compile(rf"(?<!\w){written}(?!\w)", re.IGNORECASE if len(words) > 1 else 0)
