"""Batches in the teacher's store: written before and after every step taken with the server.

Belongs here: the state of batches and the money and keys they hold. Does not belong here: the steps (batch.py).

States: planned (money and keys set aside, nothing sent), uploaded (the input file is with the server), sent (the batch
has an id there), read (every line is settled). A line is outstanding while its reservation stands; it names the batch,
so that no process asks for it again, and the settling of an attempt ends it in the same transaction.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store import LEASE_S, Store, owner_is_gone

BATCH_COLUMNS = "id, token, source, state, remote_id, requests, tokens, planned_at"


@dataclass(frozen=True)
class Batch:
    """One batch. `token` is ours, in the batch's metadata at the server; `tokens` is our estimate of the prompts'."""

    id: int
    token: str
    source: str
    state: str
    remote_id: str
    requests: int
    tokens: int
    planned_at: float


@dataclass(frozen=True)
class Line:
    """An outstanding line: the reservation that stands for it and the most it may cost."""

    reservation: int
    key: str
    model: str
    usd: float


class BatchTable:
    """The batches of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def plan(
        self, lines: Sequence[tuple[str, str, float]], source: str, tokens: Sequence[int], cap: float | None
    ) -> Batch | None:
        """Set aside as many of `lines` (key, model, dollars at worst) as `cap` has room for, in their order.

        Returns the new batch, in state planned, or None where there is no room for the first line.
        """
        now = time.time()
        with self.store.transaction() as db:
            free = float("inf") if cap is None else cap - db.execute("SELECT sum(value) FROM totals").fetchone()[0]
            count = 0
            for _, _, usd in lines:
                if usd > free:
                    break
                free, count = free - usd, count + 1
            if not count:
                return None
            batch = Batch(0, uuid.uuid4().hex, source, "planned", "", count, sum(tokens[:count]), now)
            cursor = db.execute(
                f"INSERT INTO batches ({BATCH_COLUMNS}, owner, until) VALUES (NULL,?,?,?,?,?,?,?,?,?)",
                (batch.token, source, batch.state, "", count, batch.tokens, now, self.store.owner, now + LEASE_S),
            )
            batch = replace(batch, id=cursor.lastrowid or 0)
            db.executemany(
                "INSERT INTO reservations (key, source, model, usd, pid, batch) VALUES (?,?,?,?,?,?)",
                [(key, source, model, usd, os.getpid(), batch.id) for key, model, usd in lines[:count]],
            )
            self.store.add_up_reservations(db)
            # From here on the batch holds these keys, however long it takes.
            db.executemany(
                "DELETE FROM claims WHERE key = ? AND source = ?", [(key, source) for key, _, _ in lines[:count]]
            )
        return batch

    def moved(self, batch: Batch, state: str, remote_id: str = "") -> Batch:
        """Record a step; returns the batch as it is now."""
        batch = replace(batch, state=state, remote_id=remote_id or batch.remote_id)
        with self.store.transaction() as db:
            found = db.execute(
                "UPDATE batches SET state = ?, remote_id = ? WHERE id = ? AND owner = ?",
                (batch.state, batch.remote_id, batch.id, self.store.owner),
            )
            self._still_ours(found.rowcount)
        return batch

    @staticmethod
    def _still_ours(rows: int) -> None:
        if not rows:
            raise UserError(
                "another process has taken over a batch of this one, which did not answer for a while (stopped, or its "
                "machine asleep); start again to take part."
            )

    def forget(self, batch: Batch) -> None:
        """Give back what a batch holds that was never run."""
        with self.store.transaction() as db:
            found = db.execute("DELETE FROM batches WHERE id = ? AND owner = ?", (batch.id, self.store.owner))
            self._still_ours(found.rowcount)
            db.execute("DELETE FROM reservations WHERE batch = ?", (batch.id,))
            self.store.add_up_reservations(db)

    def lines(self, batch: Batch) -> dict[str, Line]:
        """Outstanding lines by key, in the order of the input file."""
        rows = self.store.read(
            "SELECT id, key, model, usd FROM reservations WHERE batch = ? ORDER BY id", (batch.id,)
        )
        return {row[1]: Line(*row) for row in rows}

    def take_over(self, source: str) -> list[Batch]:
        """Unfinished batches of `source` whose process is gone; they are ours from now on."""
        with self.store.transaction() as db:
            rows = db.execute(
                f"SELECT {BATCH_COLUMNS}, owner, until FROM batches WHERE source = ? AND state != 'read'", (source,)
            ).fetchall()
            now = time.time()
            left = [row for row in rows if row[-1] < now or owner_is_gone(row[-2])]
            db.executemany(
                "UPDATE batches SET owner = ?, until = ? WHERE id = ?",
                [(self.store.owner, now + LEASE_S, row[0]) for row in left],
            )
        return [Batch(*row[:-2]) for row in left]
