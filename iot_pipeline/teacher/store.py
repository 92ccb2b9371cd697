"""The teacher's memory: answers by request key, every attempt, quarantine and reserved money, in one SQLite file.

Belongs here: durable state, safe against kill -9 and a second process. Does not belong here: asking (engine.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.request import Answer, Usage

SCHEMA_VERSION = 4
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  key TEXT NOT NULL, source TEXT NOT NULL, status TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
  model TEXT NOT NULL, reasons TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, attempts INTEGER NOT NULL,
  checked TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (key, source));
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  cost_usd REAL NOT NULL, cost_assumed INTEGER NOT NULL, seconds REAL NOT NULL,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
CREATE TABLE IF NOT EXISTS reservations (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, usd REAL NOT NULL,
  pid INTEGER NOT NULL, batch INTEGER);
CREATE INDEX IF NOT EXISTS batched ON reservations (key, source) WHERE batch IS NOT NULL;
CREATE TABLE IF NOT EXISTS batches (
  id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, source TEXT NOT NULL, state TEXT NOT NULL,
  remote_id TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, planned_at REAL NOT NULL,
  owner TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS claims (
  key TEXT NOT NULL, source TEXT NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (key, source));
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value REAL NOT NULL);
INSERT OR IGNORE INTO totals VALUES ('spent_usd', 0), ('reserved_usd', 0);
"""
COLUMNS = (
    "key, source, status, text, finish_reason, model, reasons, prompt_tokens, cached_tokens, completion_tokens, "
    "cost_usd, attempts, checked"
)
# From one version of the file to the next: a store full of paid answers is never thrown away.
MIGRATIONS = {
    1: "ALTER TABLE answers ADD COLUMN checked TEXT NOT NULL DEFAULT '';",
    2: "CREATE TABLE IF NOT EXISTS claims (key TEXT NOT NULL, source TEXT NOT NULL, owner TEXT NOT NULL, "
    "until REAL NOT NULL, PRIMARY KEY (key, source));",
    3: "ALTER TABLE reservations ADD COLUMN batch INTEGER; "
    "CREATE INDEX IF NOT EXISTS batched ON reservations (key, source) WHERE batch IS NOT NULL; "
    "CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, source TEXT NOT NULL, "
    "state TEXT NOT NULL, remote_id TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, "
    "planned_at REAL NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL);",
}
READABLE = (2, 3)  # older ones lack a column of `answers`
# A claim that is not renewed for so long is void: its owner is dead, or on a machine that is gone.
LEASE_S = 20.0
# SQLite's own default limit of bound variables is 32,766; a smaller batch keeps memory flat as well.
LOOKUP_BATCH = 1000
WAL_TRIES = 200  # 10 s
# How the reason begins where a request got no answer at all: such a one may be asked again.
NO_ANSWER = "no answer: "
# The reason of a text that came for rows which its caller did not ask for: see run.py.
UNCHECKED = "not checked yet"


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


class Store:
    """One connection to the store; open one per thread and process.

    WAL with synchronous=NORMAL: what was committed outlives kill -9 of this process. Raises UserError where the
    file cannot be opened or was written by a newer version.
    read_only: look at a store that is there, and change nothing: no upgrade, no clearing up after killed processes.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self._read_only = path, read_only
        if read_only:
            self._db = self._open_to_read()
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._use_wal()
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            for step in range(version, SCHEMA_VERSION) if version in MIGRATIONS else ():
                self._db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA user_version={step + 1}; COMMIT;")
            if version not in (0, *MIGRATIONS, SCHEMA_VERSION):
                raise UserError(f"{path} was written by another version of the project ({version}); move it away.")
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"the teacher's store {path} cannot be opened: {error}.") from error
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._settle_dead_reservations()
        self._free_dead_claims()

    def _open_to_read(self) -> sqlite3.Connection:
        """A connection that refuses to write; UserError where there is no store of a version that can be read."""
        try:
            db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
            db.execute("PRAGMA query_only=ON")
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise UserError(f"the teacher's store {self.path} cannot be opened: {error}.") from error
        if version not in (*READABLE, SCHEMA_VERSION):
            db.close()
            raise UserError(
                f"{self.path} was written by another version of the project ({version}); `iot-pipeline run` brings an "
                "older one up to date."
            )
        return db

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the disk is full, closing fails as what came before it did: that is the error to tell.
        with contextlib.suppress(UserError) if error is not None else contextlib.nullcontext():
            self.close()

    def close(self) -> None:
        """Give up what is claimed, close the connection; the last one to close folds the write-ahead log in."""
        if self._read_only:
            self._db.close()
            return
        try:
            with self.transaction() as db:
                db.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
                db.execute("UPDATE batches SET until = 0 WHERE owner = ?", (self.owner,))
        finally:
            self._db.close()

    def claim(self, keys: Sequence[str], source: str) -> set[str]:
        """Those of `keys` that are ours to ask: unanswered, in no batch, and claimed by nobody else alive.

        A claim holds for LEASE_S seconds and is kept up by `renew`; `save` gives up the claims of what it saves.
        """
        now = time.time()
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO claims VALUES (?, ?, ?, ?) ON CONFLICT (key, source) DO UPDATE "
                "SET owner = excluded.owner, until = excluded.until WHERE claims.until < ?",
                [(key, source, self.owner, now + LEASE_S, now) for key in keys],
            )
            marks = ",".join("?" * len(keys))
            query = f"SELECT key FROM claims WHERE owner = ? AND source = ? AND key IN ({marks})"
            ours = {row[0] for row in db.execute(query, (self.owner, source, *keys))}
            # Another process may have answered since the caller looked: that one is not to be asked again.
            query = (
                "SELECT key FROM answers WHERE source = ? AND reasons NOT LIKE ? AND reasons != ? "
                f"AND key IN ({marks})"
            )
            again = (f'["{NO_ANSWER}%', json.dumps([UNCHECKED]))
            ours -= {row[0] for row in db.execute(query, (source, *again, *keys))}
            query = f"SELECT key FROM reservations WHERE batch IS NOT NULL AND source = ? AND key IN ({marks})"
            return ours - {row[0] for row in db.execute(query, (source, *keys))}

    def renew(self) -> None:
        """Hold what is claimed, and the batches that are ours, for another lease."""
        until = time.time() + LEASE_S
        with self.transaction() as db:
            db.execute("UPDATE claims SET until = ? WHERE owner = ?", (until, self.owner))
            db.execute("UPDATE batches SET until = ? WHERE owner = ?", (until, self.owner))

    def _free_dead_claims(self) -> None:
        """Void the claims of processes of this machine that were killed, without waiting for their lease."""
        owners = [row[0] for row in self._db.execute("SELECT DISTINCT owner FROM claims")]
        dead = [owner for owner in owners if owner_is_gone(owner)]
        if dead:
            with self.transaction() as db:
                db.executemany("DELETE FROM claims WHERE owner = ?", [(owner,) for owner in dead])

    def _use_wal(self) -> None:
        """Switch to WAL. SQLite's busy timeout does not cover this one step, so two first openers would collide."""
        for _ in range(WAL_TRIES - 1):
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                time.sleep(0.05)
        self._db.execute("PRAGMA journal_mode=WAL")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Read and write as one step; UserError where the file cannot be written."""
        # IMMEDIATE takes the write lock at once: two writers wait for each other instead of failing half way.
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise UserError(
                f"the teacher's store {self.path} cannot be written: {error}. Answers until then are kept; make room "
                "or mend the permissions, and start again."
            ) from error

    def read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._db.execute(query, values).fetchall()

    def lookup(self, keys: Sequence[str], source: str) -> Iterator[Answer]:
        """Stored answers (accepted and quarantined) of `source` among `keys`, in no particular order."""
        for start in range(0, len(keys), LOOKUP_BATCH):
            part = keys[start : start + LOOKUP_BATCH]
            marks = ",".join("?" * len(part))
            query = f"SELECT {COLUMNS} FROM answers WHERE source = ? AND key IN ({marks})"
            for row in self._db.execute(query, (source, *part)):
                yield _answer(row)

    def save(self, attempts: Sequence[Attempt], answers: Sequence[Answer]) -> None:
        """Write attempts and final answers in one transaction and give back what was reserved for them."""
        spent = sum(attempt.cost_usd for attempt in attempts)
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO attempts (key, source, model, outcome, prompt_tokens, cached_tokens, completion_tokens,"
                " cost_usd, cost_assumed, seconds) VALUES (?,?,?,?,?,?,?,?,?,?)",
                [
                    (a.key, a.source, a.model, a.outcome, a.usage.prompt, a.usage.cached, a.usage.completion,
                     a.cost_usd, a.cost_assumed, a.seconds)
                    for a in attempts
                ],
            )
            # A text that nobody has checked is better than none, and nothing else.
            unchecked = [(a.key, a.source, f'["{NO_ANSWER}%') for a in answers if a.reasons == (UNCHECKED,)]
            db.executemany("DELETE FROM answers WHERE key = ? AND source = ? AND reasons LIKE ?", unchecked)
            present = {row for key, source, _ in unchecked for row in db.execute(
                "SELECT key, source FROM answers WHERE key = ? AND source = ?", (key, source))}
            answers = [a for a in answers if (a.key, a.source) not in present]
            db.executemany(
                f"INSERT OR REPLACE INTO answers ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                [
                    (a.key, a.source, a.status, a.text, a.finish_reason, a.model, json.dumps(a.reasons),
                     a.usage.prompt, a.usage.cached, a.usage.completion, a.cost_usd, a.attempts,
                     a.checked)
                    for a in answers
                ],
            )
            db.executemany("DELETE FROM claims WHERE key = ? AND source = ?", [(a.key, a.source) for a in answers])
            # A line of a batch that is to be asked again was held by its reservation alone until here.
            done = {(a.key, a.source) for a in answers} | present
            db.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                [(a.key, a.source, self.owner, time.time() + LEASE_S)
                 for a in attempts if a.reservation is not None and (a.key, a.source) not in done],
            )
            if spent:
                _add(db, "spent_usd", spent)
            _release(db, [a.reservation for a in attempts if a.reservation is not None])

    def judged(self, answers: Sequence[Answer]) -> None:
        """Write what a newer check says of stored answers."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE answers SET status = ?, reasons = ?, checked = ? WHERE key = ? AND source = ?",
                [(a.status, json.dumps(a.reasons), a.checked, a.key, a.source) for a in answers],
            )

    def reserve(self, key: str, source: str, model: str, usd: float, cap: float | None) -> int | None:
        """Set `usd` aside before a request is sent; None where spent + reserved + usd would pass `cap`.

        Check and reservation are one transaction, so that two processes together keep the cap too.
        """
        with self.transaction() as db:
            committed = db.execute("SELECT sum(value) FROM totals").fetchone()[0]
            if cap is not None and committed + usd > cap:
                return None
            _add(db, "reserved_usd", usd)
            cursor = db.execute(
                "INSERT INTO reservations (key, source, model, usd, pid) VALUES (?,?,?,?,?)",
                (key, source, model, usd, os.getpid()),
            )
            return cursor.lastrowid

    @staticmethod
    def add_up_reservations(db: sqlite3.Connection) -> None:
        """Summed anew, so that rounding never adds up to money that is reserved for nothing."""
        db.execute(
            "UPDATE totals SET value = (SELECT total(usd) FROM reservations) WHERE name = 'reserved_usd'"
        )

    def spent_usd(self) -> float:
        """Dollars of all attempts ever recorded, assumed ones included."""
        return float(self._db.execute("SELECT value FROM totals WHERE name = 'spent_usd'").fetchone()[0])

    def ledger(self, source: str | None = None) -> dict[str, Any]:
        """Sums over every attempt: attempts, tokens, dollars, assumed dollars, count by outcome."""
        where, values = ("WHERE source = ?", (source,)) if source is not None else ("", ())
        row = self._db.execute(
            "SELECT count(*), total(prompt_tokens), total(cached_tokens), total(completion_tokens), total(cost_usd),"
            f" total(cost_usd * cost_assumed) FROM attempts {where}", values
        ).fetchone()
        outcomes = self._db.execute(
            f"SELECT outcome, count(*) FROM attempts {where} GROUP BY outcome ORDER BY outcome", values
        ).fetchall()
        return {
            "attempts": row[0], "prompt_tokens": int(row[1]), "cached_tokens": int(row[2]),
            "completion_tokens": int(row[3]), "usd": row[4], "usd_assumed": row[5], "outcomes": dict(outcomes),
        }

    def batched(self, source: str) -> set[str]:
        """Keys that batches at the server hold: asked, and not answered yet."""
        query = "SELECT key FROM reservations WHERE batch IS NOT NULL AND source = ?"
        return {row[0] for row in self._db.execute(query, (source,))}

    def answer_seconds(self, source: str) -> float | None:
        """Mean seconds of the answers that came one by one; None where none did."""
        found: float | None = self._db.execute(
            "SELECT avg(seconds) FROM attempts WHERE source = ? AND outcome = 'answered' AND seconds > 0", (source,)
        ).fetchone()[0]
        return found

    def quarantine(self, source: str | None = None) -> list[Answer]:
        """Every quarantined answer with its reasons, sorted by key."""
        rows = self._db.execute(f"SELECT {COLUMNS} FROM answers WHERE status = 'quarantined' ORDER BY key, source")
        return [answer for answer in map(_answer, rows) if source is None or answer.source == source]

    def _settle_dead_reservations(self) -> None:
        """Money reserved by a process that was killed may have been billed: count it as spent, never as free."""
        rows = self.read("SELECT id, key, source, model, usd, pid FROM reservations WHERE batch IS NULL")
        lost = [row for row in rows if not _alive(row[5])]
        if not lost:
            return
        with self.transaction() as db:
            # Another process may have settled the same ones in between.
            marks = ",".join("?" * len(lost))
            present = {
                row[0]
                for row in db.execute(f"SELECT id FROM reservations WHERE id IN ({marks})", [r[0] for r in lost])
            }
            lost = [row for row in lost if row[0] in present]
            db.executemany(
                "INSERT INTO attempts (key, source, model, outcome, prompt_tokens, cached_tokens, completion_tokens,"
                " cost_usd, cost_assumed, seconds) VALUES (?,?,?,'in flight at a kill',0,0,0,?,1,0)",
                [row[1:5] for row in lost],
            )
            _add(db, "spent_usd", sum(row[4] for row in lost))
            _release(db, [row[0] for row in lost])


def _add(db: sqlite3.Connection, name: str, usd: float) -> None:
    db.execute("UPDATE totals SET value = value + ? WHERE name = ?", (usd, name))


def _release(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    if not ids:
        return
    db.executemany("DELETE FROM reservations WHERE id = ?", [(i,) for i in ids])
    Store.add_up_reservations(db)


def _answer(row: tuple[Any, ...]) -> Answer:
    key, source, status, text, finish_reason, model, reasons, prompt, cached, completion, cost, attempts, checked = row
    return Answer(
        key=key, status=status, text=text, finish_reason=finish_reason, model=model, source=source,
        usage=Usage(prompt, cached, completion), cost_usd=cost, attempts=attempts,
        reasons=tuple(json.loads(reasons)) if reasons != "[]" else (), from_cache=True, checked=checked,
    )


def owner_is_gone(owner: str) -> bool:
    """Whether a Store.owner was a process of this machine that has ended; False for one of another machine."""
    host, pid, _ = owner.rsplit(":", 2)
    return host == socket.gethostname() and not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
