"""Verdicts by flow group, in SQLite: a flow seen before costs a look-up, also in later runs and other processes.

A verdict depends on the flow group alone, because all rows of a group have the same text. What else it depends on
(model, texts, thresholds, settings) is in the key under which it is stored, so a new model never answers with verdicts
of an older one. A verdict may lack its explanation; one that is stored again replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from iot_pipeline.errors import UserError
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.serving.classifier import LEVEL, Classifier, Verdict
from iot_pipeline.teacher.store.database import use_wal

FORM = 1  # of the file; another one is refused
MOST_VERDICTS = 1_000_000  # kept in a file; beyond them the oldest go
AT_ONCE = 500  # groups of one query
WAIT_S = 60.0  # for another process that writes
TABLES = (
    "CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE)",
    """CREATE TABLE IF NOT EXISTS verdicts (
        id INTEGER PRIMARY KEY AUTOINCREMENT, model INTEGER NOT NULL, flow_group BLOB NOT NULL, verdict BLOB NOT NULL,
        UNIQUE (model, flow_group))""",
)
VERDICT = TypeAdapter(Verdict)


def cache_key(classifier: Classifier) -> str:
    """Return the digest of all that a verdict depends on besides its flow group."""
    settings = classifier.settings
    parts = {
        "model": classifier.origin.made_of,
        "lake": classifier.origin.lake,
        "classes": classifier.spec.classes,
        "serialisation": classifier.writer.serialisation,
        "engine": classifier.student.name,
        "fitted": classifier.fitted,
        "alarm": classifier.alarm,
        "level": LEVEL,
        "decoding": settings.serving.decoding,
        "explanations": [settings.teacher.facts, settings.teacher.explanation_words, settings.student.tasks],
        "code": code_version("iot_pipeline.serving.classifier"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class VerdictCache:
    """Verdicts of one classifier in a file that others share.

    `most`: verdicts that the file keeps, of all classifiers together; the oldest go first. Raises UserError if the file
    is no such cache or cannot be written.
    """

    def __init__(self, path: Path, key: str, most: int = MOST_VERDICTS) -> None:
        self.path, self.most = path, most
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            with self._transaction():
                self._begin()
            use_wal(self._base)
            # After a power cut the last verdicts may be missing, and nothing else.
            self._base.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                self._base.execute("INSERT OR IGNORE INTO models (key) VALUES (?)", (key,))
            (self._model,) = self._base.execute("SELECT id FROM models WHERE key = ?", (key,)).fetchone()

    def _begin(self) -> None:
        """Make the tables of a new file; UserError for a database that is no such cache."""
        (form,) = self._base.execute("PRAGMA user_version").fetchone()
        (tables,) = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if form == 0 and tables:
            raise UserError(f"{self.path} is another database, and no cache of verdicts: name another file")
        if form not in (0, FORM):
            raise UserError(
                f"{self.path} is a cache of another version of the project: remove it, or name another file"
            )
        for statement in TABLES:
            self._base.execute(statement)
        self._base.execute(f"PRAGMA user_version = {FORM}")

    def get(self, groups: Sequence[str]) -> dict[str, Verdict]:
        """Return the verdicts on those of the flow groups (64 hex digits) that are known."""
        wanted = list(dict.fromkeys(groups))
        found: dict[str, Verdict] = {}
        with self._told():
            for first in range(0, len(wanted), AT_ONCE):
                part = [bytes.fromhex(group) for group in wanted[first : first + AT_ONCE]]
                rows = self._base.execute(
                    f"SELECT flow_group, verdict FROM verdicts WHERE model = ? AND flow_group IN "
                    f"({', '.join('?' * len(part))})",
                    (self._model, *part),
                ).fetchall()
                found |= {group.hex(): VERDICT.validate_json(verdict) for group, verdict in rows}
        return found

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Store verdicts by flow group, all of them or none; they replace those that are there."""
        rows = [(VERDICT.dump_json(verdict), self._model, bytes.fromhex(group)) for group, verdict in verdicts.items()]
        if not rows:
            return
        with self._told(), self._transaction():
            # Two statements: an upsert takes a new id for a row that stays, and then `max(id)` tells no number of rows.
            self._base.executemany("UPDATE verdicts SET verdict = ?1 WHERE model = ?2 AND flow_group = ?3", rows)
            self._base.executemany(
                "INSERT INTO verdicts (verdict, model, flow_group) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
                "(SELECT 1 FROM verdicts WHERE model = ?2 AND flow_group = ?3)",
                rows,
            )
            # Ids count up without a gap, so the number kept is `most`.
            self._base.execute("DELETE FROM verdicts WHERE id <= (SELECT max(id) FROM verdicts) - ?", (self.most,))

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, or undo everything on an error."""
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:
            self._base.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the file into one sentence."""
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UserError(
                f"the cache of verdicts {self.path} cannot be used ({error}): remove it, or name another file"
            ) from error
