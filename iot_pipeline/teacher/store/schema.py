"""Tables of the teacher's store, how they are made, and the check of their version."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.database import SETTING, Database, is_file, shown

VERSION = "5"
# Sorted by code point in both databases, so that exports are equal to the byte.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers only an INTEGER key by itself
REAL: sa.Double[float] = sa.Double()
metadata = sa.MetaData()


def _columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _id() -> sa.Column[Any]:
    return sa.Column("id", COUNT, primary_key=True)


meta = sa.Table("meta", metadata, sa.Column("name", TEXT, primary_key=True), *_columns(TEXT, "value"))
totals = sa.Table("totals", metadata, sa.Column("name", TEXT, primary_key=True), *_columns(REAL, "value"))
answers = sa.Table(
    "answers",
    metadata,
    *_columns(TEXT, "key", "source", "status", "text", "finish_reason", "model", "reasons"),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"),
    *_columns(REAL, "cost_usd"),
    *_columns(COUNT, "attempts"),
    *_columns(TEXT, "checked"),
    sa.PrimaryKeyConstraint("key", "source"),
)
attempts = sa.Table(
    "attempts",
    metadata,
    _id(),
    *_columns(TEXT, "key", "source", "model", "outcome"),
    *_columns(COUNT, "prompt_tokens", "cached_tokens", "completion_tokens"),
    *_columns(REAL, "cost_usd"),
    *_columns(COUNT, "cost_assumed"),
    *_columns(REAL, "seconds"),
    *_columns(TEXT, "at"),
)
# `batch` names the batch that a reservation is a line of; NULL: it is one request, `until` the lease of its owner.
reservations = sa.Table(
    "reservations",
    metadata,
    _id(),
    *_columns(TEXT, "key", "source", "model"),
    *_columns(REAL, "usd"),
    *_columns(TEXT, "owner"),
    *_columns(REAL, "until"),
    sa.Column("batch", COUNT),
)
_in_batch = reservations.c.batch.is_not(None)
sa.Index("batched", reservations.c.key, reservations.c.source, sqlite_where=_in_batch, postgresql_where=_in_batch)
batches = sa.Table(
    "batches",
    metadata,
    _id(),
    sa.Column("token", TEXT, unique=True, nullable=False),
    *_columns(TEXT, "source", "state", "remote_id"),
    *_columns(COUNT, "requests", "tokens"),
    *_columns(REAL, "planned_at"),
    *_columns(TEXT, "owner"),
    *_columns(REAL, "until"),
)
claims = sa.Table(
    "claims",
    metadata,
    *_columns(TEXT, "key", "source", "owner"),
    *_columns(REAL, "until"),
    sa.PrimaryKeyConstraint("key", "source"),
)
# A text that many requests share is kept once, under a digest of it; `content` is JSON with digests in place of texts.
request_texts = sa.Table("request_texts", metadata, sa.Column("id", TEXT, primary_key=True), *_columns(TEXT, "text"))
requests = sa.Table("requests", metadata, sa.Column("key", TEXT, primary_key=True), *_columns(TEXT, "content"))
ADDED = (request_texts, requests)  # the first stores of this version lack these two; nothing else in them differs


@cache
def upsert(dialect: str, table: sa.Table, where: Any = None) -> sa.Executable:
    """Build an INSERT of whole rows that replaces a row of the same primary key, where `where` holds of it."""
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    new = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=new, where=where)


def is_made(database: Database) -> bool:
    """Return True for a store with tables, False where there are none. Raises UserError for another version's."""
    with database.explained("opened"):
        there = table_names(database)
        if answers.name not in there:
            return False
        rows = database.read(sa.select(meta.c.value).filter_by(name="version")) if meta.name in there else []
    version = rows[0][0] if rows else "1 to 4"
    if missing := sorted(metadata.tables.keys() - there - {table.name for table in ADDED}):
        version += f", without {', '.join(missing)}"
    if version != VERSION:
        raise UserError(
            f"{shown(database.url)} was written by another version of the project ({version}), which this one cannot "
            f"read; name a new store in {SETTING}, or run that version."
        )
    return True


def table_names(database: Database) -> set[str]:
    """List the tables of a store."""
    return set(sa.inspect(database.connection).get_table_names())


def make_tables(database: Database) -> None:
    """Make the tables of a store that are missing; another process may be doing it at this moment."""
    made = is_made(database)
    if made and {table.name for table in ADDED} <= table_names(database):
        return
    if not is_file(database.url) and (encoding := database.read("SHOW server_encoding")[0][0]) != "UTF8":
        raise UserError(f"{shown(database.url)} keeps text as {encoding}; make its database with ENCODING 'UTF8'.")
    with database.transaction() as db:
        made = is_made(database)
        metadata.create_all(db)
        if not made:
            db.execute(sa.insert(meta), {"name": "version", "value": VERSION})
            db.execute(sa.insert(totals), [{"name": name, "value": 0.0} for name in ("spent_usd", "reserved_usd")])
