"""Owners of leases and their heartbeats, all compared by the store's own clock: hosts need not agree on the time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache

import psutil

from iot_pipeline.errors import UserError
from iot_pipeline.lake.object_store import Objects
from iot_pipeline.lake.processes import has_ended, this_host

BEAT_S, TTL_S = 15.0, 60.0  # a killed owner's leases are free after a minute, those of this host at once
NOW_S = 5.0  # the store's time is asked that often, and counted on in between


@dataclass(frozen=True)
class Owner:
    """A process that may hold leases: random id, host name, space of its process id (`this_host`), process id.

    seen: seconds after the start of its host at which the process was alive: nobody sets that clock.
    """

    id: str
    host: str
    place: str
    pid: int
    seen: float

    def has_ended(self, here: Owner) -> bool:
        """Return True if the process ran in this boot and namespace and has demonstrably ended."""
        return self.place == here.place and has_ended(self.pid, psutil.boot_time() + self.seen)

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"


@cache
def _owner_of(pid: int) -> Owner:
    return Owner(uuid.uuid4().hex, socket.gethostname(), this_host(), pid, time.time() - psutil.boot_time())


def this_owner() -> Owner:
    """Return this process as an owner; a forked one is another."""
    return _owner_of(os.getpid())


class Heartbeats:
    """Heartbeats of this process while it holds leases, and the age of those of others."""

    def __init__(self, objects: Objects, owner: Owner, clock: Callable[[], float] = time.monotonic) -> None:
        self._objects, self._owner, self._clock = objects, owner, clock
        self._held, self.threaded = 0, True
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._now: tuple[float, float] | None = None  # the store's time, and ours when it was asked

    def begin(self) -> None:
        """Write a heartbeat, and go on with it in a thread until `end` was called as often."""
        with self._lock:
            if self._held == 0:
                self._write()
                self._stop = threading.Event()
                if self.threaded:
                    threading.Thread(target=self._beat, args=(self._stop,), name="lake-heartbeat", daemon=True).start()
            self._held += 1

    def end(self) -> None:
        """End one holding; with the last one the heartbeat is removed."""
        with self._lock:
            self._held -= 1
            if self._held == 0:
                self._stop.set()
                with contextlib.suppress(UserError):  # it ages by itself
                    self._objects.remove([_key(self._owner.id)])

    def is_live(self, owner: Owner) -> bool:
        """Return True if an owner may be alive: its process on this host, or its heartbeat within TTL_S."""
        if owner.id == self._owner.id:
            return self._held > 0
        if owner.has_ended(self._owner):
            return False
        beat = self._objects.look(_key(owner.id))
        return beat is not None and self._store_time() - beat.modified <= TTL_S

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            try:
                self._write()
            except UserError:  # the next beat may reach the store; a lease that is lost meanwhile publishes nothing
                continue

    def _write(self) -> None:
        self._objects.write(_key(self._owner.id), json.dumps(asdict(self._owner)).encode())

    def _store_time(self) -> float:
        """Return the store's time, which is that of an object written now."""
        if self._now is None or self._clock() - self._now[1] > NOW_S:
            asked, key = self._clock(), f"clock/{self._owner.id}"
            self._objects.write(key, b"")
            written = self._objects.look(key)
            if written is None:
                raise UserError(f"IOT_LAKE={self._objects.address}: an object is gone as soon as it was written")
            self._now = written.modified, asked
            self._objects.remove([key])
        told, asked = self._now
        return told + self._clock() - asked


def _key(owner: str) -> str:
    return f"owners/{owner}"
