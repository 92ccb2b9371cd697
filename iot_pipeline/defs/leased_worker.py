"""Worker on a lake in a bucket: it passes over what another host makes, and leases what it makes itself."""

from __future__ import annotations

from collections.abc import Collection

from iot_pipeline.defs.recording import announce
from iot_pipeline.defs.workers import Worker
from iot_pipeline.lake.artefact_log import shown
from iot_pipeline.lake.remote import Remote
from iot_pipeline.lake.store import ArtefactId, Lake


class LeasedWorker(Worker):
    """Worker of a lake in a bucket, where hosts that share no database meet. A claim looks; `Lake.claimed` leases."""

    def __init__(self, worker: Worker, remote: Remote) -> None:
        self._worker, self._remote = worker, remote
        self._told: dict[ArtefactId, str] = {}

    def new_run_id(self) -> str:
        """Return an id for a run of this process."""
        return self._worker.new_run_id()

    def claim(self, artefact: ArtefactId) -> bool:
        """Claim an artefact until `release`; False, and tell it once, if another host holds its lease."""
        if (holder := self._remote.holder(artefact.file_name)) is None:
            return self._worker.claim(artefact)
        if self._told.get(artefact) != holder.id:
            announce(artefact, "waiting", f"it is being made on {shown(holder)}")
            self._told[artefact] = holder.id
        return False

    def release(self, artefacts: Collection[ArtefactId]) -> None:
        """Let other workers of the same database make artefacts that were claimed."""
        self._worker.release(artefacts)


def worker_of(worker: Worker, lake: Lake) -> Worker:
    """Return a worker as it works on a lake."""
    return LeasedWorker(worker, lake.remote) if lake.remote else worker
