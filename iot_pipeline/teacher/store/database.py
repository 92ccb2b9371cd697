"""The database behind the teacher's store: a SQLite file, or a server that several machines share."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.dialects import EXTRAS, MYSQL, SQLITE, dialect_of, with_driver

Location = Path | str | sa.URL
SETTING = "IOT_TEACHER_STORE"
PLACES = (
    "a path, postgresql://USER@HOST/DATABASE (pip install 'iot-pipeline[postgres]'), mysql://USER@HOST/DATABASE (MySQL "
    "and MariaDB, pip install 'iot-pipeline[mysql]'), or the URL of another database with transactions that SQLAlchemy "
    "has a dialect for, with a driver that is not asynchronous"
)
USER_AND_PASSWORD = re.compile(r"[^/:]+:[^/@]*@")  # in a path: a URL that lacks its ://
WAL_TRIES = 200  # 10 s
KEYS_AT_ONCE = 500  # databases limit the variables of a statement
QUARTER_S = 900  # of an hour; time zones differ by whole ones


def store_url(location: Location) -> sa.URL:
    """The SQLAlchemy URL of a path or URL. UserError, which never repeats a URL, where no store can be there."""
    if isinstance(location, str) and "://" not in location and USER_AND_PASSWORD.search(location):
        raise _no_url()
    if isinstance(location, Path) or (isinstance(location, str) and "://" not in location):
        return sa.URL.create(SQLITE, database=str(Path(location).expanduser().absolute()))
    try:
        url = sa.make_url(location)
    except (ArgumentError, ValueError):  # both repeat parts of it
        raise _no_url() from None
    url = with_driver(url)
    if url.drivername != SQLITE and not _is_usable(url):
        raise UserError(f"{SETTING}: a store cannot be in {url.drivername}; give {PLACES}.")
    if {"password", "passwd", "pwd"} & {name.lower() for name in url.query}:
        raise UserError(
            f"{SETTING}: give the password as user:password@host (or where the driver looks for it: PGPASSWORD), not "
            "after the `?`."
        )
    if url.get_backend_name() == MYSQL and not url.database:
        raise UserError(f"{SETTING}: name the database: mysql://USER@HOST/DATABASE.")
    if is_file(url):
        if url.database in (None, "", ":memory:"):
            raise UserError(f"{SETTING}: a SQLite store needs a file: sqlite:////folder/teacher.sqlite.")
        return url.set(database=str(Path(str(url.database)).expanduser().absolute()))
    return url


def _no_url() -> UserError:
    return UserError(
        f"{SETTING} is no URL of a database (postgresql+psycopg2://user:password@host:5432/name; signs like @ / : "
        "in a password are written as %40 %2F %3A)."
    )


def _is_usable(url: sa.URL) -> bool:
    """Whether SQLAlchemy has the dialect, and its driver waits for what it asks; no other driver for SQLite serves."""
    try:
        return not is_file(url) and not url.get_dialect().is_async
    except NoSuchModuleError:
        return False


def is_file(url: sa.URL) -> bool:
    """Whether a store is a file of this machine."""
    return url.get_backend_name() == SQLITE


def shown(location: Location) -> str:
    """How a store is named to people: its file, or its URL without the password."""
    url = store_url(location)
    if is_file(url):
        return str(url.database)
    place = {name: value for name, value in url.query.items() if name in ("host", "port", "unix_socket")}
    return url.set(query=place).render_as_string(hide_password=True)


class Database:
    """One connection; open one per thread and process. Raises UserError where there is no way to connect."""

    def __init__(self, location: Location, read_only: bool = False) -> None:
        self.url, self._read_only = store_url(location), read_only
        self._dialect = dialect_of(self.url)
        self._writing = False
        wanted = {name: value for name, value in self._dialect.connect.items() if name not in self.url.query}
        ours = {"isolation_level": "AUTOCOMMIT"} if self._dialect.begin else {}
        with self.explained("opened"):
            if is_file(self.url) and not read_only:
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(
                self._of_what_is_there() if read_only else self.url,
                poolclass=NullPool,
                hide_parameters=True,
                connect_args=wanted,
                **ours,
                **self._dialect.engine,
            )
            self.errors = (DBAPIError, self._engine.dialect.loaded_dbapi.Error)
            sa.event.listen(self._engine, "connect", self._prepare)
            self.connection = self._engine.connect()
        self._compiled: dict[sa.Executable, tuple[str, dict[str, Any]]] = {}
        self._made: dict[Any, sa.Executable] = {}
        self._clock_ahead_s = 0.0 if is_file(self.url) else self._measure_clock()

    def __str__(self) -> str:
        return f"the teacher's store {shown(self.url)}"

    def close(self) -> None:
        """Close the connection; the last one to a SQLite file folds the write-ahead log in."""
        self.connection.close()
        self._engine.dispose()

    def now(self) -> float:
        """Seconds since 1970 by the clock that all users of this database share."""
        return time.time() + self._clock_ahead_s

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Read and write as one step, one writer at a time; UserError where the store cannot be written."""
        if self._read_only:
            raise UserError(f"{self} cannot be written: it was opened to be read.")
        try:
            self._begin()
            self._writing = True
            try:
                yield self.connection
                self._commit()
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writing = False
        except (SQLAlchemyError, *self.errors) as error:
            raise self._explain(error, "written") from error

    def read(self, query: sa.Executable | str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """The rows of a query (SQL as text: with `:name` for values)."""
        query = sa.text(query) if isinstance(query, str) else query
        with self.explained("read"):
            try:
                return self._fetch(query, values)
            except DBAPIError as error:
                if self._writing or not error.connection_invalidated:
                    raise
                return self._fetch(query, values)  # what broke while it was idle is connected anew, once

    def _fetch(self, query: sa.Executable, values: Mapping[str, Any] | None) -> Sequence[Any]:
        try:
            return self.connection.execute(query, values).fetchall()
        finally:
            self._end_reading()

    def _end_reading(self) -> None:
        """So that the next query sees what others have written since, and waits for nobody."""
        if not self._writing and (self.connection.invalidated or not self._dialect.begin):
            self._roll_back()

    def has(self, table: sa.Table) -> bool:
        """Whether there is such a table."""
        try:
            return sa.inspect(self.connection).has_table(table.name)
        finally:
            self._end_reading()

    def make(self, part: sa.Table | sa.Index) -> None:
        """Make a table or index unless it is there; another process may be making it at this moment."""
        for last in (False, True):
            try:
                part.create(self.connection, checkfirst=True)
                self.connection.commit()
                return
            except DBAPIError as error:
                self.connection.rollback()
                if last:
                    raise self._explain(error, "made") from error

    def put(
        self, table: sa.Table, rows: Sequence[dict[str, Any]], where: Any = None, values: dict[str, Any] | None = None
    ) -> None:
        """Write rows of all columns; one whose primary key is there is replaced, where `where` (with `values`) holds of
        it. Within a transaction only.
        """
        if self._dialect.insert is None:
            self._put_plainly(table, rows, where, values or {})
            return
        if (table, where) not in self._made:
            insert = self._dialect.insert(table)
            new = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
            self._made[table, where] = insert.on_conflict_do_update(
                index_elements=list(table.primary_key), set_=new, where=where
            )
        self.each(self._made[table, where], [row | values for row in rows] if values else rows)

    def _put_plainly(self, table: sa.Table, rows: Sequence[dict[str, Any]], where: Any, values: dict[str, Any]) -> None:
        """`put` where INSERT cannot replace; as writers wait for each other, what is there can be looked up first."""
        key = list(table.primary_key)
        new = {tuple(row[column.name] for column in key): row for row in rows}
        first, there = list({pair[0] for pair in new}), set()
        for start in range(0, len(first), KEYS_AT_ONCE):
            these = sa.select(*key).where(key[0].in_(first[start : start + KEYS_AT_ONCE]))
            there |= {tuple(row) for row in self.connection.execute(these)}
        self.each(sa.insert(table), [row for pair, row in new.items() if pair not in there])
        update = sa.update(table).where(*(column == sa.bindparam(f"its_{column.name}") for column in key))
        update = update.values({c.name: sa.bindparam(f"new_{c.name}") for c in table.c if not c.primary_key})
        self.each(
            update if where is None else update.where(where),
            [
                {f"{'its' if table.c[name].primary_key else 'new'}_{name}": value for name, value in row.items()}
                | values
                for pair, row in new.items()
                if pair in there
            ],
        )

    def add(self, table: sa.Table, row: dict[str, Any]) -> int:
        """Write a new row of a table that numbers its rows; its number. Within a transaction only."""
        if not self._dialect.begin:
            return int(self.connection.execute(sa.insert(table), row).inserted_primary_key[0])  # type: ignore[index]
        if table not in self._made:
            self._made[table] = sa.insert(table).returning(*table.primary_key)
        return int(self.quick(self._made[table], row)[0][0])

    def quick(self, statement: sa.Executable, values: dict[str, Any]) -> list[Any]:
        """The rows of a statement, compiled once and handed to the driver: what is done once a request takes half the
        time. Names of `values` are the same in every call. Within a transaction only.
        """
        if not self._dialect.begin:
            result = self.connection.execute(statement, values)
            return list(result.fetchall()) if result.returns_rows else []
        text, fixed = self._compile(statement, values)
        return self._run(text, fixed | values if fixed else values)

    def each(self, statement: sa.Executable, rows: Sequence[dict[str, Any]]) -> None:
        """A statement without result, once for each row, as `quick` does it."""
        if not rows:
            return
        if not self._dialect.begin:
            self.connection.execute(statement, rows)
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
            self._take_lock()
        except self.errors as error:
            if not self._lost(error):
                raise
            self._take_lock()

    def _take_lock(self) -> None:
        if self._dialect.begin:
            self._run(self._dialect.begin)
        else:
            self.connection.execute(self._dialect.lock)

    def _commit(self) -> None:
        if self._dialect.begin:
            self._run("COMMIT")
        else:
            self.connection.commit()

    def _lost(self, error: BaseException) -> bool:
        """Undo all; whether an error means that the connection broke, so that the next use makes it anew."""
        if not isinstance(error, DBAPIError):  # one of the driver that SQLAlchemy has not seen
            driver = self.connection.connection.dbapi_connection
            if self._engine.dialect.is_disconnect(error, driver, None):  # type: ignore[arg-type]
                self.connection.invalidate()
        lost = self.connection.invalidated
        self._roll_back()
        return lost

    def _roll_back(self) -> None:
        with contextlib.suppress(*self.errors):  # a full disk ends a transaction by itself
            # Of a connection that broke there is nothing to undo; this lets SQLAlchemy connect anew.
            if self.connection.invalidated or not self._dialect.begin:
                self.connection.rollback()
            else:
                self._run("ROLLBACK")

    def _measure_clock(self) -> float:
        """Seconds that the database's clock is ahead of ours."""
        if self._dialect.clock:
            return float(self.read(self._dialect.clock)[0][0]) - time.time()
        told = self.read(sa.select(sa.func.current_timestamp()))[0][0]
        if told.tzinfo is not None:
            return float(told.timestamp()) - time.time()
        # In a time zone that nobody names: of what it differs by, whole quarters of an hour are the zone's.
        return math.remainder(told.replace(tzinfo=UTC).timestamp() - time.time(), QUARTER_S)

    def _prepare(self, driver: Any, record: object) -> None:
        dialect = self._engine.dialect
        # Where the driver begins transactions: what was committed while a writer waited for its turn must be seen.
        if not self._dialect.begin and "READ COMMITTED" in _isolation_levels(dialect, driver):
            dialect.set_isolation_level(driver, "READ COMMITTED")
        cursor = driver.cursor()
        if is_file(self.url) and not self._read_only:
            _use_wal(cursor)
        statements = (*self._dialect.prepare, *(self._dialect.read_only if self._read_only else ()))
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        if statements:
            driver.commit()  # some databases take back with the first transaction what was set in it

    def _of_what_is_there(self) -> sa.URL:
        """The URL by which a SQLite file is opened and never made.

        Not `mode=ro` where the folder can be written: a write-ahead log may have to be. Where it cannot and there is no
        such log, `immutable` keeps SQLite from making one; with a log beside it, it is read as it lies.
        """
        if not is_file(self.url):
            return self.url
        path = Path(str(self.url.database))
        options = {"mode": "rw"}
        if path.exists() and not all(os.access(place, os.W_OK) for place in (path, path.parent)):
            log = path.with_name(f"{path.name}-wal")
            options = {"mode": "ro"} | ({} if log.exists() and log.stat().st_size else {"immutable": "1"})
        return self.url.set(database=path.as_uri(), query={**options, "uri": "true"})

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Errors of the database and its driver as UserError; `done` is what it could not be."""
        # What drivers make of options in the URL that they do not know.
        options = (AttributeError, TypeError, ValueError) if done == "opened" else ()
        try:
            yield
        except (ImportError, OSError, SQLAlchemyError, *options, *getattr(self, "errors", ())) as error:
            raise self._explain(error, done) from error

    def _explain(self, error: BaseException, done: str) -> UserError:
        if isinstance(error, ImportError):
            driver = str(error.name or self.url.drivername).partition(".")[0]
            package = f"'iot-pipeline[{EXTRAS[driver]}]'" if driver in EXTRAS else "the package that has it"
            return UserError(
                f"{self} needs the driver {driver}, which is not installed: pip install {package} (or unset {SETTING})."
            )
        told = f"{self} cannot be {done}: {self._told(error)}."
        if done in ("opened", "made"):
            return UserError(f"{told} {SETTING} names it.")
        return UserError(
            f"{told} Answers until then are kept; make room or mend the permissions or the connection, and start again."
        )

    def _told(self, error: BaseException) -> str:
        """The driver's own words, in one line: SQLAlchemy's repeat the whole statement."""
        cause = error.orig or error if isinstance(error, DBAPIError) else error
        words = str(cause) if isinstance(cause, OSError) else ": ".join(map(str, cause.args))  # (number, text) of MySQL
        said = " ".join(words.split()).rstrip(".") or type(cause).__name__
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


def _isolation_levels(dialect: sa.Dialect, driver: Any) -> Sequence[str]:
    try:
        return dialect.get_isolation_level_values(driver)
    except NotImplementedError:
        return ()
