"""Leases and publication hold whatever the order of requests, however long a process sleeps, whoever is killed.

Processes are threads that a schedule lets go on, one request to an in-memory store at a time.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.lake import artefact_log
from iot_pipeline.lake.artefact_log import CHECK_S, LEASE, ArtefactLog, BusyError
from iot_pipeline.lake.leases import TTL_S, Owner
from iot_pipeline.lake.object_store import Listed

NAME = "flows@"


@dataclass
class Memory:
    """Store of objects in memory, with a clock of its own."""

    address: str = "memory"
    now: float = 1000.0
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def probe(self) -> None:
        """Find nothing wrong."""

    def create(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return self.objects[key][0] == data
        self.objects[key] = data, self.now
        return True

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = data, self.now

    def read(self, key: str) -> bytes | None:
        return self.objects[key][0] if key in self.objects else None

    def listing(self, prefix: str) -> dict[str, Listed]:
        found = sorted(key for key in self.objects if key.startswith(f"{prefix}/"))
        return {key: Listed(len(self.objects[key][0]), self.objects[key][1]) for key in found}

    def look(self, key: str) -> Listed | None:
        return Listed(len(self.objects[key][0]), self.objects[key][1]) if key in self.objects else None

    def upload(self, path: Path, key: str) -> None:
        self.write(key, path.read_bytes())

    def download(self, key: str, path: Path) -> bool:
        if (data := self.read(key)) is not None:
            path.write_bytes(data)
        return data is not None

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


class KilledError(BaseException):
    """The process of a thread was killed."""


class Paced:
    """The store as one process sees it: every request waits for the schedule."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.address = memory, memory.address
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = self.ended = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.memory, name)

        def paced(*given: Any) -> Any:
            if name == "remove":  # one request a key
                return [self._wait() or call([key]) for key in list(given[0])]
            self._wait()
            return call(*given)

        return paced

    def _wait(self) -> None:
        self.waits.release()
        self.go.acquire()
        if self.killed:
            raise KilledError

    def step(self) -> None:
        """Let the process send one request and go on to its next."""
        if not self.ended:
            self.go.release()
            self.waits.acquire()


@dataclass
class Seen:
    """What the processes were told: (number, id or owner, process) of what they claimed and published."""

    claims: list[tuple[int, int]] = field(default_factory=list)
    published: list[tuple[int, int, str]] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    read: list[tuple[str, str]] = field(default_factory=list)  # newest published as a read began, what was read
    errors: list[BaseException] = field(default_factory=list)


def process(number: int, store: Paced, log: ArtefactLog, seen: Seen, plan: str) -> None:
    """Carry out a plan: m makes and publishes, f fails after the claim, r reads."""
    try:
        store._wait()
        for turn, what in enumerate(plan):
            if what == "r":
                newest = max(seen.published, default=(0, 0, ""))[2]
                made = log.made(NAME, 0.0)
                seen.read.append((newest, made.manifest if made else ""))
                continue
            try:
                claim = log.claim(NAME)
            except BusyError:
                continue
            seen.claims.append((claim.entry.number, number))
            if what == "f":
                log.release(claim)
                continue
            text = f"{number}.{turn}"
            seen.tried.add(text)
            try:
                seen.published.append((log.publish(claim, text).number, number, text))
            except UserError:
                log.beats.end()
    except KilledError:
        pass
    except BaseException as error:
        seen.errors.append(error)
    finally:
        store.ended = True
        store.waits.release()


def owners(count: int) -> Iterator[Owner]:
    for number in range(count):
        yield Owner(f"owner{number}", f"host{number}", f"place{number}", 1, 0.0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1), st.integers(1, 6)),  # a process goes on by some requests: a claim has four
        st.tuples(st.integers(0, 2), st.integers(1, 12)),
        st.just(("sleep", TTL_S + 5)),
        st.tuples(st.just("kill"), st.integers(0, 2)),
    ),
    max_size=60,
)
PLANS = st.lists(st.text("mfr", min_size=1, max_size=4).map("m".__add__), min_size=3, max_size=3)


@settings(max_examples=200, deadline=None)
@given(PLANS, STEPS, st.integers(0, 2))
@example(["m", "m", "r"], [(0, 3), (1, 5), (0, 3)], 2)  # both look, then both create
def test_a_manifest_is_published_only_by_the_lease_that_holds(plans: list[str], steps: list[Any], kept: int) -> None:
    memory, seen = Memory(), Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artefact_log, "KEPT", kept)
        stores = [Paced(memory) for _ in plans]
        for number, (store, owner) in enumerate(zip(stores, owners(3), strict=True)):
            log = ArtefactLog(store, owner, clock=lambda: memory.now)
            log.beats.threaded = False
            threading.Thread(target=process, args=(number, store, log, seen, plans[number]), daemon=True).start()
            store.waits.acquire()
        for step in steps:
            if step[0] == "sleep":
                memory.now += step[1]
            elif step[0] != "kill":
                for _ in range(step[1]):
                    stores[step[0]].step()
            else:
                stores[step[1]].killed = True
                stores[step[1]].step()
        for store in stores:
            while not store.ended:
                store.step()
    assert seen.errors == []
    check(memory, seen)


def check(memory: Memory, seen: Seen) -> None:
    """Hold what the processes were told against each other and against the store."""
    numbers = [number for number, _ in seen.claims] + [number for number, _, _ in seen.published]
    assert len(numbers) == len(set(numbers)), "two processes were told the same number"
    events = sorted([(n, "claim", who) for n, who in seen.claims] + [(n, "made", who) for n, who, _ in seen.published])
    for before, after in zip([(0, "", -1), *events], events, strict=False):
        assert after[1] != "made" or before == (after[0] - 1, "claim", after[2]), "published without the lease"
    order = {text: number for number, _, text in seen.published}
    for newest, read in seen.read:
        assert read == "" or read in seen.tried
        assert order.get(read, float("inf") if read else 0) >= order.get(newest, 0), "an older manifest was read"
    last = ArtefactLog(memory, next(owners(9)), clock=lambda: memory.now).made(NAME)
    assert (last.manifest if last else "") in seen.tried | {""}
    if seen.published and last:
        assert last.number >= max(seen.published)[0]


def test_a_lease_expires_a_minute_after_the_last_sign_of_life_by_the_clock_of_the_store() -> None:
    memory = Memory()
    one, two = (ArtefactLog(memory, owner, clock=lambda: memory.now) for owner in owners(2))
    one.beats.threaded = two.beats.threaded = False
    claim = one.claim(NAME)
    memory.now += TTL_S - 1
    with pytest.raises(BusyError, match="host0"):
        two.claim(NAME)
    one.beats._write()
    memory.now += TTL_S - 1
    with pytest.raises(BusyError):
        two.claim(NAME)
    memory.now += 2
    assert two.claim(NAME).entry.number == 2
    with pytest.raises(UserError, match="lost to host1"):
        one.publish(claim, "late")


def test_a_store_that_is_away_for_a_moment_stops_no_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, asked = Memory(), list[str]()
    one, two = (ArtefactLog(memory, owner, clock=lambda: memory.now) for owner in owners(2))
    one.beats.threaded = two.beats.threaded = False
    claim = one.claim(NAME)

    def away(prefix: str) -> dict[str, Listed]:
        asked.append(prefix)
        raise UserError("the store cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "listing", away)
        memory.now += CHECK_S + 1
        for _ in range(3):
            one.check(claim)
        assert len(asked) == 1  # each look may take a minute to fail
    memory.now += TTL_S
    two.claim(NAME)
    with pytest.raises(UserError, match="stopped before it publishes"):
        one.check(claim)


def test_old_entries_and_their_marks_are_removed_and_the_manifest_that_holds_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artefact_log, "KEPT", 2)
    memory = Memory()
    log = ArtefactLog(memory, next(owners(1)), clock=lambda: memory.now)
    log.beats.threaded = False
    log.publish(log.claim(NAME), "first")
    log.set_mark(NAME, "why")
    assert log.mark(NAME) == "why"
    for _ in range(9):
        log.release(log.claim(NAME))
    made = log.made(NAME, 0.0)
    assert made is not None and made.manifest == "first" and log.mark(NAME) == "why"
    log.publish(log.claim(NAME), "second")
    assert log.mark(NAME) == ""
    log.release(log.claim(NAME))
    entries = [log.entry(NAME, number) for number in log.numbers(NAME, 0.0)]
    assert [entry.kind for entry in entries if entry] == ["manifest", LEASE, "released"]
    assert not [key for key in memory.objects if key.endswith(".stale")]
