"""Connections to the teacher's store: a SQLite file, or a PostgreSQL server that several machines share."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from iot_pipeline.env_file import expanded
from iot_pipeline.errors import UserError

Location = Path | str | sa.URL
SETTING = "IOT_TEACHER_STORE"
SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg2"
DRIVERS = {SQLITE: SQLITE, "sqlite+pysqlite": SQLITE, "postgresql": POSTGRESQL, POSTGRESQL: POSTGRESQL}
USER_AND_PASSWORD = re.compile(r"[^/:]+:[^/@]*@")  # in a path: a URL that lacks its ://
NOT_A_URL = (
    f"{SETTING} is no URL of a database (postgresql://user:password@host:5432/name; characters like @ / : in a "
    "password are written as %40 %2F %3A)."
)
WAL_TRIES = 200  # 10 s
CLOCK = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
CLOCK_S, STEP_S = 5.0, 1.0

CONNECT_ARGS: dict[str, dict[str, Any]] = {
    SQLITE: {"timeout": 30, "check_same_thread": False},
    # A server that vanished is noticed after a minute, whether an answer is awaited or a statement not yet received:
    # by default it takes a quarter of an hour, in which no lease is renewed.
    POSTGRESQL: {
        "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
        "tcp_user_timeout": 60_000, "application_name": "iot-pipeline",
    },
}  # fmt: skip
# By default psycopg2 sends the rows of an UPDATE or DELETE one by one.
ENGINE_ARGS = {SQLITE: {}, POSTGRESQL: {"executemany_mode": "values_plus_batch"}}
# A committed transaction in a SQLite file outlives kill -9. PostgreSQL ends the transaction of a machine that vanished
# within it after half a minute; TCP would keep the others waiting for much longer.
SESSION = {
    SQLITE: ["PRAGMA synchronous=NORMAL"],
    POSTGRESQL: ["SET idle_in_transaction_session_timeout = '30s'", "SET lock_timeout = '60s'"],
}
READ_ONLY = {SQLITE: "PRAGMA query_only=ON", POSTGRESQL: "SET default_transaction_read_only = on"}
# One writer at a time.
BEGIN = {
    SQLITE: "BEGIN IMMEDIATE",
    POSTGRESQL: "BEGIN; SELECT pg_advisory_xact_lock(20270711, hashtext(current_schema()))",
}


def store_url(location: Location) -> sa.URL:
    """Parse the location of a store. Raises UserError, which never repeats a URL, where no store can be."""
    if isinstance(location, str) and "://" not in location:
        if USER_AND_PASSWORD.search(location):
            raise UserError(NOT_A_URL)
        location = Path(location)
    if isinstance(location, Path):
        return sa.URL.create(SQLITE, database=str(expanded(location).absolute()))
    try:
        url = sa.make_url(location)
    except (ArgumentError, ValueError):  # both repeat parts of it
        raise UserError(NOT_A_URL) from None
    if url.drivername not in DRIVERS:
        raise UserError(
            f"{SETTING}: a store cannot be in {url.drivername}; SQLite (a path) and PostgreSQL "
            "(postgresql://USER@HOST/DATABASE, pip install 'iot-pipeline[postgres]') are supported."
        )
    url = url.set(drivername=DRIVERS[url.drivername])
    if {"password", "passwd", "pwd"} & {name.lower() for name in url.query}:
        raise UserError(f"{SETTING}: give the password as user:password@host or in PGPASSWORD, not after the `?`.")
    if is_file(url):
        if url.database in (None, "", ":memory:"):
            raise UserError(f"{SETTING}: a SQLite store needs a file: sqlite:////folder/teacher.sqlite.")
        return url.set(database=str(expanded(Path(str(url.database))).absolute()))
    return url


def is_file(url: sa.URL) -> bool:
    """Return True for a store in a file of this machine, False for one on a server."""
    return url.drivername == SQLITE


def shown(location: Location) -> str:
    """Name a store to people: its file, or its URL without the password."""
    url = store_url(location)
    if is_file(url):
        return str(url.database)
    place = {name: value for name, value in url.query.items() if name in ("host", "port")}
    return url.set(query=place).render_as_string(hide_password=True)


class Database:
    """One connection; open one per thread and process. Raises UserError where there is no way to connect."""

    def __init__(self, location: Location, read_only: bool = False) -> None:
        self.url, self._read_only, self._writing = store_url(location), read_only, False
        kind = self.url.drivername
        arguments = {name: value for name, value in CONNECT_ARGS[kind].items() if name not in self.url.query}
        with self.explained("opened"):
            if is_file(self.url) and not read_only:
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            # A read needs no transaction; one that writes begins and ends by statements of its own.
            self._engine = sa.create_engine(
                self._existing_file() if is_file(self.url) and read_only else self.url,
                isolation_level="AUTOCOMMIT",
                poolclass=NullPool,
                hide_parameters=True,
                connect_args=arguments,
                **ENGINE_ARGS[kind],
            )
            sa.event.listen(self._engine, "connect", self._prepare_session)
            self.connection = self._engine.connect()
        self._told = 0.0, 0.0, float("-inf")  # the server's time, and this machine's two clocks when it was told

    def __str__(self) -> str:
        return f"the teacher's store {shown(self.url)}"

    def close(self) -> None:
        """Close the connection; the last one to a SQLite file folds the write-ahead log in."""
        self.connection.close()
        self._engine.dispose()

    def now(self) -> float:
        """Return the seconds since 1970 by the clock that all users of this database share.

        A server is asked every CLOCK_S, and at once where this machine slept or its clock was set.
        """
        if is_file(self.url):
            return time.time()
        told, wall, steady = self._told
        passed = time.monotonic() - steady
        if passed > CLOCK_S or abs(time.time() - wall - passed) > STEP_S:
            told, passed = float(self.read(CLOCK)[0][0]), 0.0
            self._told = told, time.time(), time.monotonic()
        return told + passed

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run a transaction, one writer at a time; UserError where the store cannot be written."""
        if self._read_only:
            raise UserError(f"{self} cannot be written: it was opened to be read.")
        with self.explained("written"):
            try:
                self._begin()
                self._writing = True
                yield self.connection
                self.connection.exec_driver_sql("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writing = False

    def _begin(self) -> None:
        begin = BEGIN[self.url.drivername]
        try:
            self.connection.exec_driver_sql(begin)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self._roll_back()
            self.connection.exec_driver_sql(begin)  # a connection that broke while it was idle is made anew, once

    def _roll_back(self) -> None:
        with contextlib.suppress(SQLAlchemyError):  # a full disk ends a transaction by itself
            self.connection.exec_driver_sql("ROLLBACK")
        with contextlib.suppress(SQLAlchemyError):
            self.connection.rollback()  # lets SQLAlchemy connect anew where the connection broke

    def read(self, query: sa.Executable | str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Fetch the rows of a query (SQL as text: with `:name` for values)."""
        query = sa.text(query) if isinstance(query, str) else query
        with self.explained("read"):
            try:
                return self.connection.execute(query, values).fetchall()
            except DBAPIError as error:
                if self._writing or not error.connection_invalidated:
                    raise
                self._roll_back()
                return self.connection.execute(query, values).fetchall()  # once, as `_begin`

    def _prepare_session(self, driver: Any, record: object) -> None:
        cursor = driver.cursor()
        if is_file(self.url) and not self._read_only:
            use_wal(cursor)
        kind = self.url.drivername
        for statement in SESSION[kind] + ([READ_ONLY[kind]] if self._read_only else []):
            cursor.execute(statement)
        cursor.close()

    def _existing_file(self) -> sa.URL:
        """Build the URL that opens a SQLite file and never makes one.

        Not `mode=ro` where the folder can be written: a write-ahead log may have to be. Where it cannot and there is no
        such log, `immutable` keeps SQLite from making one; with a log beside it, it is read as it lies.
        """
        path = Path(str(self.url.database))
        options = {"mode": "rw"}
        if path.exists() and not all(os.access(place, os.W_OK) for place in (path, path.parent)):
            log = path.with_name(f"{path.name}-wal")
            options = {"mode": "ro"} | ({} if log.exists() and log.stat().st_size else {"immutable": "1"})
        return self.url.set(database=path.as_uri(), query={**options, "uri": "true"})

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Raise errors of the database as UserError, which says that the store cannot be `done`."""
        try:
            yield
        except ImportError as error:
            raise UserError(
                f"{self} needs the driver {error.name}, which is not installed: pip install 'iot-pipeline[postgres]' "
                f"(or unset {SETTING})."
            ) from error
        except (OSError, SQLAlchemyError) as error:
            advice = (
                f"{SETTING} names it."
                if done == "opened"
                else "Answers until then are kept; make room or mend permissions or connection, and start again."
            )
            raise UserError(f"{self} cannot be {done}: {self._reason(error)}. {advice}") from error

    def _reason(self, error: BaseException) -> str:
        """Quote the driver's error in one line, without the password; SQLAlchemy's repeats the whole statement."""
        cause = error.orig or error if isinstance(error, DBAPIError) else error
        words = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
        return words.replace(str(self.url.password), "***") if self.url.password else words


def use_wal(cursor: Any) -> None:
    """Switch to WAL. SQLite's busy timeout does not cover this one step, so two first openers would collide."""
    for _ in range(WAL_TRIES - 1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(0.05)
    cursor.execute("PRAGMA journal_mode=WAL")
