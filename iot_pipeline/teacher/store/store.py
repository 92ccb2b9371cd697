"""The teacher's answers by request key, every attempt, quarantine and reserved money, in one database."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.request import Answer, Usage
from iot_pipeline.teacher.store import schema
from iot_pipeline.teacher.store.database import Database, Location, is_file, shown, store_url
from iot_pipeline.teacher.store.leases import LEASE_S, is_gone, new_owner
from iot_pipeline.teacher.store.schema import answers, attempts, batches, claims, reservations, totals, upsert

# Databases limit the variables of a statement; a small part keeps memory flat as well.
LOOKUP_BATCH = 1000
# How the reason begins where a request got no answer at all: such a one may be asked again.
NO_ANSWER = "no answer: "
REFUSED = "refused"  # the reason where the model refused to answer
# The reason of a text that came for rows which its caller did not ask for.
UNCHECKED = "not checked yet"

# Statements are made once: SQLAlchemy takes longer to make one than SQLite to carry it out.
_A, _C, _R = answers.c, claims.c, reservations.c
_KEYS: sa.BindParameter[str] = sa.bindparam("keys", expanding=True)
_SOURCE: sa.BindParameter[str] = sa.bindparam("of_source")
_OWNER: sa.BindParameter[str] = sa.bindparam("of_owner")
_KEY: sa.BindParameter[str] = sa.bindparam("of_key")
# `is_verdict` in SQL; the first sign of a JSON list is matched by _.
_UNANSWERED = sa.or_(
    _A.reasons.like(f'_"{NO_ANSWER}%'), sa.and_(_A.text == "", sa.not_(_A.reasons.like(f'_"{REFUSED}"%')))
)
LOOKUP = sa.select(answers).where(_A.source == _SOURCE, _A.key.in_(_KEYS))
CLAIMED = sa.select(_C.key).where(_C.owner == _OWNER, _C.source == _SOURCE, _C.key.in_(_KEYS))
# Another process may have answered since the caller looked: that one is not to be asked again.
NOT_TO_ASK = sa.union(
    sa.select(_A.key).where(
        _A.source == _SOURCE, _A.key.in_(_KEYS), ~_UNANSWERED, _A.reasons != json.dumps([UNCHECKED])
    ),
    sa.select(_R.key).where(_R.batch.is_not(None), _R.source == _SOURCE, _R.key.in_(_KEYS)),
)
EXPIRED = _C.until < sa.bindparam("now")
UNCLAIM = sa.delete(claims).where(_C.key == _KEY, _C.source == _SOURCE)
COMMITTED = sa.select(sa.func.sum(totals.c.value))
_TOTAL = sa.update(totals).where(totals.c.name == sa.bindparam("total"))
ADD = _TOTAL.values(value=totals.c.value + sa.bindparam("usd"))
ADD_UP = _TOTAL.values(value=sa.select(sa.func.coalesce(sa.func.sum(_R.usd), 0.0)).scalar_subquery())
RESERVE = sa.insert(reservations).returning(_R.id, sort_by_parameter_order=True)
RELEASE = sa.delete(reservations).where(_R.id == sa.bindparam("of_id"))
SINGLE = sa.select(reservations).where(_R.batch.is_(None))  # a line of a batch is held by its batch


@dataclass(frozen=True)
class Attempt:
    """One line of the ledger: one request that was sent. `reservation` is the id whose money it gives back."""

    key: str
    source: str
    model: str
    outcome: str
    usage: Usage
    cost_usd: float
    cost_assumed: bool
    seconds: float
    reservation: int | None = None


@dataclass(frozen=True)
class Reservation:
    """Budget that is reserved for one attempt: the most that it may cost. `id` is None where nothing is billed."""

    id: int | None
    key: str
    model: str
    usd: float


class Store(Database):
    """One connection to the store; open one per thread and process.

    What was committed outlives kill -9 of this process. Raises UserError where the database cannot be reached or was
    written by another version.
    read_only: look at a store that is there, and change nothing, nor clear up after killed processes.
    """

    def __init__(self, location: Location, read_only: bool = False) -> None:
        super().__init__(location, read_only)
        try:
            if read_only:
                if not schema.is_made(self):
                    raise UserError(f"{shown(location)} cannot be opened: there is no store of answers.")
                return
            schema.make_tables(self)
            self.owner = new_owner()
            self._settle_dead_reservations()
            self._free_dead_claims()
        except BaseException:
            super().close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # Where the disk is full, closing fails as what came before it did: that is the error to tell.
        with contextlib.suppress(UserError) if kind is not None else contextlib.nullcontext():
            self.close()

    def close(self) -> None:
        """Give up what is claimed and close the connection."""
        try:
            if not self._read_only:
                with self.transaction() as db:
                    db.execute(sa.delete(claims).where(claims.c.owner == self.owner))
                    db.execute(sa.update(batches).where(batches.c.owner == self.owner).values(until=0.0))
        finally:
            super().close()

    def claim(self, keys: Sequence[str], source: str) -> set[str]:
        """Claim those of `keys` that are to be asked: unanswered, in no batch, and claimed by nobody else alive.

        A claim holds for LEASE_S seconds and is kept up by `renew`; `save` gives up the claims of what it saves.
        """
        these = {"keys": list(keys), "of_source": source, "of_owner": self.owner}
        wanted = [row | {"now": self.now()} for row in self._claims((key, source) for key in keys)]
        with self.transaction() as db:
            execute_each(db, upsert(db.dialect.name, claims, EXPIRED), wanted)
            return set(db.scalars(CLAIMED, these)) - set(db.scalars(NOT_TO_ASK, these))

    def claim_again(self, db: sa.Connection, pairs: Iterable[tuple[str, str]]) -> None:
        """Claim (key, source) pairs that a reservation of ours has held until this transaction."""
        execute_each(db, upsert(db.dialect.name, claims), self._claims(pairs))

    def _claims(self, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """Build the rows that claim (key, source) pairs for us."""
        ours = {"owner": self.owner, "until": self.now() + LEASE_S}
        return [{"key": key, "source": source, **ours} for key, source in dict.fromkeys(pairs)]

    def renew(self) -> None:
        """Extend the lease of our claims, reservations and batches."""
        until = self.now() + LEASE_S
        with self.transaction() as db:
            for table in (claims, batches):
                db.execute(sa.update(table).where(table.c.owner == self.owner).values(until=until))
            single = sa.update(reservations).where(_R.owner == self.owner, _R.batch.is_(None))
            db.execute(single.values(until=until))

    def _free_dead_claims(self) -> None:
        """Void the claims of processes of this machine that were killed, without waiting for their lease."""
        found = self.read(sa.select(_C.owner, sa.func.max(_C.until).label("until")).group_by(_C.owner))
        if dead := [row.owner for row in self._dead(found)]:
            with self.transaction() as db:
                db.execute(sa.delete(claims).where(_C.owner.in_(dead)))

    def lookup(self, keys: Sequence[str], source: str) -> Iterator[Answer]:
        """Yield the stored answers, quarantined ones too, of `source` among `keys`, in no particular order."""
        for start in range(0, len(keys), LOOKUP_BATCH):
            part = {"keys": list(keys[start : start + LOOKUP_BATCH]), "of_source": source}
            yield from map(answer_of, self.read(LOOKUP, part))

    def save(self, made: Sequence[Attempt], finished: Sequence[Answer]) -> None:
        """Write attempts and final answers in one transaction and give back what was reserved for them."""
        spent = sum(attempt.cost_usd for attempt in made)
        with self.transaction() as db:
            self._book(db, made)
            kept = self._better_than(db, [a for a in finished if a.reasons == (UNCHECKED,)])
            written = {pair_of(a): a for a in finished if pair_of(a) not in kept}
            execute_each(db, upsert(db.dialect.name, answers), [_row(a) for a in written.values()])
            execute_each(db, UNCLAIM, [{"of_key": key, "of_source": source} for key, source in written])
            # A line of a batch that is to be asked again was held by its reservation alone until here.
            settled = [a for a in made if a.reservation is not None]
            done = kept | written.keys()
            self.claim_again(db, (pair_of(a) for a in settled if pair_of(a) not in done))
            if spent:
                db.execute(ADD, {"total": "spent_usd", "usd": spent})
            self._release(db, [a.reservation for a in settled])

    @staticmethod
    def _book(db: sa.Connection, made: Sequence[Attempt]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rows = [
            {
                "key": a.key, "source": a.source, "model": a.model, "outcome": a.outcome,
                "prompt_tokens": a.usage.prompt, "cached_tokens": a.usage.cached,
                "completion_tokens": a.usage.completion, "cost_usd": a.cost_usd, "cost_assumed": int(a.cost_assumed),
                "seconds": a.seconds, "at": at,
            }
            for a in made
        ]  # fmt: skip
        execute_each(db, sa.insert(attempts), rows)

    @staticmethod
    def _better_than(db: sa.Connection, unchecked: Sequence[Answer]) -> set[tuple[str, str]]:
        """Find the (key, source) of unchecked texts where an answer is stored: they are better than none, no more."""
        kept = set()
        for a in unchecked:
            this = (_A.key == a.key) & (_A.source == a.source)
            db.execute(sa.delete(answers).where(this, _UNANSWERED))
            kept |= {tuple(row) for row in db.execute(sa.select(_A.key, _A.source).where(this))}
        return kept

    def judged(self, rows: Sequence[Answer]) -> None:
        """Write stored answers anew, with the verdicts of a newer check."""
        with self.transaction() as db:
            execute_each(db, upsert(db.dialect.name, answers), [_row(a) for a in rows])

    def reserve(self, lines: Sequence[tuple[str, str, float]], source: str, cap: float | None) -> list[int | None]:
        """Set money aside for `lines` (key, model, dollars at worst) before they are sent; the id of each reservation.

        None for a line that would take spent + reserved past `cap`. Check and reservations are one transaction, so that
        all processes together keep the cap.
        """
        held = {"source": source, "owner": self.owner, "until": self.now() + LEASE_S}
        with self.transaction() as db:
            committed, reserved = db.scalar(COMMITTED), 0.0
            granted: list[dict[str, Any] | None] = []
            for key, model, usd in lines:
                if cap is not None and committed + reserved + usd > cap:
                    granted.append(None)
                    continue
                reserved += usd
                granted.append({"key": key, "model": model, "usd": usd, **held})
            rows = [row for row in granted if row is not None]
            if not rows:
                return [None] * len(lines)
            ids = iter(db.scalars(RESERVE, rows).all())
            db.execute(ADD, {"total": "reserved_usd", "usd": reserved})
        return [None if row is None else next(ids) for row in granted]

    @staticmethod
    def add_up_reservations(db: sa.Connection) -> None:
        """Sum reservations anew, so that rounding never adds up to money that is reserved for nothing."""
        db.execute(ADD_UP, {"total": "reserved_usd"})

    def _release(self, db: sa.Connection, ids: Sequence[int | None]) -> None:
        if ids:
            execute_each(db, RELEASE, [{"of_id": i} for i in ids])
            self.add_up_reservations(db)

    def spent_usd(self) -> float:
        """Return the dollars of all attempts ever recorded, assumed ones included."""
        return float(self.read(sa.select(totals.c.value).where(totals.c.name == "spent_usd"))[0][0])

    def spent_since(self, moment: datetime) -> float:
        """Return the dollars of attempts that were recorded from a moment on (with a time zone)."""
        at = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found = self.read(sa.select(sa.func.coalesce(sa.func.sum(attempts.c.cost_usd), 0.0)).where(attempts.c.at >= at))
        return float(found[0][0])

    def ledger(self) -> dict[str, Any]:
        """Sum up all attempts: their number, tokens, dollars, assumed dollars, number by outcome."""
        c = attempts.c
        summed = (c.prompt_tokens, c.cached_tokens, c.completion_tokens, c.cost_usd, c.cost_usd * c.cost_assumed)
        sums = (sa.func.coalesce(sa.func.sum(column), 0) for column in summed)
        count, *tokens, usd, assumed = self.read(sa.select(sa.func.count(), *sums))[0]
        outcomes = self.read(sa.select(c.outcome, sa.func.count()).group_by(c.outcome).order_by(c.outcome))
        named = zip(("prompt_tokens", "cached_tokens", "completion_tokens"), map(int, tokens), strict=True)
        dollars = {"usd": float(usd), "usd_assumed": float(assumed)}
        return {"attempts": count, **dict(named), **dollars, "outcomes": dict(map(tuple, outcomes))}

    def taken(self) -> dict[tuple[str, str], tuple[int, int, int, float]]:
        """Sum up attempts by (key, source), failed ones too: requests, prompt tokens, answer tokens, dollars."""
        c = attempts.c
        sums = (sa.func.sum(column) for column in (c.prompt_tokens, c.completion_tokens, c.cost_usd))
        rows = self.read(sa.select(c.key, c.source, sa.func.count(), *sums).group_by(c.key, c.source))
        return {(row[0], row[1]): (row[2], int(row[3]), int(row[4]), float(row[5])) for row in rows}

    def batched(self, source: str) -> set[str]:
        """Find the keys that batches at the server hold: asked, and not answered yet."""
        return {row.key for row in self.read(sa.select(_R.key).where(_R.batch.is_not(None), _R.source == source))}

    def answer_seconds(self, source: str) -> float | None:
        """Return the mean seconds of answers that came one by one; None where none did."""
        c = attempts.c
        one_by_one = sa.and_(c.source == source, c.outcome == "answered", c.seconds > 0)
        found: float | None = self.read(sa.select(sa.func.avg(c.seconds)).where(one_by_one))[0][0]
        return found

    def _settle_dead_reservations(self) -> None:
        """Count money reserved by a process that was killed as spent: it may have been billed."""
        if not self._dead(self.read(SINGLE)):
            return
        with self.transaction() as db:
            lost = self._dead(db.execute(SINGLE))  # another process may have settled the same ones in between
            outcome = "in flight at a kill"
            self._book(db, [Attempt(r.key, r.source, r.model, outcome, Usage(), r.usd, True, 0.0) for r in lost])
            db.execute(ADD, {"total": "spent_usd", "usd": sum(row.usd for row in lost)})
            self._release(db, [row.id for row in lost])

    def _dead(self, rows: Iterable[Any]) -> list[Any]:
        now = self.now()
        return [row for row in rows if is_gone(row.owner, row.until, now)]


def execute_each(db: sa.Connection, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute a statement for each of the rows, of which there may be none."""
    if rows:
        db.execute(statement, rows)


def is_verdict(stored: Answer) -> bool:
    """Return True where a stored answer says something of the content.

    What the set-up refused (a key, a context, a form) or left without any text is asked again.
    """
    reason = stored.reasons[0] if stored.reasons else ""
    return not reason.startswith(NO_ANSWER) and (bool(stored.text) or reason == REFUSED)


def pair_of(item: Answer | Attempt) -> tuple[str, str]:
    """Return the key and source that an answer is filed under."""
    return item.key, item.source


def exists(location: Location) -> bool:
    """Return True where there is a store to read; UserError where its server cannot be reached."""
    url = store_url(location)
    if is_file(url):
        return Path(str(url.database)).is_file()
    with contextlib.closing(Database(url, read_only=True)) as database:
        return schema.is_made(database)


def _row(a: Answer) -> dict[str, Any]:
    return {
        "key": a.key, "source": a.source, "status": a.status, "text": a.text, "finish_reason": a.finish_reason,
        "model": a.model, "reasons": json.dumps(a.reasons), "prompt_tokens": a.usage.prompt,
        "cached_tokens": a.usage.cached, "completion_tokens": a.usage.completion, "cost_usd": a.cost_usd,
        "attempts": a.attempts, "checked": a.checked,
    }  # fmt: skip


def answer_of(row: Sequence[Any]) -> Answer:
    """Read a row of the table of answers."""
    key, source, status, text, finish_reason, model, reasons, prompt, cached, completion, cost, tried, checked = row
    return Answer(
        key, status, text, finish_reason, model, source, Usage(prompt, cached, completion), cost, tried,
        tuple(json.loads(reasons)) if reasons != "[]" else (), from_cache=True, checked=checked,
    )  # fmt: skip
