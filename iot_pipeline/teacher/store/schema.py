"""Tables of the teacher's store, and the migration of older stores, which loses no answer."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.database import SETTING, Database, is_file, shown
from iot_pipeline.teacher.store.dialects import MYSQL, POSTGRESQL, SQLITE
from iot_pipeline.teacher.store.leases import this_host

VERSION = 5
# Sorted by code point everywhere, so that exports are equal to the byte. SQLite and PostgreSQL take any text as a key;
# elsewhere, what is looked for is a WORD, and what has no limit a TEXT.
_C = sa.Text(collation="C")
WORD = sa.Unicode(255).with_variant(sa.Text(), SQLITE).with_variant(_C, POSTGRESQL)
TEXT = (
    sa.UnicodeText().with_variant(sa.Text(), SQLITE).with_variant(_C, POSTGRESQL)
    .with_variant(mysql.LONGTEXT(), MYSQL)
)  # fmt: skip
COUNT = sa.BigInteger().with_variant(sa.Integer, SQLITE)  # SQLite numbers only an INTEGER key by itself
REAL: sa.DOUBLE_PRECISION[float] = sa.DOUBLE_PRECISION()  # the name that SQL gives it
metadata = sa.MetaData()


def _table(name: str, *parts: Any) -> sa.Table:
    for part in parts:
        if isinstance(part, sa.Column) and part.name != "batch":
            part.nullable = False
    return sa.Table(name, metadata, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


def _columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind) for name in names]


meta = _table("meta", sa.Column("name", WORD, primary_key=True), sa.Column("value", WORD))
answers = _table(
    "answers",
    *_columns(WORD, "key", "source", "status"),
    *_columns(TEXT, "text", "finish_reason", "model", "reasons"),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"),
    sa.Column("cost_usd", REAL),
    sa.Column("attempts", COUNT),
    sa.Column("checked", TEXT),
    sa.PrimaryKeyConstraint("key", "source"),
)
attempts = _table(
    "attempts",
    sa.Column("id", COUNT, primary_key=True),
    *_columns(WORD, "key", "source"),
    sa.Column("model", TEXT),
    sa.Column("outcome", WORD),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"),
    sa.Column("cost_usd", REAL),
    sa.Column("cost_assumed", COUNT),
    sa.Column("seconds", REAL),
    sa.Column("at", WORD),
)
# `batch` names the batch that a reservation is a line of; NULL: it is one request, `until` the lease of its owner.
reservations = _table(
    "reservations",
    sa.Column("id", COUNT, primary_key=True),
    *_columns(WORD, "key", "source"),
    sa.Column("model", TEXT),
    sa.Column("usd", REAL),
    sa.Column("owner", WORD),
    sa.Column("until", REAL),
    sa.Column("batch", COUNT),
)
sa.Index(
    "batched",
    reservations.c.key,
    reservations.c.source,
    sqlite_where=reservations.c.batch.is_not(None),
    postgresql_where=reservations.c.batch.is_not(None),
)
batches = _table(
    "batches",
    sa.Column("id", COUNT, primary_key=True),
    sa.Column("token", WORD, unique=True),
    *_columns(WORD, "source", "state"),
    sa.Column("remote_id", TEXT),
    *_columns(COUNT, "requests", "tokens"),
    sa.Column("planned_at", REAL),
    sa.Column("owner", WORD),
    sa.Column("until", REAL),
)
claims = _table(
    "claims",
    *_columns(WORD, "key", "source", "owner"),
    sa.Column("until", REAL),
    sa.PrimaryKeyConstraint("key", "source"),
)
totals = _table("totals", sa.Column("name", WORD, primary_key=True), sa.Column("value", REAL))

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

    Many databases commit each table as it is made, so the version, which makes a store of them, is written last. Raises
    UserError where the store was written by a newer version of the project, or the database cannot keep one.
    """
    version = version_of(database)
    if version == VERSION:
        return
    if version not in (0, *OLD_FILES):
        raise UserError(
            f"{shown(database.url)} was written by another version of the project ({version}); move it away, or "
            f"set {SETTING}."
        )
    if not version:
        _make_tables(database)
    try:
        with database.transaction() as db:
            _bring_up_to_date(database, db)
    except UserError:  # no two write a version: another process may have been quicker
        if version_of(database) != VERSION:
            raise


def _make_tables(database: Database) -> None:
    if database.url.get_backend_name() == POSTGRESQL:
        found = database.read("SHOW server_encoding")[0][0]
        if found != "UTF8":
            raise UserError(f"{shown(database.url)} keeps text as {found}; make its database with ENCODING 'UTF8'.")
    for table in metadata.sorted_tables:
        database.make(table)
        for index in table.indexes:  # a process may have been killed between the two
            database.make(index)
    if not is_file(database.url):
        _check_that_it_keeps_and_undoes(database)


class _Undone(Exception):
    """Ends a transaction that is to leave nothing behind."""


def _check_that_it_keeps_and_undoes(database: Database) -> None:
    """Raise UserError where texts change on their way, or where what was not committed stays."""
    row, query = {"name": f"probe {uuid.uuid4().hex}"}, sa.select(meta.c.value)
    for text in ("", "tab\t\\ 'ü' € \U0001f600 ."):
        try:
            with database.transaction() as db:
                db.execute(sa.insert(meta), row | {"value": text})
                kept = db.scalar(query.filter_by(**row))
                raise _Undone
        except UserError as error:
            raise UserError(f"{error} It must keep every text: {text!r} was tried.") from error
        except _Undone:
            if kept != text:
                raise UserError(f"{shown(database.url)} can be no store: the text {text!r} became {kept!r}.") from None
        if database.read(query.filter_by(**row)):
            raise UserError(f"{shown(database.url)} can be no store: its tables know no transactions.")


def _bring_up_to_date(database: Database, db: sa.Connection) -> None:
    version = version_of(database)
    if version == VERSION:  # another process was quicker
        return
    for old in range(version, VERSION) if version else ():
        for statement in OLD_FILES[old]:
            db.exec_driver_sql(statement.replace("{host}", this_host().replace("'", "")))
    if is_file(database.url):
        metadata.create_all(db)  # what no earlier version had
        db.exec_driver_sql(f"PRAGMA user_version={VERSION}")  # earlier versions of the project look there
    db.execute(sa.insert(meta), {"name": "version", "value": str(VERSION)})
    there = set(db.scalars(sa.select(totals.c.name)))
    if zero := [{"name": name, "value": 0.0} for name in ("spent_usd", "reserved_usd") if name not in there]:
        db.execute(sa.insert(totals), zero)


def version_of(database: Database) -> int:
    """Of the store as it is; 0 where there is none yet, or one that is being made."""
    with database.explained("opened"):
        if database.has(meta) and (found := database.read(sa.select(meta.c.value).filter_by(name="version"))):
            return int(found[0][0])
        return int(database.read("PRAGMA user_version")[0][0]) if is_file(database.url) else 0
