"""Quantities of the hidden states at the label position, beside the label scores."""

from collections.abc import Sequence

import numpy as np

from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import class_tokens


def label_energies(student: Student, states: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the energy of hidden states [n, size]: minus logsumexp of the logits of the names' first tokens, [n].

    A high energy says that no class fits (Liu et al., NeurIPS 2020).
    """
    import torch

    first = sorted({tokens[0] for tokens in class_tokens(student.tokenizer, classes)[1]})
    head = student.model.get_output_embeddings()
    with torch.inference_mode():
        logits = torch.as_tensor(states, dtype=torch.float32) @ head.weight[first].float().cpu().T
        if getattr(head, "bias", None) is not None:
            logits += head.bias[first].float().cpu()
        energies: np.ndarray = -logits.double().logsumexp(dim=1).numpy()
    return energies
