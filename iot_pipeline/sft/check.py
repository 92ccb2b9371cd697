"""Check of a tensor file: its guarantees are recomputed from the file itself."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.models.tokenizer import LabelFinder, chat_form, control_tokens, pad_id, template_controls
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


def _rows_with_prompt_in_loss(tensors: Tensors, mark: int) -> int:
    """Count rows with a supervised position before the prompt's last control token `mark`, or a gap in the answer."""
    bad = 0
    for ids, labels in map(tensors.row, range(len(tensors))):
        chosen = np.flatnonzero(labels != IGNORED)
        turns = np.flatnonzero(ids == mark)
        contiguous = len(chosen) > 0 and chosen[-1] - chosen[0] + 1 == len(chosen)
        bad += not (contiguous and len(turns) > 0 and chosen[0] > turns[-1])
    return bad
