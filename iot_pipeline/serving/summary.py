"""Summary of a run of `classify`, in numbers: classes, doubts, features out of range, and the work it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from iot_pipeline.serving.cached import Work
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.events import About, Row


@dataclass
class Summary:
    """Counts of events; `scored`, `explained`: distinct flows that the student was asked about."""

    events: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    alerts: int = 0
    unsure: int = 0
    unknown: int = 0
    out_of_range: int = 0
    features_out_of_range: Counter[str] = field(default_factory=Counter)
    explanations: int = 0
    supported: int = 0
    scored: int = 0
    explained: int = 0

    def add(self, rows: Sequence[Row], verdicts: Mapping[str, Verdict], about: About) -> None:
        """Count the events of rows."""
        for group, number in Counter(row.flow_group for row in rows).items():
            verdict = verdicts[group]
            self.events += number
            self.classes[verdict.name] += number
            self.alerts += number * (not about.is_benign(verdict))
            self.unsure += number * verdict.unsure
            self.unknown += number * verdict.unknown
            self.out_of_range += number * bool(verdict.out_of_range)
            for feature in verdict.out_of_range:
                self.features_out_of_range[feature] += number
            if verdict.explanation is not None:
                self.explanations += number
                self.supported += number * (not verdict.explanation.unsupported)

    def took(self, work: Work, before: Work) -> None:
        """Add what the student was asked since `before`."""
        self.scored += work.scored - before.scored
        self.explained += work.explained - before.explained

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a file holds them."""
        return asdict(self) | {name: dict(getattr(self, name)) for name in ("classes", "features_out_of_range")}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Summary:
        """Return counts read from a file; none if it is empty."""
        counters = {name: Counter(content[name]) for name in ("classes", "features_out_of_range") if content}
        return cls(**{**content, **counters})

    def facts(self, calibrated: bool, detects: bool) -> dict[str, Any]:
        """Return the counts as they are told; None of what a student without evaluation or detector cannot say."""
        hits = 1 - self.scored / self.events if self.events else 0.0
        return {
            "flows": self.events,
            "classes": dict(self.classes.most_common()),
            "alerts": self.alerts,
            "unsure": self.unsure if calibrated else None,
            "unknown": self.unknown if detects else None,
            "out_of_range": self.out_of_range,
            "features_out_of_range": dict(self.features_out_of_range.most_common(10)),
            "explanations": self.explanations or None,
            "explanations_supported": self.supported if self.explanations else None,
            "scored": self.scored,
            "cache_hits": round(hits, 4),
        }
