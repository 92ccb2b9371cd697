"""Space in which the flows of each class scatter alike in every direction: Mahalanobis distances are plain ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iot_pipeline.evaluation.unknown.features import BLOCK
from iot_pipeline.evaluation.views import Floats


@dataclass(frozen=True)
class Whitened:
    """Whitened vectors of reference flows [n, size], and the means of their classes [classes, size].

    `matrix` whitens the covariance within the classes, all classes together.
    """

    matrix: Floats
    flows: Floats
    means: Floats
    white: Floats

    @staticmethod
    def of(flows: Floats, labels: np.ndarray, shrinkage: float) -> Whitened:
        """Fit the space.

        Args:
            flows: Vectors of the reference flows [n, size].
            labels: Their classes [n].
            shrinkage: Share of the covariance that is replaced by its mean variance in every direction.
        """
        names, code = np.unique(labels.astype(str), return_inverse=True)
        means = np.array([flows[code == number].mean(axis=0) for number in range(len(names))])
        inner = flows - means[code]
        covariance, size = inner.T @ inner / max(1, len(inner) - len(names)), flows.shape[1]
        even = (np.trace(covariance) / max(1, size) + 1e-9) * np.eye(size)
        values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * even)
        matrix = vectors / np.sqrt(np.maximum(values, 1e-12))
        return Whitened(matrix, flows, means @ matrix, flows @ matrix)

    def to_mean(self, vectors: Floats) -> Floats:
        """Return the distance of each vector to the nearest class mean [n]."""
        from scipy.spatial.distance import cdist

        distance: Floats = cdist(vectors @ self.matrix, self.means).min(axis=1)
        return distance

    def to_flow(self, vectors: Floats, others: bool = False) -> Floats:
        """Return the distance of each vector to the nearest reference flow [n]; `others`: the vectors are these."""
        from scipy.spatial.distance import cdist

        white, found = vectors @ self.matrix, np.empty(len(vectors))
        for start in range(0, len(white), BLOCK):
            distance = cdist(white[start : start + BLOCK], self.white)
            if others:
                distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
            found[start : start + BLOCK] = distance.min(axis=1)
        return found
