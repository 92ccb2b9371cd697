"""The database behind the teacher's store: a SQLite file, or PostgreSQL where several machines share one.

Belongs here: its name, connections, transactions, errors told without secrets, what differs between the two. Does not
belong here: what is kept in it (store_tables.py, store.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from iot_pipeline.errors import UserError

Location = Path | str | sa.URL
SETTING = "IOT_TEACHER_STORE"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
DRIVERS = {
    "sqlite": "sqlite", "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg2", "postgresql+psycopg2": "postgresql+psycopg2",
}
INSERT = {SQLITE: sqlite.insert, POSTGRESQL: postgresql.insert}
# Writers wait for each other instead of failing half way: SQLite's lock of the file, a lock of the schema in PostgreSQL
# (no lock of a row would hold while the tables are made).
BEGIN = {
    SQLITE: "BEGIN IMMEDIATE",
    POSTGRESQL: "BEGIN; SELECT pg_advisory_xact_lock(20270711, hashtext(current_schema()))",
}
READ_ONLY = {SQLITE: "PRAGMA query_only=ON", POSTGRESQL: "SET default_transaction_read_only = on"}
# Of each new connection. What was committed to a SQLite file outlives kill -9. A machine that vanishes within a
# transaction must not lock the others out until TCP notices: PostgreSQL ends it after half a minute.
PREPARE = {
    SQLITE: ("PRAGMA synchronous=NORMAL",),
    POSTGRESQL: ("SET idle_in_transaction_session_timeout = '30s'", "SET lock_timeout = '60s'"),
}
CONNECT: dict[str, dict[str, Any]] = {
    SQLITE: {"timeout": 30, "check_same_thread": False},
    POSTGRESQL: {"connect_timeout": 10, "keepalives_idle": 30, "application_name": "iot-pipeline"},
}
ENGINE: dict[str, dict[str, Any]] = {
    SQLITE: {"paramstyle": "named"}, POSTGRESQL: {"executemany_mode": "values_plus_batch"},
}
WAL_TRIES = 200  # 10 s


def store_url(location: Location) -> sa.URL:
    """The SQLAlchemy URL of a path or URL. UserError, which never repeats a URL, where no store can be there."""
    if isinstance(location, Path) or (isinstance(location, str) and "://" not in location):
        return sa.URL.create(SQLITE, database=str(Path(location).expanduser().absolute()))
    try:
        url = sa.make_url(location)
    except (ArgumentError, ValueError):  # both repeat parts of it
        raise UserError(
            f"{SETTING} is no URL of a database (postgresql+psycopg2://user:password@host:5432/name; signs like @ / : "
            "in a password are written as %40 %2F %3A)."
        ) from None
    if url.drivername not in DRIVERS:
        raise UserError(
            f"{SETTING}: a store cannot be in {url.drivername}; give a path, sqlite:///FILE or "
            "postgresql+psycopg2://USER@HOST/DATABASE (needs pip install 'iot-pipeline[postgres]')."
        )
    if "password" in url.query:
        raise UserError(f"{SETTING}: give the password as user:password@host (or in PGPASSWORD), not after the `?`.")
    url = url.set(drivername=DRIVERS[url.drivername])
    if is_file(url):
        if url.database in (None, "", ":memory:"):
            raise UserError(f"{SETTING}: a SQLite store needs a file: sqlite:////folder/teacher.sqlite.")
        return url.set(database=str(Path(str(url.database)).expanduser().absolute()))
    return url


def is_file(url: sa.URL) -> bool:
    """Whether a store is a file of this machine."""
    return url.get_backend_name() == SQLITE


def shown(location: Location) -> str:
    """How a store is named to people: its file, or its URL without the password."""
    url = store_url(location)
    if is_file(url):
        return str(url.database)
    place = {name: value for name, value in url.query.items() if name in ("host", "port")}
    return url.set(query=place).render_as_string(hide_password=True)


class Database:
    """One connection; open one per thread and process. Raises UserError where there is no way to connect."""

    def __init__(self, location: Location, read_only: bool = False) -> None:
        self.url, self._read_only = store_url(location), read_only
        self.kind = self.url.get_backend_name()
        wanted = {name: value for name, value in CONNECT[self.kind].items() if name not in self.url.query}
        with self.explained("opened"):
            if is_file(self.url) and not read_only:
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(
                self._of_what_is_there() if read_only else self.url, poolclass=NullPool, hide_parameters=True,
                isolation_level="AUTOCOMMIT", connect_args=wanted, **ENGINE[self.kind],
            )
            self.errors = (DBAPIError, self._engine.dialect.loaded_dbapi.Error)
            sa.event.listen(self._engine, "connect", self._prepare)
            # Transactions are begun and ended by us (see `transaction`): the driver and SQLAlchemy begin none.
            self.connection = self._engine.connect()
        self._compiled: dict[sa.Executable, tuple[str, dict[str, Any]]] = {}
        self._clock_ahead_s = 0.0 if is_file(self.url) else self._clock() - time.time()

    def __str__(self) -> str:
        return f"the teacher's store {shown(self.url)}"

    def close(self) -> None:
        """Close the connection; the last one to a SQLite file folds the write-ahead log in."""
        self.connection.close()
        self._engine.dispose()

    def now(self) -> float:
        """Seconds since 1970 by the clock that all users of this database share."""
        return time.time() + self._clock_ahead_s

    def insert(self, table: sa.Table) -> Any:
        """The dialect's INSERT, which knows what to do about a row that is there already."""
        return INSERT[self.kind](table)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Read and write as one step, one writer at a time; UserError where the store cannot be written."""
        try:
            self._begin()
            try:
                yield self.connection
                self._run("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        except (SQLAlchemyError, *self.errors) as error:
            raise self._explain(error, "written") from error

    def read(self, query: sa.Executable | str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """The rows of a query (SQL as text: with `:name` for values)."""
        query = sa.text(query) if isinstance(query, str) else query
        with self.explained("read"):
            try:
                return self.connection.execute(query, values).fetchall()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                self._roll_back()  # what broke while it was idle is connected anew, once
                return self.connection.execute(query, values).fetchall()

    def quick(self, statement: sa.Executable, values: dict[str, Any]) -> list[Any]:
        """The rows of a statement, compiled once and handed to the driver: what is done once a request takes half the
        time. Names of `values` are the same in every call. Within a transaction only.
        """
        text, fixed = self._compile(statement, values)
        return self._run(text, fixed | values if fixed else values)

    def each(self, statement: sa.Executable, rows: Sequence[dict[str, Any]]) -> None:
        """A statement without result, once for each row, as `quick` does it."""
        if not rows:
            return
        text, fixed = self._compile(statement, rows[0])
        with contextlib.closing(self._driver().cursor()) as cursor:
            self._engine.dialect.do_executemany(cursor, text, [fixed | row for row in rows] if fixed else rows)

    def _compile(self, statement: sa.Executable, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Its text for the driver, and the values that are part of the statement itself."""
        if statement not in self._compiled:
            compiled = statement.compile(dialect=self._engine.dialect, column_keys=list(values))  # type: ignore[attr-defined]
            fixed = {name: value for name, value in compiled.params.items() if name not in values}
            self._compiled[statement] = str(compiled), fixed
        return self._compiled[statement]

    def _driver(self) -> Any:
        return self.connection.connection.driver_connection

    def _run(self, text: str, values: dict[str, Any] | None = None) -> list[Any]:
        with contextlib.closing(self._driver().cursor()) as cursor:
            cursor.execute(text, *([values] if values else []))
            return list(cursor.fetchall()) if cursor.description else []

    def _begin(self) -> None:
        try:
            self._run(BEGIN[self.kind])
        except self.errors as error:
            if not self._lost(error):
                raise
            self._run(BEGIN[self.kind])

    def _lost(self, error: BaseException) -> bool:
        """Whether an error of the driver means that the connection broke; it is then made anew by the next use."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        driver = self.connection.connection.dbapi_connection
        if not self._engine.dialect.is_disconnect(cause, driver, None):  # type: ignore[arg-type]
            return False
        self.connection.invalidate()
        self.connection.rollback()
        return True

    def _roll_back(self) -> None:
        if self.connection.invalidated:  # there is nothing to undo; this lets SQLAlchemy connect anew
            self.connection.rollback()
            return
        with contextlib.suppress(*self.errors):  # a full disk ends a transaction by itself
            self._run("ROLLBACK")

    def _clock(self) -> float:
        return float(self.read("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")[0][0])

    def _prepare(self, driver: Any, record: object) -> None:
        cursor = driver.cursor()
        if is_file(self.url) and not self._read_only:
            _use_wal(cursor)
        for statement in (*PREPARE[self.kind], *([READ_ONLY[self.kind]] if self._read_only else [])):
            cursor.execute(statement)
        cursor.close()

    def _of_what_is_there(self) -> sa.URL:
        """The URL by which a SQLite file is opened and never made. Not `mode=ro`: a write-ahead log may have to be."""
        if not is_file(self.url):
            return self.url
        return self.url.set(database=Path(str(self.url.database)).as_uri(), query={"mode": "rw", "uri": "true"})

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Errors of the database and its driver as UserError; `done` is what it could not be."""
        try:
            yield
        except (ModuleNotFoundError, OSError, SQLAlchemyError, *getattr(self, "errors", ())) as error:
            raise self._explain(error, done) from error

    def _explain(self, error: BaseException, done: str) -> UserError:
        if isinstance(error, ModuleNotFoundError):
            return UserError(
                f"{self} needs the driver {error.name}, which is not installed: pip install 'iot-pipeline[postgres]' "
                f"(or unset {SETTING})."
            )
        told = f"{self} cannot be {done}: {self._told(error)}."
        if done == "opened":
            return UserError(f"{told} {SETTING} names it.")
        return UserError(
            f"{told} Answers until then are kept; make room or mend the permissions or the connection, and start again."
        )

    def _told(self, error: BaseException) -> str:
        """The driver's own words, in one line: SQLAlchemy's repeat the whole statement."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
        return said.replace(str(self.url.password), "***") if self.url.password else said


def _use_wal(cursor: Any) -> None:
    """Switch to WAL. SQLite's busy timeout does not cover this one step, so two first openers would collide."""
    for _ in range(WAL_TRIES - 1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(0.05)
    cursor.execute("PRAGMA journal_mode=WAL")
