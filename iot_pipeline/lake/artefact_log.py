"""Log of each artefact in a bucket: numbered entries, each created only if there is none of its number.

    log/lora_checkpoint_10K@2027-original/00000007     manifest 7
                                          00000008     lease of a process that makes it anew, over manifest 7
                                          00000009     manifest 9, which ends the lease; or "released", over manifest 7

The highest entry holds. A lease that expired is taken over by the next number, and a manifest is published by the next
number too, so that of a slow writer and the one that took its lease over only one can go on. Entries never change.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.atomic import write_bytes
from iot_pipeline.lake.leases import Heartbeats, Owner
from iot_pipeline.lake.object_store import Listed, Objects

LOG = "log"
LEASE, MANIFEST, RELEASED = "lease", "manifest", "released"
KEPT = 8  # entries below the highest that stay, for readers that are a moment behind
FRESH_S = 2.0  # a listing of the log is used that long
CHECK_S = 30.0  # a writer looks that often whether it still has its lease
TRIES = 5
MARK = ".stale"


class BusyError(UserError):
    """Another process holds the lease of an artefact."""


@dataclass(frozen=True)
class Entry:
    """Entry of a log; `made` and `made_id` name the manifest entry that holds beneath a lease or a release."""

    number: int
    kind: str
    owner: Owner
    made: int = 0
    made_id: str = ""
    manifest: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    at: float = 0.0  # of writing, by the store's clock; 0 in the object itself

    @property
    def manifest_entry(self) -> tuple[int, str]:
        """Number and id of the manifest that holds with this entry; 0 if there is none."""
        return (self.number, self.id) if self.kind == MANIFEST else (self.made, self.made_id)


@dataclass(frozen=True)
class Claim:
    """Lease of an artefact by this process."""

    name: str
    entry: Entry


class ArtefactLog:
    """Logs of all artefacts of a lake, by the artefacts' file names."""

    def __init__(
        self, objects: Objects, owner: Owner, cache: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._objects, self._owner, self._cache, self._clock = objects, owner, cache, clock
        self.beats = Heartbeats(objects, owner, clock)
        self._entries: dict[tuple[str, int], Entry] = {}
        self._listed: dict[str, Listed] = {}
        self._by_name: dict[str, list[int]] = {}
        self._marks: dict[tuple[str, Listed], str] = {}
        self._at = self._away_at = float("-inf")  # of the latest listing, and of one that failed in `check`
        self._lock = threading.RLock()

    # -- reading -------------------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """List the artefacts that have a log."""
        return sorted(self._look())

    def latest(self, name: str, age_s: float | None = None) -> Entry | None:
        """Return the entry that holds, by a listing at most `age_s` old (FRESH_S); None without one."""
        for _ in range(TRIES):
            numbers = self.numbers(name, age_s)
            entry = self.entry(name, numbers[-1]) if numbers else None
            if entry is not None or not numbers:
                return entry
            age_s = 0.0  # it was removed since the listing: there are higher ones
        raise UserError(f"IOT_LAKE={self._objects.address}: entries of {name} vanish as they are read; try again")

    def made(self, name: str, age_s: float | None = None) -> Entry | None:
        """Return the manifest entry that holds; None if the artefact was never made."""
        for _ in range(TRIES):
            latest = self.latest(name, age_s)
            if latest is None or latest.manifest_entry[0] == 0:
                return None
            if (entry := self.entry(name, latest.manifest_entry[0])) is not None:
                return entry
            age_s = 0.0
        raise UserError(f"IOT_LAKE={self._objects.address}: manifests of {name} vanish as they are read; try again")

    def holder(self, name: str, age_s: float | None = None) -> Owner | None:
        """Return the other process that holds a live lease of an artefact."""
        return self._holder(self.latest(name, age_s))

    def _holder(self, latest: Entry | None) -> Owner | None:
        if latest is None or latest.kind != LEASE or latest.owner.id == self._owner.id:
            return None
        return latest.owner if self.beats.is_live(latest.owner) else None

    def mark(self, name: str) -> str:
        """Return why the manifest that holds was marked as stale; empty without a mark."""
        made = self.made(name)
        key = _key(name, made.number) + MARK if made else ""
        if (listed := self._listed.get(key)) is None:
            return ""
        if (key, listed) not in self._marks:
            self._marks[key, listed] = (self._objects.read(key) or b"").decode()
        return self._marks[key, listed]

    def entry(self, name: str, number: int) -> Entry | None:
        """Return an entry, from memory or disk if it was read before; None if there is none."""
        if (name, number) not in self._entries:
            kept = self._cache / name / f"{number:08d}" if self._cache else None
            data = kept.read_bytes() if kept and kept.is_file() else self._objects.read(_key(name, number))
            if data is None:
                return None
            self._entries[name, number] = self._parsed(name, number, data)
            if kept and not kept.is_file():
                write_bytes(kept, data)
        return self._entries[name, number]

    def numbers(self, name: str, age_s: float | None = None) -> list[int]:
        """List the numbers of the entries of an artefact, by a listing at most `age_s` old."""
        return self._look(age_s).get(name, [])

    def _look(self, age_s: float | None = None) -> dict[str, list[int]]:
        """Return the sorted numbers of each artefact's entries, by a listing at most `age_s` old."""
        with self._lock:
            if age_s == 0 or self._clock() - self._at > (FRESH_S if age_s is None else age_s):
                begin, found = self._clock(), dict[str, list[int]]()
                self._listed = self._objects.listing(LOG)
                for parts in (key.split("/") for key in self._listed):
                    if len(parts) == 3 and parts[2].isdigit():
                        found.setdefault(parts[1], []).append(int(parts[2]))
                self._by_name = {name: sorted(numbers) for name, numbers in found.items()}
                self._at = begin
            return self._by_name

    def _parsed(self, name: str, number: int, data: bytes) -> Entry:
        try:
            told: dict[str, Any] = json.loads(data)
            owner = Owner(**told.pop("owner"))
            at = self._listed.get(_key(name, number), Listed(0, 0.0)).modified
            return Entry(**told | {"number": number, "owner": owner, "at": at})
        except (ValueError, TypeError, LookupError, AttributeError):
            key = f"{self._objects.address}/{_key(name, number)}"
            raise UserError(f"{key} is no entry of a lake's log; remove it, if it was put there by hand") from None

    # -- writing -------------------------------------------------------------------------------------------
    def claim(self, name: str) -> Claim:
        """Take the lease of an artefact; BusyError if another process holds it."""
        self.beats.begin()
        try:
            for _ in range(TRIES):
                latest = self.latest(name, 0.0)
                if (holder := self._holder(latest)) is not None:
                    raise BusyError(f"{name} is being made on {shown(holder)}; wait for it")
                if (entry := self._append(name, latest, LEASE)) is not None:
                    return Claim(name, entry)
            raise BusyError(f"{name} is being taken by others at this moment; try again")
        except BaseException:
            self.beats.end()
            raise

    def publish(self, claim: Claim, manifest: str) -> Entry:
        """Publish a manifest, which ends the lease; UserError, and nothing is published, if the lease was lost."""
        entry = self._append(claim.name, claim.entry, MANIFEST, manifest)
        if entry is None:
            raise UserError(f"{self._lost_by(claim)}; nothing was published")
        self.beats.end()
        return entry

    def release(self, claim: Claim) -> None:
        """Give a lease back, unless it was lost."""
        try:
            self._append(claim.name, claim.entry, RELEASED)
        finally:
            self.beats.end()

    def check(self, claim: Claim) -> None:
        """Raise UserError if a lease was lost, by a listing at most CHECK_S old, if the store can be reached."""
        if self._clock() - self._away_at <= CHECK_S:
            return
        try:
            numbers = self.numbers(claim.name, CHECK_S)
        except UserError:  # a later look may reach it, and nothing is published without it
            self._away_at = self._clock()
            return
        if numbers[-1:] > [claim.entry.number]:
            raise UserError(f"{self._lost_by(claim)}; stopped before it publishes anything")

    def set_mark(self, name: str, reason: str) -> None:
        """Mark the manifest that holds as stale; the next one is not."""
        if (made := self.made(name, 0.0)) is not None:
            self._objects.write(_key(name, made.number) + MARK, reason.encode())
            self._at = float("-inf")

    def _append(self, name: str, last: Entry | None, kind: str, manifest: str = "") -> Entry | None:
        """Create the entry that follows `last`; None if another one does.

        A number may be free although it was taken: entries far below the highest are removed. So an entry counts only
        if none is higher than it, or the next one was made upon it.
        """
        made, made_id = last.manifest_entry if last and kind != MANIFEST else (0, "")
        entry = Entry(last.number + 1 if last else 1, kind, self._owner, made, made_id, manifest)
        data = json.dumps(asdict(entry), sort_keys=True).encode()
        if not self._objects.create(_key(name, entry.number), data):
            return None
        numbers = self.numbers(name, 0.0)
        if numbers[-1:] > [entry.number]:
            following = self.entry(name, entry.number + 1)
            if kind != MANIFEST or following is None or following.manifest_entry != (entry.number, entry.id):
                return None
        self._prune(name, numbers, entry)
        return self._parsed(name, entry.number, data)

    def _prune(self, name: str, numbers: list[int], last: Entry) -> None:
        """Remove entries far below an entry, with their marks."""
        old = [n for n in numbers if n < last.number - KEPT and n != last.manifest_entry[0]]
        keys = [_key(name, number) for number in old]
        self._objects.remove(keys + [key + MARK for key in keys if key + MARK in self._listed])

    def _lost_by(self, claim: Claim) -> str:
        other = self.latest(claim.name, 0.0)
        by = f" to {shown(other.owner)}" if other and other.owner.id != self._owner.id else ""
        return f"the lease of {claim.name} was lost{by}: this process had shown no sign of life for a minute"


def shown(owner: Owner) -> str:
    """Return an owner as text for a message; its host name came out of the bucket."""
    return printable(str(owner), kept="")[:80]


def _key(name: str, number: int) -> str:
    return f"{LOG}/{name}/{number:08d}"
