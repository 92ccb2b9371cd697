"""Flows of no known class: a p-value by conformal prediction, and `unknown` below a stated rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.unknown.choice import Choice
from iot_pipeline.evaluation.unknown.features import FeatureSpace, Reason
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.unknown.scores import SCORES, Reference
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.feature import Format
from iot_pipeline.lake.atomic import read_json, replacing, write_json, write_table

ALARMS = (0.01, 0.05)  # shares of flows of known classes that are called unknown
JSON, ARRAYS, FLOWS = "unknown.json", "unknown.safetensors", "unknown.parquet"
LABEL = "__label"  # column of FLOWS; no feature has such a name


@dataclass(frozen=True)
class Strangeness:
    """Judgement of one flow: is it of a class that the student learnt?

    `p_value`: the share of flows of known classes that are at least as strange. `unknown`: p_value is at most the rate
    of false alarms asked for. `nearest`: the student's likeliest class. `reasons`: what sets an unknown flow apart,
    most telling first; [] for any other.
    """

    p_value: float
    unknown: bool
    nearest: str
    reasons: list[Reason]


@dataclass(frozen=True)
class Unknown:
    """Detector of flows of no known class, fitted on the calibration side.

    `calibration`: scores of its distinct flows, sorted.
    """

    score_name: str
    classes: list[str]
    reference: Reference
    label_rows: np.ndarray
    calibration: Floats
    choice: Choice

    @staticmethod
    def fit(
        choice: Choice,
        classes: Sequence[str],
        reference: Reference,
        label_rows: np.ndarray,
        outputs: Outputs,
        flows: Any,
    ) -> Unknown:
        """Fit the detector.

        Args:
            choice: The score, chosen on the validation side.
            classes: Classes of the columns of the label scores.
            reference: The train flows.
            label_rows: Rows of the head (inference.states.label_rows).
            outputs: The student's outputs for the distinct flows of the calibration side.
            flows: Their features.
        """
        scores = reference.scores(outputs, flows, [choice.score])[choice.score]
        return Unknown(choice.score, list(classes), reference, label_rows, np.sort(scores), choice)

    @property
    def needs_states(self) -> bool:
        """True if the score reads hidden states; else `score` takes None for them."""
        return not {*self.score_name.split("+")} <= {"probability", "features", "whitened"}

    @property
    def least(self) -> float:
        """Smallest possible p-value: no lower rate of false alarms can be held."""
        return 1 / (len(self.calibration) + 1)

    def p_values(self, outputs: Outputs, flows: Any) -> Floats:
        """Return the p-value of each flow [n]: the share of calibration flows at least as strange, itself counted."""
        scores = self.reference.scores(outputs, flows, [self.score_name])[self.score_name]
        return conformal_p(self.calibration, scores)

    def score(
        self, log_probs: np.ndarray, states: np.ndarray | None, flows: Any, alarm: float = ALARMS[0]
    ) -> list[Strangeness]:
        """Judge distinct flows.

        Args:
            log_probs: What `Student.score_labels` returns, not calibrated [n, classes].
            states: The hidden states of the same pass [n, size] (`Student.score_with_states`); None if not needed.
            flows: Table with the features of the flows [n].
            alarm: Share of flows of known classes that may be called unknown.

        Raises:
            UserError: States are needed and missing.
        """
        if states is None:
            if self.needs_states:
                raise UserError(f"the score {self.score_name} needs the student's hidden states")
            states = np.zeros((len(log_probs), self.label_rows.shape[1] - 1))
        values = self.p_values(Outputs.of(log_probs, states, self.label_rows), flows)
        called, space = np.flatnonzero(values <= alarm), self.reference.space
        strange = space.printed({n: np.asarray(flows[n])[called] for n in (*space.numbers, *space.categories)})
        reasons = dict(zip(called.tolist(), space.reasons(strange, space.nearest(strange)[1]), strict=True))
        return [
            Strangeness(float(p), bool(p <= alarm), self.classes[best], reasons.get(place, []))
            for place, (p, best) in enumerate(zip(values, log_probs.argmax(axis=1), strict=True))
        ]

    def too_few(self, alarm: float = ALARMS[0]) -> str:
        """Say that the calibration side has too few flows to call any flow unknown at a rate of false alarms, or ""."""
        if alarm >= self.least:
            return ""
        return (
            f"no flow is called unknown at {alarm:.2%} false alarms: that needs {ceil(1 / alarm - 1e-9) - 1:,} "
            f"calibration flows, there are {len(self.calibration):,}"
        )

    def save(self, folder: Path, measured: dict[str, Any]) -> None:
        """Write the detector into the folder of an evaluation; `measured`: what it does on the test side."""
        from safetensors.numpy import save_file

        arrays: dict[str, np.ndarray] = {
            "states": self.reference.outputs.states.astype(np.float32),
            "log_probs": self.reference.outputs.log_probs.astype(np.float32),
            "energy": self.reference.outputs.energy.astype(np.float32),
            "label_rows": self.label_rows.astype(np.float32),
            "calibration": self.calibration,
        }
        with replacing(folder / ARRAYS) as half:
            save_file(arrays, half)
        table = self.reference.space.table.assign(**{LABEL: self.reference.labels})
        write_table(folder / FLOWS, pa.Table.from_pandas(table, preserve_index=False))
        write_json(folder / JSON, self.describe() | measured)

    def describe(self) -> dict[str, Any]:
        """Return score, evidence of its choice and thresholds as JSON values."""
        return {
            "score": self.score_name,
            "scores": SCORES,
            "chosen_by": "part by features: mean AUROC of validation flows, each class in turn out of the reference",
            "evidence": self.choice.evidence,
            "classes": self.classes,
            "format": self.reference.space.form.model_dump(exclude_none=True),
            "reference_flows": len(self.reference.labels),
            "calibration_flows": len(self.calibration),
            "thresholds": {str(alarm): self._threshold(alarm) for alarm in ALARMS},
        }

    def _threshold(self, alarm: float) -> float | None:
        """Return the score above which a flow is unknown; None if the calibration side has too few flows."""
        most = int(np.floor(alarm * (len(self.calibration) + 1) + 1e-9)) - 1  # calibration flows above it
        return float(self.calibration[len(self.calibration) - 1 - most]) if most >= 0 else None

    @staticmethod
    def load(folder: Path) -> Unknown | None:
        """Load the detector of an evaluation; None if it has none, UserError if it is of an earlier version."""
        from safetensors.numpy import load_file

        if not (folder / JSON).is_file():
            return None
        told, arrays = read_json(folder / JSON), load_file(folder / ARRAYS)
        if "format" not in told:
            raise UserError(
                f"{folder / JSON} is of a detector that compared unprinted values: `iot-pipeline run` fits it again"
            )
        table = pq.read_table(folder / FLOWS).to_pandas()
        outputs = Outputs(*(arrays[name].astype(np.float64) for name in ("log_probs", "states", "energy")))
        features, form = [name for name in table.columns if name != LABEL], Format.model_validate(told["format"])
        return Unknown(
            told["score"],
            told["classes"],
            Reference(FeatureSpace.of(table, features, form), table[LABEL].to_numpy(object), outputs),
            arrays["label_rows"],
            arrays["calibration"],
            Choice(told["score"], told["evidence"]),
        )


def conformal_p(usual: Floats, scores: Floats) -> Floats:
    """Return the share of sorted calibration scores at or above each score, the score itself counted."""
    return (len(usual) - np.searchsorted(usual, scores, side="left") + 1) / (len(usual) + 1)


def choose_reference(labels: Sequence[str], most: int, seed: int) -> np.ndarray:
    """Return the numbers of at most `most` flows, ascending: equally many of each class as long as it has some."""
    order = np.random.default_rng([seed, 13]).permutation(len(labels))
    shuffled = pd.Series(np.asarray(labels, dtype=object)[order])
    turn = shuffled.groupby(shuffled).cumcount()
    kept: np.ndarray = np.sort(order[np.argsort(turn.to_numpy(), kind="stable")[:most]])
    return kept


def false_alarms(p_values: Floats, labels: Sequence[set[str]], classes: Sequence[str]) -> dict[str, Any]:
    """Return for each rate of ALARMS the share of distinct flows called unknown, and the same by class.

    A flow under several labels counts for each.
    """
    found = {}
    for alarm in ALARMS:
        called = p_values <= alarm
        by_class = {}
        for name in classes:
            mine = np.array([name in own for own in labels], dtype=bool)
            by_class[name] = float(called[mine].mean()) if mine.any() else None
        found[str(alarm)] = {"share": float(called.mean()), "by_class": by_class}
    return found
