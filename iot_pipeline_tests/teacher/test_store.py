"""The store's guarantees, in both databases alike: money, leases, kills, several processes, names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError
from iot_pipeline.lake.processes import this_host
from iot_pipeline.teacher.archive import Imported, Replay, export_answers, import_answers
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Answer, Usage
from iot_pipeline.teacher.store import leases
from iot_pipeline.teacher.store.batches import BatchTable
from iot_pipeline.teacher.store.database import POSTGRESQL, SESSION, Database
from iot_pipeline.teacher.store.store import UNCHECKED, Attempt, Store, exists
from iot_pipeline_tests.teacher.flows import checker, make_requests
from iot_pipeline_tests.teacher.postgres import cluster
from iot_pipeline_tests.teacher.test_batch import fetch_invoice, invoice_usd

# Of one process: asks, prints what came of it.
ASK = """
import json, sys
from iot_pipeline.errors import UserError
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline_tests.teacher.flows import checker, make_requests
url, store, number, cap, concurrency = sys.argv[1:]
requests = make_requests(int(number))
asking = Teacher(TeacherConfig(url, "none", store, "paid", float(cap), paid=True, concurrency=int(concurrency)))
error = ""
try:
    asking.ask(requests, checker(requests))
except UserError as stopped:
    error = str(stopped)
print(json.dumps([asking.summary.ok, asking.summary.attempts, error]))
"""
HOLD = """
import sys, time
from iot_pipeline.teacher.store.store import Store
store = Store(sys.argv[1])
store.claim(["a", "b"], "s")
store.reserve([("a", "m", 0.25)], "s", 1.0)
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


@pytest.fixture(scope="module")
def new_postgresql() -> Iterator[Callable[..., str]]:
    with cluster() as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a new store: each test once for each database."""
    return str(tmp_path / "t.sqlite" if request.param == "sqlite" else request.getfixturevalue("new_postgresql")())


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock that all stores share so many seconds ahead."""
    now = Database.now
    return lambda seconds: monkeypatch.setattr(Database, "now", lambda self: now(self) + seconds)


def answer(status: str, reasons: tuple[str, ...] = (), text: str = "") -> Answer:
    return Answer("k", status, text or f"text {status}", "stop", "m", "s", Usage(), 0.0, 1, reasons)  # type: ignore[arg-type]


# -- money ---------------------------------------------------------------------------------------------------


def test_reservations_keep_the_cap_over_connections(place: str) -> None:
    with Store(place) as one, Store(place) as two:
        assert one.reserve([("k1", "m", 0.6)], "s", 1.0) != [None]
        assert two.reserve([("k2", "m", 0.6)], "s", 1.0) == [None]
        first, second, third = two.reserve([("k2", "m", 0.3), ("k3", "m", 0.3), ("k4", "m", 0.1)], "s", 1.0)
        assert first is not None and second is None and third is not None and first != third
        two.save(
            [
                Attempt(key, "s", "m", "answered", Usage(7, 2, 3), usd, False, 1.5, held)
                for key, held, usd in (("k2", first, 0.2), ("k4", third, 0.1))
            ],
            [],
        )
        assert one.spent_usd() == pytest.approx(0.3)
        assert one.reserve([("k3", "m", 0.2)], "s", 1.0) == [None] != one.reserve([("k3", "m", 0.09)], "s", 1.0)
        assert one.ledger() == {
            "attempts": 2,
            "prompt_tokens": 14,
            "cached_tokens": 4,
            "completion_tokens": 6,
            "usd": pytest.approx(0.3),
            "usd_assumed": 0.0,
            "outcomes": {"answered": 2},
        }
        assert one.answer_seconds("s") == 1.5 and one.answer_seconds("t") is None


def test_two_processes_share_the_work_ask_nothing_twice_and_never_pass_the_budget(url: str, place: str) -> None:
    before, number, cap = fetch_invoice(url), 120, 0.006
    processes = [start(ASK, url, place, number, cap, 8) for _ in range(2)]  # on a store that neither finds there
    told = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in processes]
    assert all(error.startswith("IOT_TEACHER_BUDGET_USD=0.006") for _, _, error in told), told
    lines = {way: {k: v - before[way][k] for k, v in fetch_invoice(url)[way].items()} for way in ("requests", "batch")}
    assert 0.003 < invoice_usd(lines) <= cap
    requests = make_requests(number)
    with Store(place) as store:
        answered = len(list(store.lookup([request.key for request in requests], "paid")))
        assert lines["requests"]["answers"] == sum(attempts for _, attempts, _ in told) == answered > 40
        assert store.ledger()["usd"] == pytest.approx(invoice_usd(lines))
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]
    richer = Teacher(TeacherConfig(url, "none", place, "paid", 1.0, paid=True))
    assert len(richer.ask(requests, checker(requests))) == number
    assert richer.summary.attempts == number - answered


def test_kill_9_of_the_client_and_resume(url: str, place: str) -> None:
    client = start(ASK, url, place, 3000, 100, 64)
    stored = 0
    while stored < 100:
        assert client.poll() is None
        time.sleep(0.05)
        with contextlib.suppress(UserError):  # not made yet
            with Store(place, read_only=True) as store:
                stored = store.read("SELECT count(*) FROM answers")[0][0]
    client.send_signal(signal.SIGKILL)
    client.wait()
    requests = make_requests(300)
    asking = Teacher(TeacherConfig(url, "none", place, "paid", 100.0, paid=True))
    answers = asking.ask(requests, checker(requests))
    assert {a.status for a in answers.values()} == {"ok"}
    assert all(checker(requests)(r, answers[r.key].text) == [] for r in requests)
    assert asking.summary.cached >= 100 and asking.summary.asked == 300 - asking.summary.cached
    with Store(place) as store:
        # What was in flight is counted as spent; a key has one answer, and was billed twice only if in flight.
        assert 0 < store.ledger()["outcomes"]["in flight at a kill"] <= 64 + 200
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


# -- who holds what ------------------------------------------------------------------------------------------


def test_what_a_killed_process_of_this_host_held_is_free_at_once(place: str) -> None:
    holder = start(HOLD, place)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with Store(place) as store:
        assert store.claim(["a", "c"], "s") == {"c"} and store.ledger()["attempts"] == 0
    holder.kill()
    holder.wait()
    with Store(place) as first, Store(place) as second:
        assert first.claim(["a"], "s") == {"a"}
        assert second.claim(["a", "b"], "s") == {"b"}
        assert first.claim(["a"], "other source") == {"a"}
        assert first.ledger()["outcomes"] == {"in flight at a kill": 1} and first.spent_usd() == 0.25


def test_a_process_of_another_host_is_judged_by_its_lease_alone(place: str, later: Callable[[float], None]) -> None:
    far = Store(place)
    far.owner = "elsewhere/boot/1:99999999:0"  # no process of this host has that id
    assert far.claim(["a"], "s") == {"a"}
    assert far.reserve([("a", "m", 0.5)], "s", 1.0) != [None]
    table = BatchTable(far)
    batch = table.plan([("b", "m", 0.25)], "s", [1], None)
    assert batch is not None
    later(15)
    far.renew()
    later(30)
    with Store(place) as near:
        assert near.claim(["a", "b"], "s") == set() and BatchTable(near).take_over("s") == []
        assert near.ledger()["attempts"] == 0
    later(36)
    with Store(place) as near:
        assert near.claim(["a", "b"], "s") == {"a"} and len(BatchTable(near).take_over("s")) == 1
        assert near.ledger()["outcomes"] == {"in flight at a kill": 1} and near.spent_usd() == 0.5
        assert near.reserve([("c", "m", 0.3)], "s", 1.0) == [None]  # the batch's money is still set aside
    far.close()


def test_an_owner_names_host_process_and_start_of_the_machine() -> None:
    first, second = leases.new_owner(), leases.new_owner()
    assert first != second and first.rsplit(":", 2)[0] == second.rsplit(":", 2)[0] == this_host()
    begun = psutil.Process().create_time()
    assert not leases.is_gone(first, until=begun, now=time.time())  # alive, however old its lease
    host, _, token = first.rsplit(":", 2)
    assert leases.is_gone(f"{host}:99999999:{token}", until=2.0, now=1.0)
    assert not leases.is_gone(f"other{host}:99999999:{token}", until=2.0, now=1.0)


def test_an_owner_is_dead_though_its_number_is_in_use() -> None:
    now, host = time.time(), this_host()
    reused = f"{host}:{os.getpid()}:1234"  # by this process, which started after that owner was last seen
    assert leases.is_gone(reused, until=psutil.Process().create_time() - 3600, now=now)
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not leases.is_gone(f"{host}:{killed.pid}:1234", until=now + leases.LEASE_S, now=now)
        killed.kill()
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped by its parent
        assert leases.is_gone(f"{host}:{killed.pid}:1234", until=now + leases.LEASE_S, now=now)
    finally:
        killed.kill()
        killed.communicate()


def test_a_batch_of_a_process_that_is_alive_is_not_taken_over(place: str, later: Callable[[float], None]) -> None:
    with Store(place) as first, Store(place) as second:
        batch = BatchTable(first).plan([("k", "m", 1.0)], "s", [1], None)
        assert batch is not None
        later(15)
        first.renew()  # what goes on while a file is uploaded
        later(25)
        assert BatchTable(second).take_over("s") == []
        assert BatchTable(first).moved(batch, "uploaded").state == "uploaded"


def test_a_process_that_slept_through_its_lease_does_not_go_on_with_its_batch(
    place: str, later: Callable[[float], None]
) -> None:
    with Store(place) as first, Store(place) as second:
        batch = BatchTable(first).plan([("k", "m", 1.0)], "s", [1], None)
        assert batch is not None
        later(25)
        assert len(BatchTable(second).take_over("s")) == 1
        for step in (lambda: BatchTable(first).moved(batch, "sent", "b1"), lambda: BatchTable(first).forget(batch)):
            with pytest.raises(UserError, match="another process has taken over"):
                step()


def test_lines_of_a_batch_hold_their_keys_and_money(place: str) -> None:
    with Store(place) as first, Store(place) as second:
        assert first.claim(["k", "l", "m"], "s") == {"k", "l", "m"}
        table = BatchTable(first)
        batch = table.plan([("k", "m", 0.4), ("l", "m", 0.4), ("m", "m", 0.4)], "s", [1, 2, 4], 1.0)
        assert batch is not None and (batch.requests, batch.tokens, batch.state) == (2, 3, "planned")
        assert table.plan([("m", "m", 0.4)], "s", [4], 1.0) is None
        lines = table.lines(batch)
        assert list(lines) == ["k", "l"] and first.batched("s") == {"k", "l"} and first.batched("t") == set()
        # A line that is to be asked again is nobody else's.
        first.save([Attempt("k", "s", "m", "refused", Usage(), 0.1, False, 0.0, lines["k"].id)], [])
        assert second.claim(["k", "l"], "s") == set()
        assert first.claim(["k"], "s") == {"k"} and list(table.lines(batch)) == ["l"]
        table.forget(batch)
        assert second.reserve([("x", "m", 0.9)], "s", 1.0) != [None] and second.claim(["l"], "s") == {"l"}


# -- answers -------------------------------------------------------------------------------------------------


def test_a_late_text_that_nobody_checked_does_not_displace_a_good_one(place: str) -> None:
    with Store(place) as store:
        store.save([], [answer("ok")])
        store.save([], [answer("quarantined", (UNCHECKED,))])
        assert [found.status for found in store.lookup(["k"], "s")] == ["ok"]
        store.save([], [answer("quarantined", ("no answer: timeout",))])
        store.save([], [answer("quarantined", (UNCHECKED,))])
        assert [found.reasons for found in store.lookup(["k"], "s")] == [(UNCHECKED,)]
        assert store.read("SELECT key, source FROM answers WHERE status = 'quarantined'") == [("k", "s")]
        # Twice in one go: the last one counts.
        store.save([], [answer("ok", text="first"), answer("ok", text="second: ünï %s :x 'quoted' \\ €")])
        assert [found.text for found in store.lookup(["k"], "s")] == ["second: ünï %s :x 'quoted' \\ €"]


def test_an_export_is_the_same_from_either_and_replayed(url: str, place: str, tmp_path: Path) -> None:
    requests, other = make_requests(20), str(tmp_path / "other.sqlite")
    assert not exists(place)
    with pytest.raises(UserError, match="there is no store of answers"):
        export_answers(place, tmp_path / "none.parquet")
    Teacher(TeacherConfig(url, "none", place, "embedded", None)).ask(requests, checker(requests))
    assert export_answers(place, tmp_path / "a.parquet") == 20
    check = checker(requests)
    assert import_answers(other, tmp_path / "a.parquet", lambda asked, _, text: check(asked, text)) == Imported(20, 0)
    assert import_answers(place, tmp_path / "a.parquet", lambda *_: []) == Imported(0, 20)
    assert export_answers(other, tmp_path / "b.parquet") == 20
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert {a.status for a in Replay(place).ask(requests, checker(requests)).values()} == {"ok"}


# -- opening -------------------------------------------------------------------------------------------------


def test_many_open_a_new_store_at_once(place: str) -> None:
    ready, opened = threading.Barrier(6), []

    def open_it() -> None:
        ready.wait()
        with Store(place) as store:
            opened.append(store.spent_usd())

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert opened == [0.0] * 6


def test_a_store_opened_to_read_changes_nothing_and_makes_nothing(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be opened|written by another version"):
        Store(place, read_only=True)
    assert list(tmp_path.iterdir()) == [] and not exists(place)
    with Store(place) as store:
        store.reserve([("k", "m", 0.5)], "s", 1.0)
        with store.transaction() as db:
            owner = f"{this_host()}:99999999:0"
            db.exec_driver_sql(f"UPDATE reservations SET owner = '{owner}'")
    with Store(place, read_only=True) as store:
        assert store.ledger()["attempts"] == 0 and store.read("SELECT count(*) FROM reservations") == [(1,)]
        with pytest.raises(UserError, match="cannot be written"), store.transaction() as db:
            db.exec_driver_sql("DELETE FROM reservations")
        with pytest.raises(UserError, match="cannot be read"):
            store.read("DELETE FROM reservations")
        assert store.read("SELECT count(*) FROM reservations") == [(1,)]
    with Store(place) as store:  # this one settles what the dead process left
        assert store.ledger()["outcomes"] == {"in flight at a kill": 1}


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    path.write_text("this is not a database, and long enough to be told apart from an empty one")
    with pytest.raises(UserError, match=r"t\.sqlite cannot be opened.*IOT_TEACHER_STORE"):
        Store(path)


# -- servers alone -------------------------------------------------------------------------------------------


def test_a_connection_that_broke_while_idle_is_made_anew(new_postgresql: Callable[[], str]) -> None:
    place = new_postgresql()
    with Store(place) as store, Store(place) as other:
        reserve = partial(store.reserve, [("k", "m", 0.1)], "s", 1.0)
        for use in (reserve, store.spent_usd, partial(store.claim, ["k"], "s")):
            with other.transaction() as db:
                whose = store.read("SELECT pg_backend_pid()")[0][0]
                db.exec_driver_sql(f"SELECT pg_terminate_backend({whose}, 1000)")
            assert use() is not None


def test_who_vanishes_within_a_transaction_does_not_lock_the_others_out(
    new_postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new_postgresql()
    monkeypatch.setitem(SESSION, POSTGRESQL, ["SET idle_in_transaction_session_timeout = '200ms'"])
    with Store(place) as gone, Store(place) as other:
        with pytest.raises(UserError, match="cannot be written"), gone.transaction() as db:
            gone.add_up_reservations(db)
            assert other.reserve([("k", "m", 0.6)], "s", 1.0) != [None]  # waits until the server has ended the first
            gone.add_up_reservations(db)
        assert gone.reserve([("k", "m", 0.6)], "s", 1.0) == [None]


def test_a_database_that_cannot_keep_every_text_is_refused(new_postgresql: Callable[..., str]) -> None:
    place = new_postgresql("ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(UserError, match=r"/store\d+\?host=.* keeps text as LATIN1"):
        Store(place)
    assert not exists(place)


def test_leases_keep_to_the_server_s_clock(new_postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = new_postgresql(), time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)  # a machine whose clock is an hour slow
    with Store(place) as slow:
        assert slow.claim(["k"], "s") == {"k"}
        assert abs(slow.now() - real()) < 5
        monkeypatch.undo()
        with contextlib.closing(Database(place)) as other:
            assert other.read("SELECT until FROM claims")[0][0] > other.now() + 10
