"""Leases of GPUs, so that trainings of several lakes and users on one machine do not meet on one card.

The locks lie in one folder for every user of the machine, as a card is. Such a folder is a place where others write, so
nothing in it is trusted: the folder must be real and sticky (1777, as /tmp is) or ours, a lock is opened for reading
alone and never through a link, and no mode is ever changed but of what this process has just made. The worst that
another user can do there is hold a lock, and training waits and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from iot_pipeline.errors import UserError

FOLDER = "iot_pipeline-gpus"
MEND = "remove it, or set TMPDIR to another folder"
SHARED, READABLE = 0o1777, 0o644  # of the folder, of a lock: flock needs no right to write


def cards_here() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; none without a GPU."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


@contextlib.contextmanager
def leased(
    cards: list[str], count: int, say: Callable[[str], None], folder: Path | None = None, every: float = 1.0
) -> Iterator[list[str]]:
    """Hold `count` of `cards` (none where there are none), waiting until as many are free.

    A lease is a lock of a file, so it ends with the process that holds it, however that ends. All or none are taken:
    two that wait for each other's second card would wait for ever.

    Args:
        cards: Names of the cards here.
        count: How many to hold.
        say: Told once that it waits.
        folder: Where the locks lie; by default a folder of the machine's temporary one.
        every: Seconds between two looks.

    Yields:
        The names of the cards that are held.

    Raises:
        UserError: There are fewer cards than asked for, or the folder of locks is not safe.
    """
    if not cards:
        yield []
        return
    if count > len(cards):
        raise UserError(f"IOT_PROCESSES={count}, but there are {len(cards)} GPUs here: lower it, or leave it unset")
    with _opened(folder or Path(tempfile.gettempdir()) / FOLDER) as place:
        told = False
        while True:
            with contextlib.ExitStack() as held:
                got: list[str] = []
                for card in cards:
                    if len(got) < count and held.enter_context(_locked(place, f"gpu-{card.replace('/', '-')}.lock")):
                        got.append(card)
                if len(got) == count:
                    yield got
                    return
            if not told:
                say(f"waiting for {count} of {len(cards)} GPUs: other trainings on this machine hold them")
                told = True
            time.sleep(every)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open the folder of locks, which is made where it is missing. UserError where it is not safe."""
    try:
        folder.mkdir()
        made = True
    except FileExistsError:
        made = False
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(
            f"{folder} is no folder that GPU locks can lie in ({error.strerror}; a link is not followed): {MEND}"
        ) from None
    try:
        found = os.fstat(place)
        ours, sticky = found.st_uid == os.geteuid(), bool(found.st_mode & stat.S_ISVTX)
        open_to_others = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not sticky
        if ours and (made or open_to_others):  # earlier versions made it without the sticky bit
            os.fchmod(place, SHARED)
        elif open_to_others or not (ours or sticky or found.st_uid == 0):
            raise UserError(
                f"{folder} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}, so GPU locks in "
                f"it can be exchanged: {MEND}"
            )
        yield place
    finally:
        os.close(place)


@contextlib.contextmanager
def _locked(place: int, name: str) -> Iterator[bool]:
    """Hold the lock `name` of a folder; False where another process holds it. It goes with the process."""
    try:
        lock = _open_lock(place, name)
    except OSError as error:
        raise UserError(f"the GPU lock {name} cannot be opened ({error.strerror}): {MEND}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _open_lock(place: int, name: str) -> int:
    """Open a lock file for reading; one that is missing is made, readable by every user."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(name, flags, dir_fd=place)
    except FileNotFoundError:
        try:
            lock = os.open(name, flags | os.O_CREAT | os.O_EXCL, READABLE, dir_fd=place)
        except FileExistsError:  # another process was first
            return os.open(name, flags, dir_fd=place)
        os.fchmod(lock, READABLE)  # whatever the umask
        return lock
