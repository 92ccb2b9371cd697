"""Label scoring by any engine that tells the probabilities of the next token."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from iot_pipeline.inference.scoring import Labels, Prefix, name_scores, onward


def label_scores(labels: Labels, after: Callable[[Prefix], Mapping[int, float] | Any]) -> np.ndarray:
    """Score the classes behind one prompt: normalised log-probabilities, float64 [classes].

    `after`: log-probabilities over the vocabulary, by token id, of what follows the prompt and a prefix of a name.
    """
    logs = {}
    for prefix, node in labels.tree.items():
        found = after(prefix)
        logs[prefix] = np.array([[found[token] for token in onward(node)]], dtype=np.float64)
    scores = name_scores(labels.tree, logs, labels.classes)[0]
    return np.asarray(scores - np.logaddexp.reduce(scores))
