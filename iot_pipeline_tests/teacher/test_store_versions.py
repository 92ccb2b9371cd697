"""Stores that earlier versions of the project made are taken over without losing an answer or a dollar."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.batches import BatchTable
from iot_pipeline.teacher.store.store import Store

# Version 1, and what each later one added.
FIRST = """
CREATE TABLE answers (
  key TEXT NOT NULL, source TEXT NOT NULL, status TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
  model TEXT NOT NULL, reasons TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, attempts INTEGER NOT NULL, PRIMARY KEY (key, source));
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  cost_usd REAL NOT NULL, cost_assumed INTEGER NOT NULL, seconds REAL NOT NULL,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));
CREATE TABLE reservations (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, usd REAL NOT NULL,
  pid INTEGER NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL);
INSERT INTO totals VALUES ('spent_usd', 0.5), ('reserved_usd', 0.25);
INSERT INTO answers VALUES ('k1', 's', 'ok', 'text 1', 'stop', 'm', '[]', 9, 1, 2, 0.5, 1);
INSERT INTO answers VALUES ('k2', 's', 'quarantined', 'text 2', 'stop', 'm', '["mislabelled: x"]', 9, 1, 2, 0.0, 3);
INSERT INTO attempts (key, source, model, outcome, prompt_tokens, cached_tokens, completion_tokens, cost_usd,
  cost_assumed, seconds) VALUES ('k1', 's', 'm', 'answered', 9, 1, 2, 0.5, 0, 1.0);
INSERT INTO reservations (key, source, model, usd, pid) VALUES ('k3', 's', 'm', 0.125, 99999999);
INSERT INTO reservations (key, source, model, usd, pid) VALUES ('k4', 's', 'm', 0.125, {pid});
PRAGMA user_version=1;
"""
LATER = {
    2: "ALTER TABLE answers ADD COLUMN checked TEXT NOT NULL DEFAULT '';",
    3: "CREATE TABLE claims (key TEXT NOT NULL, source TEXT NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL, "
       "PRIMARY KEY (key, source)); INSERT INTO claims VALUES ('k3', 's', 'host:99999999:0', 1.0);",
    4: "ALTER TABLE reservations ADD COLUMN batch INTEGER; "
       "CREATE INDEX batched ON reservations (key, source) WHERE batch IS NOT NULL; "
       "CREATE TABLE batches (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, source TEXT NOT NULL, "
       "state TEXT NOT NULL, remote_id TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, "
       "planned_at REAL NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL); "
       "INSERT INTO batches VALUES (7, 'token', 's', 'sent', 'batch_1', 1, 10, 1.0, 'host:99999999:0', 1.0); "
       "INSERT INTO reservations (key, source, model, usd, pid, batch) VALUES ('k5', 's', 'm', 0.0625, 99999999, 7);",
}  # fmt: skip


def made(path: Path, version: int) -> Path:
    """A store as a version wrote it, left by a process that was killed while this one was asking too."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(FIRST.replace("{pid}", str(os.getpid())))
        for later in range(2, version + 1):
            db.executescript(f"{LATER[later]} PRAGMA user_version={later};")
    return path


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_store_of_an_earlier_version_keeps_answers_money_and_batches(version: int, tmp_path: Path) -> None:
    path = made(tmp_path / "t.sqlite", version)
    for _ in range(2):  # also when it is opened again
        with Store(path) as store:
            found = {a.key: (a.status, a.text, a.reasons, a.cost_usd) for a in store.lookup(["k1", "k2", "k3"], "s")}
            assert found == {"k1": ("ok", "text 1", (), 0.5), "k2": ("quarantined", "text 2", ("mislabelled: x",), 0.0)}
            # The dead process's request is counted at its worst; that of the one alive, and the batch's, stay reserved.
            assert store.spent_usd() == 0.625
            assert store.ledger()["outcomes"] == {"answered": 1, "in flight at a kill": 1}
            reserved = 0.125 + (0.0625 if version == 4 else 0)
            assert store.read("SELECT value FROM totals WHERE name = 'reserved_usd'") == [(reserved,)]
            assert store.reserve([("k", "m", 1.0)], "s", 1.0 + 0.625 + reserved - 0.001) == [None]
    with Store(path) as store:
        left = BatchTable(store).take_over("s")
        assert [(batch.remote_id, list(BatchTable(store).lines(batch))) for batch in left] == (
            [("batch_1", ["k5"])] if version == 4 else []
        )
        assert store.claim(["k3", "k5"], "s") == ({"k3"} if version == 4 else {"k3", "k5"})
    with sqlite3.connect(path) as db:  # earlier versions of the project refuse it by this
        assert db.execute("PRAGMA user_version").fetchone() == (5,)


def test_a_store_that_an_earlier_version_made_can_be_read_as_it_is(tmp_path: Path) -> None:
    path = made(tmp_path / "t.sqlite", 4)
    before = path.read_bytes()
    with Store(path, read_only=True) as store:
        assert len(list(store.lookup(["k1", "k2"], "s"))) == 2 and store.batched("s") == {"k5"}
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="`iot-pipeline run` brings an older one up to date"):
        Store(made(tmp_path / "u.sqlite", 2), read_only=True)


def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with Store(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '6'")
    with pytest.raises(UserError, match=r"another version of the project \(6\)"):
        Store(path)
