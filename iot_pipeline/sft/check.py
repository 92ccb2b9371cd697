"""Check of a tensor file: its guarantees are recomputed from the file itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.models.tokenizer import (
    LabelFinder,
    chat_form,
    class_tokens,
    control_tokens,
    pad_id,
    template_controls,
)
from iot_pipeline.sft.tensors import IGNORED, Tensors, TensorStats, load_tensors, statistics


class TensorCheck(NamedTuple):
    """Check result: the problems found, and statistics as counted in the file."""

    problems: list[str]
    stats: TensorStats


def check_tensors(path: Path, tokenizer: Any, max_length: int, rows: int | None = None) -> TensorCheck:
    """Check tensors as written: no row cut, label and one end of turn supervised, no prompt token in the loss.

    No row may hold a control token that the chat template did not write: flow or answer text never becomes one.

    Args:
        path: Tensor file; UserError if it cannot be read.
        tokenizer: Tokeniser that the rows were encoded with.
        max_length: Most tokens of a row.
        rows: Expected number of rows, if known.
    """
    tensors = load_tensors(path)
    end, mark, _added, _dropped = chat_form(tokenizer)
    problems: list[str] = []
    spans = np.diff(tensors.offsets)
    if tensors.offsets[0] != 0 or tensors.offsets[-1] != len(tensors.input_ids) or (spans <= 0).any():
        problems.append("offsets do not cover the tokens")
    if len(tensors.labels) != len(tensors.input_ids):
        problems.append("labels and input_ids differ in length")
    if problems:
        return TensorCheck(problems, TensorStats(len(tensors), len(tensors.input_ids), 0, 0, 0, 0, 0))
    stats = statistics(tensors, LabelFinder(tokenizer), end)
    if rows is not None and stats.rows != rows:
        problems.append(f"{stats.rows} rows where {rows} were expected")
    if stats.rows_cut:
        problems.append(f"{stats.rows_cut} rows do not end with the end of turn")
    if stats.rows_label_and_end_supervised != stats.rows:
        missing = stats.rows - stats.rows_label_and_end_supervised
        problems.append(f"{missing} rows do not supervise their label and exactly one end of turn")
    if stats.longest > max_length:
        problems.append(f"the longest row has {stats.longest} tokens, more than {max_length}")
    if prompt_rows := _rows_with_prompt_in_loss(tensors, mark):
        problems.append(f"{prompt_rows} rows have prompt tokens in the loss")
    expected = template_controls(tokenizer)
    controls = np.isin(tensors.input_ids, list(control_tokens(tokenizer).values()))
    if forged := int((np.add.reduceat(controls.astype(np.int64), tensors.offsets[:-1]) != expected).sum()):
        problems.append(f"{forged} rows have other control tokens than the {expected} that the chat template writes")
    if pad_id(tokenizer) == end:
        problems.append("padding and end of turn are one token")
    if int(tensors.input_ids.min()) < 0 or int(tensors.input_ids.max()) >= len(tokenizer):
        problems.append("token ids outside the vocabulary")
    return TensorCheck(problems, stats)


def check_class_tensors(path: Path, tokenizer: Any, max_length: int, classes: Sequence[str]) -> list[str]:
    """Check tensors of class rows as written; return the problems found.

    Each row ends with `CLASSIFICATION:` and one class name, whose tokens alone are supervised, each by shares that sum
    to 1 and have its own token among them. The draws of all rows sum to 1.

    Args:
        path: Tensor file; UserError if it cannot be read.
        tokenizer: Tokeniser that the rows were encoded with.
        max_length: Most tokens of a row.
        classes: Class names.
    """
    tensors = load_tensors(path)
    if tensors.tokens is None or tensors.targets is None or tensors.draw is None:
        return ["the file has no tokens, targets or draws"]
    problems: list[str] = []
    answers = int(tensors.supervised[-1])
    if tensors.tokens.shape != tensors.targets.shape or len(tensors.targets) != answers:
        return [f"{len(tensors.targets)} distributions for {answers} supervised tokens"]
    line, names = class_tokens(tokenizer, classes)
    endings = [[*line, *name] for name in names]
    wrong = sum(not _ends_with_a_class(*tensors.row(place), endings, len(line)) for place in range(len(tensors)))
    if wrong:
        problems.append(f"{wrong} rows do not end with a class, or supervise other tokens than its name")
    supervised = tensors.input_ids[tensors.labels != IGNORED]
    held = ((tensors.tokens == supervised[:, None]) & (tensors.targets > 0)).any(axis=1)
    if lacking := int((~held).sum()):
        problems.append(f"{lacking} distributions give no share to the token of their own row")
    if (tensors.targets < 0).any() or not np.allclose(tensors.targets.sum(axis=1), 1, atol=1e-5):
        problems.append("distributions do not sum to 1")
    if len(tensors.draw) != len(tensors) or (tensors.draw < 0).any() or not np.isclose(tensors.draw.sum(), 1):
        problems.append("the draws of the rows do not sum to 1")
    if (longest := int(tensors.lengths.max())) > max_length:
        problems.append(f"the longest row has {longest} tokens, more than {max_length}")
    return problems


def _ends_with_a_class(ids: np.ndarray, labels: np.ndarray, endings: Sequence[Sequence[int]], line: int) -> bool:
    """True if a row ends with one of `endings`, of which all but the first `line` tokens are supervised."""
    chosen = np.flatnonzero(labels != IGNORED)
    for ending in endings:
        start = len(ids) - len(ending)
        if start > 0 and ids[start:].tolist() == list(ending) and chosen.tolist() == [*range(start + line, len(ids))]:
            return bool((labels[chosen] == ids[chosen]).all())
    return False


def _rows_with_prompt_in_loss(tensors: Tensors, mark: int) -> int:
    """Count rows with a supervised position before the prompt's last control token `mark`, or a gap in the answer."""
    bad = 0
    for ids, labels in map(tensors.row, range(len(tensors))):
        chosen = np.flatnonzero(labels != IGNORED)
        turns = np.flatnonzero(ids == mark)
        contiguous = len(chosen) > 0 and chosen[-1] - chosen[0] + 1 == len(chosen)
        bad += not (contiguous and len(turns) > 0 and chosen[0] > turns[-1])
    return bad
