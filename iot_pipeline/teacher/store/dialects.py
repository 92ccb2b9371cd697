"""Database dialects of the teacher's store: what each needs beyond plain SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

SQLITE, POSTGRESQL, MYSQL = "sqlite", "postgresql", "mysql"
# SQLAlchemy's own choice of driver where a URL names none: said here, so that it stays.
DRIVERS = {
    "sqlite+pysqlite": "sqlite",
    POSTGRESQL: "postgresql+psycopg2",
    MYSQL: "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
EXTRAS = {"psycopg2": "postgres", "pymysql": "mysql"}  # which of the project's extras brings a driver

# A row that is there as long as the store is. Written as it is, it makes a second writer wait for the end of the first
# in every database that has transactions.
_META = sa.table("meta", sa.column("name"), sa.column("value"))
LOCK_ROW = sa.update(_META).where(_META.c.name == "version").values(value=_META.c.value)
_LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(20270711, hashtext(current_schema()))"


@dataclass(frozen=True)
class Dialect:
    """The ways of one database; the defaults are those of any other that has transactions.

    connect, engine: arguments of the driver and of create_engine; prepare: first statements of each connection, which
    read_only joins where nothing is to be written. lock: what makes a transaction that writes wait for the one before.
    insert: an INSERT that can replace a row that is there. clock: seconds since 1970 (none: CURRENT_TIMESTAMP serves).
    begin: begins a transaction and takes the lock; where it is given, statements are compiled once and handed to the
    driver by us, which takes half the time. Else the driver begins transactions by itself, as PEP 249 has it.
    """

    connect: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    prepare: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    lock: sa.Executable = LOCK_ROW
    insert: Callable[[sa.Table], Any] | None = None
    clock: str = ""
    begin: str = ""


# A machine that vanishes within a transaction must not lock the others out until TCP notices: PostgreSQL and MySQL end
# it after half a minute.
_POSTGRESQL = Dialect(
    prepare=("SET idle_in_transaction_session_timeout = '30s'", "SET lock_timeout = '60s'"),
    read_only=("SET default_transaction_read_only = on",),
    lock=sa.text(_LOCK_SCHEMA),
    insert=postgresql.insert,
    clock="SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
)
# Without strict mode a text that is too long is cut off in silence. `wait_timeout` ends every idle connection; the next
# use makes it anew.
_MYSQL = Dialect(
    prepare=(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', wait_timeout = 30, "
        "innodb_lock_wait_timeout = 60, lock_wait_timeout = 60",
    ),
    read_only=("SET SESSION TRANSACTION READ ONLY",),
    clock="SELECT UNIX_TIMESTAMP(NOW(6))",
)
# By driver, else by database.
DIALECTS = {
    # What was committed to a SQLite file outlives kill -9. Its lock is that of the file; its clock is ours.
    SQLITE: Dialect(
        connect={"timeout": 30, "check_same_thread": False}, engine={"paramstyle": "named"},
        prepare=("PRAGMA synchronous=NORMAL",), read_only=("PRAGMA query_only=ON",), insert=sqlite.insert,
        begin="BEGIN IMMEDIATE",
    ),
    "postgresql+psycopg2": replace(
        _POSTGRESQL, connect={"connect_timeout": 10, "keepalives_idle": 30, "application_name": "iot-pipeline"},
        engine={"executemany_mode": "values_plus_batch"}, begin=f"BEGIN; {_LOCK_SCHEMA}",
    ),
    POSTGRESQL: _POSTGRESQL,
    "mysql+pymysql": replace(
        _MYSQL,
        connect={"connect_timeout": 10, "read_timeout": 120, "write_timeout": 120, "charset": "utf8mb4"},
    ),
    MYSQL: _MYSQL,
}  # fmt: skip


def dialect_of(url: sa.URL) -> Dialect:
    """The ways of the database at `url`."""
    return DIALECTS.get(url.drivername) or DIALECTS.get(url.get_backend_name()) or Dialect()


def with_driver(url: sa.URL) -> sa.URL:
    """The URL with the driver named. MariaDB is reached as MySQL is: SQLAlchemy tells the servers apart."""
    name = DRIVERS.get(url.drivername, url.drivername)
    return url.set(drivername=name.replace("mariadb+", "mysql+", 1))
