"""Rows of the head for scores that need the logits of the labels at a hidden state."""

from collections.abc import Sequence

import numpy as np

from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import class_tokens


def label_rows(student: Student, classes: Sequence[str]) -> np.ndarray:
    """Return the head's rows of the names' first tokens, float32 [tokens, hidden size + 1]; the last column is bias.

    A state's logit of a token is its product with the row, plus the bias.
    """
    first = sorted({tokens[0] for tokens in class_tokens(student.tokenizer, classes)[1]})
    head = student.model.get_output_embeddings()
    rows: np.ndarray = head.weight[first].detach().float().cpu().numpy()
    bias = getattr(head, "bias", None)
    column = np.zeros(len(first)) if bias is None else bias[first].detach().float().cpu().numpy()
    return np.column_stack([rows, column]).astype(np.float32)
