"""Verdicts on flows in any number: by look-up where their group is known, by the student where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import pyarrow as pa

from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.classifier import Verdict

Explain = Literal["none", "unsure", "new", "all"]
EXPLAIN: tuple[Explain, ...] = get_args(Explain)
Log = Callable[[str], None]


@dataclass
class Work:
    """Work of answering: distinct flows whose group was not known, and explanations that were written."""

    scored: int = 0
    explained: int = 0


class Answering(Protocol):
    """Classifier, or the verdicts that replicas gave."""

    def classify(self, flows: Any, log: Log | None = None) -> list[Verdict]:
        """Return the verdict on each row."""

    def explain(self, flows: Any, verdicts: Sequence[Verdict], log: Log | None = None) -> list[Verdict]:
        """Return the verdicts with their explanations."""


class CachedClassifier:
    """A classifier with its cache.

    `explain`: which flows get an explanation. `none`; `unsure`: those whose set has not exactly one class; `new`: those
    whose group is not in the cache; `all`. An explanation that is in the cache is told where one is asked for, and of
    `new` also for later flows of its group. `cache`: None to score every distinct flow of each batch.
    """

    def __init__(self, classifier: Answering, cache: VerdictCache | None, explain: Explain = "none") -> None:
        self.classifier, self.cache, self.explain = classifier, cache, explain
        self.work = Work()

    def verdicts(self, flows: pa.Table, log: Log | None = None) -> dict[str, Verdict]:
        """Return the verdict on each flow group of a table with flow_group and features.

        Verdicts are stored at once, all that are new together: who is killed here finds none of them, or all.
        """
        groups = flows["flow_group"].to_pylist()
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        distinct = sorted(first, key=first.__getitem__)
        known = self.cache.get(distinct) if self.cache is not None else {}
        new = [group for group in distinct if group not in known]
        found = dict(known)
        if new:
            rows = flows.take([first[group] for group in new])
            found |= dict(zip(new, self.classifier.classify(rows, log), strict=True))
        mute = [g for g in distinct if found[g].explanation is None and self._wants(found[g], g not in known)]
        if mute:
            rows = flows.take([first[group] for group in mute])
            said = self.classifier.explain(rows, [found[group] for group in mute], log)
            found |= dict(zip(mute, said, strict=True))
        if self.cache is not None:
            self.cache.put({group: found[group] for group in dict.fromkeys([*new, *mute])})
        self.work.scored += len(new)
        self.work.explained += len(mute)
        return {group: self._told(verdict) for group, verdict in found.items()}

    def unanswered(self, groups: Sequence[str]) -> list[str]:
        """Return the flow groups that the cache does not answer: it lacks them, or an explanation that is wanted."""
        known = self.cache.get(groups) if self.cache is not None else {}
        return [
            group
            for group in groups
            if group not in known or (known[group].explanation is None and self._wants(known[group], False))
        ]

    def _wants(self, verdict: Verdict, is_new: bool) -> bool:
        """Return whether a verdict needs an explanation."""
        return self.explain == "all" or (self.explain == "new" and is_new) or (
            self.explain == "unsure" and verdict.unsure
        )  # fmt: skip

    def _told(self, verdict: Verdict) -> Verdict:
        """Return a verdict without an explanation that is there by chance, from a run that asked for more."""
        if verdict.explanation is None or self.explain in ("all", "new") or self._wants(verdict, False):
            return verdict
        return verdict.without_explanation()
