"""Queue of a plan's artefacts, from which the workers of a lake take what none of the others is making."""

from collections.abc import Sequence
from functools import cache

import dagster as dg

from iot_pipeline.defs import plan
from iot_pipeline.defs.workers import Worker
from iot_pipeline.vocabulary import unstaged


class Queue:
    """Artefacts that are still to be examined, in the plan's batches, upstream first."""

    def __init__(self, definitions: dg.Definitions, planned: Sequence[plan.Planned], worker: Worker) -> None:
        self._waiting, self._worker, self._place = list(plan.batches(list(planned))), worker, 0
        self._ancestors = cache(definitions.resolve_asset_graph().get_ancestor_asset_keys)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> list[plan.Planned]:
        """Claim and remove the first artefacts that no other worker is making, nor anything upstream of them.

        [] if there is none at this moment. A worker that is alone takes the first batch.
        """
        busy: list[plan.Planned] = []
        for place, batch in enumerate(self._waiting):
            taken = []
            for p in batch:
                if self._follows(p, busy) or not self._worker.claim(p.artefact):
                    busy.append(p)
                else:
                    taken.append(p)
            if taken:
                self._place = place
                self._waiting[place : place + 1] = [left] if (left := [p for p in batch if p not in taken]) else []
                return taken
        return []

    def _follows(self, p: plan.Planned, busy: Sequence[plan.Planned]) -> bool:
        """Return True if an artefact is made from one of those in `busy`, or may be: partitions are not told apart."""
        cumulative = unstaged(p.artefact.asset)[0] in plan.CUMULATIVE
        return any(one.key in self._ancestors(p.key) or (cumulative and one.key == p.key) for one in busy)

    def put_back(self, rest: list[plan.Planned]) -> None:
        """Return what was taken last, and give up the claims."""
        self._worker.release([p.artefact for p in rest])
        if rest:
            self._waiting.insert(self._place, rest)

    def left(self) -> list[plan.Planned]:
        """List what has not been taken."""
        return [p for batch in self._waiting for p in batch]
