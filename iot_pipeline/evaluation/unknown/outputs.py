"""Outputs of a student for distinct flows, from which it is told whether a flow is of a known class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iot_pipeline.evaluation.metrics import normalise_log_probs
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.lake.atomic import replacing


@dataclass(frozen=True)
class Outputs:
    """Outputs of a student for distinct flows: label scores [n, classes], hidden states [n, size], energies [n]."""

    log_probs: Floats
    states: Floats
    energy: Floats

    @staticmethod
    def of(log_probs: np.ndarray, states: np.ndarray, label_rows: np.ndarray) -> "Outputs":
        """Return outputs with their energies.

        Args:
            log_probs: Scores as `Student.score_labels` returns them, not calibrated.
            states: Hidden states of the same flows.
            label_rows: Rows of the head, see inference.states.label_rows.
        """
        states = states.astype(np.float64)
        logits = states @ label_rows[:, :-1].T.astype(np.float64) + label_rows[:, -1]
        top = logits.max(axis=1)
        return Outputs(log_probs.astype(np.float64), states, -top - np.log(np.exp(logits - top[:, None]).sum(axis=1)))

    def __len__(self) -> int:
        return len(self.log_probs)

    def at(self, places: np.ndarray) -> "Outputs":
        """Return the outputs of some flows, by numbers or a mask."""
        return Outputs(self.log_probs[places], self.states[places], self.energy[places])

    def without(self, column: int) -> "Outputs":
        """Return the outputs as if a class had no name: its column dropped, its share taken out of the energy.

        Energies are exact where names are of one token each.
        """
        share = np.minimum(np.exp(self.log_probs[:, column]), 1 - 1e-12)
        rest = normalise_log_probs(np.delete(self.log_probs, column, axis=1))
        return Outputs(rest, self.states, self.energy - np.log1p(-share))


def save_outputs(path: Path, parts: Mapping[str, tuple[Sequence[str], Outputs]]) -> None:
    """Write flow groups and outputs by part into one .npz file."""
    arrays = dict[str, np.ndarray]()
    for part, (groups, found) in parts.items():
        arrays |= {
            f"{part}_groups": np.array(list(groups), dtype=str),
            f"{part}_log_probs": found.log_probs.astype(np.float32),
            f"{part}_states": found.states.astype(np.float32),
            f"{part}_energy": found.energy.astype(np.float32),
        }
    with replacing(path) as half, half.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_outputs(path: Path) -> dict[str, tuple[list[str], Outputs]]:
    """Read what `save_outputs` wrote, without pickles."""
    with np.load(path, allow_pickle=False) as found:
        parts = [name.removesuffix("_groups") for name in found.files if name.endswith("_groups")]
        return {
            part: (
                found[f"{part}_groups"].tolist(),
                Outputs(*(found[f"{part}_{name}"].astype(np.float64) for name in ("log_probs", "states", "energy"))),
            )
            for part in parts
        }
