"""Batches of the teacher's store, written before and after every step taken with the server.

States: planned (money and keys set aside, nothing sent), uploaded (the input file is with the server), sent (the batch
has an id there), read (every line is settled). A line is outstanding while its reservation stands; it names the batch,
so that no process asks for it again, and the settling of an attempt ends it in the same transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.leases import LEASE_S, is_gone
from iot_pipeline.teacher.store.schema import batches, reservations
from iot_pipeline.teacher.store.store import COMMITTED, UNCLAIM, Reservation, Store, execute_each


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


class BatchTable:
    """The batches of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def plan(
        self, lines: Sequence[tuple[str, str, float]], source: str, tokens: Sequence[int], cap: float | None
    ) -> Batch | None:
        """Set aside as many lines as the budget has room for, in their order.

        Args:
            lines: Key, model and dollars at worst of each line.
            source: Source of the answers.
            tokens: Tokens of each line.
            cap: Budget in dollars; None for no limit.

        Returns:
            The new batch, in state planned, or None if there is no room for the first line.
        """
        now = self.store.now()
        with self.store.transaction() as db:
            free = float("inf") if cap is None else cap - db.scalar(COMMITTED)
            count = 0
            for _, _, usd in lines:
                if usd > free:
                    break
                free, count = free - usd, count + 1
            if not count:
                return None
            batch = Batch(0, uuid.uuid4().hex, source, "planned", "", count, sum(tokens[:count]), now)
            row = {name: value for name, value in asdict(batch).items() if name != "id"}
            held = {"owner": self.store.owner, "until": now + LEASE_S}
            number = db.execute(sa.insert(batches).returning(batches.c.id), {**row, **held}).scalar_one()
            batch = replace(batch, id=number)
            rows = [
                {"key": key, "source": source, "model": model, "usd": usd, "batch": number, **held}
                for key, model, usd in lines[:count]
            ]
            execute_each(db, sa.insert(reservations), rows)
            self.store.add_up_reservations(db)
            # From here on the batch holds these keys, however long it takes.
            execute_each(db, UNCLAIM, [{"of_key": key, "of_source": source} for key, _, _ in lines[:count]])
        return batch

    def moved(self, batch: Batch, state: str, remote_id: str = "") -> Batch:
        """Record a step of a batch; returns the batch as it is now."""
        batch = replace(batch, state=state, remote_id=remote_id or batch.remote_id)
        with self.store.transaction() as db:
            ours = sa.update(batches).where(batches.c.id == batch.id, batches.c.owner == self.store.owner)
            found = db.execute(ours.values(state=batch.state, remote_id=batch.remote_id))
            self._still_ours(found.rowcount)
        return batch

    @staticmethod
    def _still_ours(rows: int) -> None:
        if not rows:
            raise UserError(
                "another process has taken over a batch of this one, which did not answer for a while (stopped, or its "
                "machine asleep); start again to take part."
            )

    def forget(self, batch: Batch, again: Iterable[str] = ()) -> None:
        """Delete a batch that was never run, and give back what it holds, but for the keys to be sent `again`."""
        with self.store.transaction() as db:
            ours = sa.delete(batches).where(batches.c.id == batch.id, batches.c.owner == self.store.owner)
            self._still_ours(db.execute(ours).rowcount)
            db.execute(sa.delete(reservations).where(reservations.c.batch == batch.id))
            self.store.claim_again(db, ((key, batch.source) for key in again))
            self.store.add_up_reservations(db)

    def lines(self, batch: Batch) -> dict[str, Reservation]:
        """List the reservations of the outstanding lines by key, in the order of the input file."""
        c = reservations.c
        rows = self.store.read(sa.select(c.id, c.key, c.model, c.usd).where(c.batch == batch.id).order_by(c.id))
        return {row.key: Reservation(*row) for row in rows}

    def take_over(self, source: str) -> list[Batch]:
        """Take over unfinished batches of `source` whose process is gone; returns them, ours from now on."""
        now, c = self.store.now(), batches.c
        with self.store.transaction() as db:
            rows = db.execute(sa.select(batches).where(c.source == source, c.state != "read").order_by(c.id)).fetchall()
            left = [row for row in rows if row.until < now or is_gone(row.owner, row.until, now)]
            held = {"owner": self.store.owner, "until": now + LEASE_S}
            db.execute(sa.update(batches).where(c.id.in_([row.id for row in left])).values(held))
        return [Batch(*row[:-2]) for row in left]
