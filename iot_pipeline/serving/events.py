"""The record of a classified flow: what `classify`, `serve` and every output format say of it, in one place.

A record has two parts. That of the row (file, row, time, addresses) differs for each flow; that of the verdict is the
same for all flows of a flow group, and cites the model that gave it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from iot_pipeline.serving.classifier import LEVEL, Classifier, Origin, Verdict
from iot_pipeline.serving.evidence import Fact

SCHEMA = "iot_pipeline.event/1"
# Classes that are ordinary traffic, by name; RT-IoT2022 calls its three by their devices (its paper, table 1).
BENIGN = re.compile(r"normal|benign|legit\w*|background|thing_?speak|mqtt_publish|wipro_bulb", re.IGNORECASE)
DIGITS = 6  # of a probability


@dataclass(frozen=True)
class Row:
    """A flow's row in its source.

    `uid`: names the event, the same whenever the same row of the same content is classified. `file`, `row`: source and
    number of the row in it, from 1. `time`: seconds since 1970, of the flow, or of its file or reading (`time_of`).
    `flow`: identity of the flow by the names of `identity.py`, as the source gives it. The student sees none of them.
    """

    uid: str
    file: str
    row: int
    time: float
    time_of: str
    flow: dict[str, Any]
    flow_group: str


@dataclass(frozen=True)
class About:
    """Facts that all events of a run share: the origin of the verdicts, and which classes are no attack."""

    origin: Origin
    calibrated: bool
    benign: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, classifier: Classifier, benign: frozenset[str] | None = None) -> About:
        """Return what events of a classifier share; `benign`: classes that are no attack, None to go by their names."""
        ordinary = frozenset(filter(BENIGN.fullmatch, classifier.spec.classes)) if benign is None else benign
        return cls(classifier.origin, classifier.fitted is not None, ordinary)

    def is_benign(self, verdict: Verdict) -> bool:
        """Return True if a flow is of a class that is no attack; one of no known class never is."""
        return not verdict.unknown and verdict.label in self.benign

    @cached_property
    def model(self) -> dict[str, Any]:
        """Origin as events cite it."""
        origin = self.origin
        return {
            "stage": origin.stage,
            "track": origin.track,
            "base": origin.base,
            "digest": origin.digest,
            "adapter": origin.model,
            "prompt": origin.prompt,
            "lake": origin.lake,
            "not_real": origin.labels,
        }


def evidence(verdict: Verdict) -> tuple[list[Fact], str]:
    """Return the facts of a flow that go with its verdict, and where they come from.

    `explanation`: the student cites them, and they are true. `percentiles`: without an explanation that cites any, the
    features farthest in the train pool; they describe the flow, and need not be why the student decided so.
    """
    said = verdict.explanation
    return (said.cited, "explanation") if said is not None and said.cited else (verdict.farthest, "percentiles")


def verdict_part(verdict: Verdict, about: About) -> dict[str, Any]:
    """Return the part of a record that all flows of a flow group share."""
    facts, whence = evidence(verdict)
    said = verdict.explanation
    strange = verdict.strange
    return {
        "class": verdict.name,
        "benign": about.is_benign(verdict),
        "probability": round(verdict.probability, DIGITS),
        "calibrated": about.calibrated,
        "probabilities": {name: round(value, DIGITS) for name, value in verdict.probabilities.items()},
        "set": verdict.members,
        "set_level": float(LEVEL) if verdict.members is not None else None,
        "unsure": verdict.unsure if verdict.members is not None else None,
        "unknown": None if strange is None else strange.unknown,
        "unknown_p": None if strange is None else round(strange.p_value, DIGITS),
        "unknown_because": strange.reasons if strange is not None and strange.unknown else [],
        "nearest_class": verdict.label,
        "out_of_range": verdict.out_of_range,
        "evidence": [fact._asdict() for fact in facts],
        "evidence_from": whence,
        "explanation": None if said is None else {
            "text": said.text, "decoding": said.decoding, "unsupported": said.unsupported
        },
        "model": about.model,
    }  # fmt: skip


def row_part(row: Row) -> dict[str, Any]:
    """Return the part of a record that is the row's own."""
    return {
        "schema": SCHEMA,
        "uid": row.uid,
        "time": iso(row.time),
        "time_of": row.time_of,
        "file": row.file,
        "row": row.row,
        "flow": row.flow,
        "flow_group": row.flow_group,
    }


def iso(time: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC, to the microsecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
