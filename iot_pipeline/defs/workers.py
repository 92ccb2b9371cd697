"""Workers of one lake whose Dagster keeps its records in PostgreSQL: who makes which artefact, and who has died.

A worker is a process with a session of that database, which holds advisory locks: one on its own name, and one on each
artefact that it is making. The server frees them as soon as the session ends, however the process ended; of a host that
vanished, TCP keepalive tells within a minute. So no lease has to be renewed, and no process id is compared across
hosts. The name is in the last twelve digits of the ids of the worker's runs, which a pool names where no run is known.
"""

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Collection, Iterator

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from iot_pipeline.defs.dagster_internals import postgres_url
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId

NAME_DIGITS = 12
CUT_OFF_S = 90  # the server has noticed a session that was cut off by then
LOOKED_AFTER_S, RETURNED_S = 5.0, 20.0  # so often a session is looked after: workers have theirs again by then
# psycopg2 notices a server that vanished, and the server a client, 20 + 4 x 10 s after the last packet.
CLIENT_ALIVE = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 4}
SERVER_ALIVE = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 4"
# The key of a lock is a bigint, which pg_locks shows in two halves.
HELD = (
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
    "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
UP_FOR = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"


class Worker:
    """This process, alone on its lake: every artefact is its own to make."""

    def new_run_id(self) -> str:
        """Return an id for a run of this process."""
        return str(uuid.uuid4())

    def claim(self, artefact: ArtefactId) -> bool:
        """Claim an artefact until `release`; False if another worker is making it."""
        return True

    def release(self, artefacts: Collection[ArtefactId]) -> None:
        """Let other workers make artefacts that were claimed."""


class SharedWorker(Worker):
    """This process among others on a lake: it claims an artefact by an advisory lock of its session.

    A thread looks after the session: one that was lost with all that it held, because the server was restarted, is
    opened anew while this process trains for hours.
    """

    def __init__(self, url: str) -> None:
        self._url, self._held, self._guard, self._ended = url, set[str](), threading.RLock(), threading.Event()
        self.name = uuid.uuid4().hex[-NAME_DIGITS:]
        self._open()
        threading.Thread(target=self._look_after, name="worker", daemon=True).start()

    def _open(self) -> None:
        """Open the session and take the lock on this worker's name, which a session that was cut off may hold still."""
        self._connection = connected(self._url)
        try:
            self._connection.execute(sa.text(SERVER_ALIVE))
            end = time.monotonic() + CUT_OFF_S
            while not self._locks(self.name):
                if time.monotonic() > end:
                    raise UserError("Dagster's PostgreSQL still holds the session that this worker lost; run again")
                time.sleep(1)
        except BaseException:
            self._connection.close()  # without its name a session would pass for one that holds what was claimed
            raise

    def _look_after(self) -> None:
        while not self._ended.wait(LOOKED_AFTER_S):
            with self._guard, contextlib.suppress(UserError, SQLAlchemyError):  # the server is away: at the next look
                if not self._ended.is_set():
                    self._ensure()

    def _ensure(self) -> None:
        """Open the session anew if it was lost, and hold again what nobody has taken meanwhile."""
        try:
            self._connection.scalar(sa.text("SELECT true"))
        except SQLAlchemyError:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.close()
            self._open()
            self._held = {name for name in self._held if self._locks(name)}

    def new_run_id(self) -> str:
        """Return an id that ends in this worker's name."""
        return str(uuid.uuid4())[:-NAME_DIGITS] + self.name

    def claim(self, artefact: ArtefactId) -> bool:
        """Claim an artefact until `release`; False if another worker is making it."""
        return self.hold(str(artefact))

    def hold(self, name: str) -> bool:
        """Hold a name; False if another process does. Asked again, it tells whether it is still held."""
        with self._guard:
            self._ensure()
            if name not in self._held and self._locks(name):
                self._held.add(name)
            return name in self._held

    def _locks(self, name: str) -> bool:
        return bool(self._connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key_of(name)}))

    def release(self, artefacts: Collection[ArtefactId]) -> None:
        """Let other workers make artefacts that were claimed; those that are not claimed are left alone."""
        with self._guard:
            for name in self._held.intersection(map(str, artefacts)):
                with contextlib.suppress(SQLAlchemyError):  # a lost session holds nothing
                    self._connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": key_of(name)})
                self._held.discard(name)

    def close(self) -> None:
        """End the session, and with it every claim."""
        self._ended.set()
        with self._guard, contextlib.suppress(SQLAlchemyError):
            self._held.clear()
            self._connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")  # the server may end the session later
            self._connection.close()


def key_of(name: str) -> int:
    """Return the key of a lock, a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


def name_in(run_id: str) -> str:
    """Return the name of the worker in the id of one of its runs."""
    return run_id[-NAME_DIGITS:]


def connected(url: str) -> sa.Connection:
    """Open a connection without transactions; UserError, without the password, if the server cannot be reached."""
    arguments = {name: value for name, value in CLIENT_ALIVE.items() if name not in sa.make_url(url).query}
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=arguments)
    try:
        return engine.connect()
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        raise UserError(f"Dagster's PostgreSQL ({shown(engine.url)}) cannot be reached: {reason}") from None


def shown(url: sa.URL) -> str:
    """Name a database to people, without its password."""
    place = {name: value for name, value in url.query.items() if name in ("host", "port")}
    return url.set(query=place).render_as_string(hide_password=True)


@contextlib.contextmanager
def worker_on(instance: dg.DagsterInstance) -> Iterator[Worker]:
    """Register this process with the workers of an instance; alone where the instance is in SQLite."""
    if (url := postgres_url(instance)) is None:
        yield Worker()
        return
    worker = SharedWorker(url)
    try:
        yield worker
    finally:
        worker.close()


class Living:
    """The workers of an instance that are alive at this moment; all, while its server has only just started."""

    def __init__(self, url: str) -> None:
        with contextlib.closing(connected(url)) as connection:
            self._all = float(connection.scalar(sa.text(UP_FOR)) or 0) < RETURNED_S
            self._keys = {int(key) for key in connection.scalars(sa.text(HELD))}

    def __contains__(self, run_id: str) -> bool:
        """Return True if the worker whose name is in the id of a run is alive."""
        return self._all or key_of(name_in(run_id)) in self._keys
