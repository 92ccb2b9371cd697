"""Verdicts of the server: by look-up where a flow's group is known, by the student where it is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError, printable
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.classifier import Classifier, Verdict


class Verdicts:
    """A classifier with the cache that other commands share; a cache that fails is left out from then on."""

    def __init__(self, classifier: Classifier, cache: VerdictCache | None, looked_up: Callable[[int], None]) -> None:
        """Prepare a classifier; `looked_up` is called with the number of flows that the cache knew."""
        self.classifier, self._cache, self._looked_up = classifier, cache, looked_up

    def classify(self, flows: Any) -> list[Verdict]:
        """Classify each row of a frame; a verdict holds an explanation if one is known."""
        if self._cache is None:
            return self.classifier.classify(flows)
        groups = self.classifier.groups(flows)
        known = self._known(groups)
        new = {group: row for row, group in reversed(list(enumerate(groups))) if group not in known}
        self._looked_up(sum(group in known for group in groups))
        if new:
            found = dict(zip(new, self.classifier.classify(flows.iloc[list(new.values())]), strict=True))
            self._store(found)
            known |= found
        return [known[group] for group in groups]

    def explain(self, flows: Any, verdicts: Sequence[Verdict], meanwhile: Callable[[], None]) -> list[Verdict]:
        """Return the verdicts with explanations, written for those that lack one; raises what `meanwhile` raises."""
        mute = np.array([verdict.explanation is None for verdict in verdicts])
        if not mute.any():
            return list(verdicts)
        part = flows[mute]
        written = self.classifier.explain(
            part, [verdict for verdict in verdicts if verdict.explanation is None], meanwhile=meanwhile
        )
        if self._cache is not None:
            self._store(dict(zip(self.classifier.groups(part), written, strict=True)))
        said = iter(written)
        return [verdict if verdict.explanation is not None else next(said) for verdict in verdicts]

    def _known(self, groups: Sequence[str]) -> dict[str, Verdict]:
        assert self._cache is not None
        try:
            return self._cache.get(groups)
        except UserError as error:
            self._leave_out(error)
            return {}

    def _store(self, found: dict[str, Verdict]) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(found)
        except UserError as error:
            self._leave_out(error)

    def _leave_out(self, error: UserError) -> None:
        print(f"warning: {printable(str(error))}; verdicts are no longer kept", file=sys.stderr, flush=True)
        self._cache = None
