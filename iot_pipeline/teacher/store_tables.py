"""Tables of the teacher's store, and how a store of an earlier version becomes one of today's without losing an answer.

Belongs here: the schema and its versions. Does not belong here: reading and writing the tables (store.py,
store_batches.py).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.database import POSTGRESQL, SETTING, Database, is_file, shown
from iot_pipeline.teacher.owners import this_host

VERSION = 5
# Sorted by code point on both, so that exports are equal to the byte.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), POSTGRESQL)
COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers only an INTEGER key by itself
REAL: sa.Double[float] = sa.Double()
metadata = sa.MetaData()


def _table(name: str, *parts: Any) -> sa.Table:
    for part in parts:
        if isinstance(part, sa.Column) and part.name != "batch":
            part.nullable = False
    return sa.Table(name, metadata, *parts)


def _columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind) for name in names]


meta = _table("meta", sa.Column("name", TEXT, primary_key=True), sa.Column("value", TEXT))
answers = _table(
    "answers", *_columns(TEXT, "key", "source", "status", "text", "finish_reason", "model", "reasons"),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"), sa.Column("cost_usd", REAL),
    sa.Column("attempts", COUNT), sa.Column("checked", TEXT), sa.PrimaryKeyConstraint("key", "source"),
)
attempts = _table(
    "attempts", sa.Column("id", COUNT, primary_key=True), *_columns(TEXT, "key", "source", "model", "outcome"),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"), sa.Column("cost_usd", REAL),
    sa.Column("cost_assumed", COUNT), sa.Column("seconds", REAL), sa.Column("at", TEXT),
)
# `batch` names the batch that a reservation is a line of; NULL: it is one request, `until` the lease of its owner.
reservations = _table(
    "reservations", sa.Column("id", COUNT, primary_key=True), *_columns(TEXT, "key", "source", "model"),
    sa.Column("usd", REAL), sa.Column("owner", TEXT), sa.Column("until", REAL), sa.Column("batch", COUNT),
)
sa.Index(
    "batched", reservations.c.key, reservations.c.source,
    sqlite_where=reservations.c.batch.is_not(None), postgresql_where=reservations.c.batch.is_not(None),
)
batches = _table(
    "batches", sa.Column("id", COUNT, primary_key=True), sa.Column("token", TEXT, unique=True),
    *_columns(TEXT, "source", "state", "remote_id"), *_columns(COUNT, "requests", "tokens"),
    sa.Column("planned_at", REAL), sa.Column("owner", TEXT), sa.Column("until", REAL),
)
claims = _table(
    "claims", *_columns(TEXT, "key", "source", "owner"), sa.Column("until", REAL),
    sa.PrimaryKeyConstraint("key", "source"),
)
totals = _table("totals", sa.Column("name", TEXT, primary_key=True), sa.Column("value", REAL))

# Files of version 1 to 4 have it in `PRAGMA user_version`; since then it is a row of `meta`.
OLD_FILES = {
    1: ("ALTER TABLE answers ADD COLUMN checked TEXT NOT NULL DEFAULT ''",),
    2: ("CREATE TABLE IF NOT EXISTS claims (key TEXT NOT NULL, source TEXT NOT NULL, owner TEXT NOT NULL, "
        "until REAL NOT NULL, PRIMARY KEY (key, source))",),
    3: ("ALTER TABLE reservations ADD COLUMN batch INTEGER",
        "CREATE INDEX IF NOT EXISTS batched ON reservations (key, source) WHERE batch IS NOT NULL",
        "CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, source TEXT NOT NULL, "
        "state TEXT NOT NULL, remote_id TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, "
        "planned_at REAL NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL)"),
    4: ("ALTER TABLE reservations ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE reservations ADD COLUMN until REAL NOT NULL DEFAULT 0",
        "UPDATE reservations SET owner = '{host}:' || pid || ':old'",
        "ALTER TABLE reservations DROP COLUMN pid"),
}  # fmt: skip


READABLE = (4, VERSION)  # the columns that are read are the same


def check_readable(database: Database) -> None:
    """Raise UserError where there is no store of a version that can be read as it is."""
    version = version_of(database)
    if version not in READABLE:
        raise UserError(
            f"{shown(database.url)} was written by another version of the project ({version}); `iot-pipeline run` "
            "brings an older one up to date."
        )


def prepare(database: Database) -> None:
    """Make the tables where there are none, bring those of an earlier version up to date.

    Raises UserError where the store was written by a newer version of the project.
    """
    if version_of(database) == VERSION:
        return
    with database.transaction() as db:
        version = version_of(database)  # another process may have been quicker
        if version not in (0, *OLD_FILES, VERSION):
            raise UserError(
                f"{shown(database.url)} was written by another version of the project ({version}); move it away, or "
                f"set {SETTING}."
            )
        if version == VERSION:
            return
        for old in range(version, VERSION) if version else ():
            for statement in OLD_FILES[old]:
                db.exec_driver_sql(statement.replace("{host}", this_host().replace("'", "")))
        if not is_file(database.url) and (found := db.scalar(sa.text("SHOW server_encoding"))) != "UTF8":
            raise UserError(f"{shown(database.url)} keeps text as {found}; make its database with ENCODING 'UTF8'.")
        metadata.create_all(db)
        zero = [{"name": "spent_usd", "value": 0.0}, {"name": "reserved_usd", "value": 0.0}]
        db.execute(database.insert(totals).on_conflict_do_nothing(), zero)
        db.execute(sa.insert(meta), {"name": "version", "value": str(VERSION)})
        if is_file(database.url):
            db.exec_driver_sql(f"PRAGMA user_version={VERSION}")  # earlier versions of the project look there


def version_of(database: Database) -> int:
    """Of the store as it is; 0 where there is none yet."""
    with database.explained("opened"):
        if sa.inspect(database.connection).has_table("meta"):
            return int(database.connection.execute(sa.select(meta.c.value).filter_by(name="version")).scalar_one())
        if is_file(database.url):
            return int(database.connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        return 0
