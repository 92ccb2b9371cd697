"""GPU leases, so that trainings of several lakes and users on one machine never share a GPU.

The locks are in one folder for all users of the machine. Others can write there, so nothing in it is trusted. The
folder must not be a link; it must be ours, or sticky (1777, like /tmp), or root's and closed to others' writing. Locks
are opened read-only and never through a link, and this process changes modes only of what it owns. The worst that
another user can do there is hold a lock; training then waits and says so.
"""

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
SHARED, READABLE = 0o1777, 0o644  # modes of the folder and of a lock: flock needs no write permission


def cards_here() -> list[str]:
    """List the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a GPU."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


@contextlib.contextmanager
def leased(
    cards: list[str], count: int, say: Callable[[str], None], folder: Path | None = None, every: float = 1.0
) -> Iterator[list[str]]:
    """Hold a lease on `count` of `cards` (none if there are none), waiting until as many are free.

    A lease is a file lock, so it ends with the process that holds it, however that ends. All or none are taken: two
    processes that each wait for the other's second card would wait for ever.

    Args:
        cards: Names of the GPUs here.
        count: Number of GPUs to hold.
        say: Called once with a message if it has to wait.
        folder: Folder of the locks; by default one in the machine's temporary folder.
        every: Seconds between attempts.

    Yields:
        The names of the GPUs that are held.

    Raises:
        UserError: There are fewer GPUs than asked for, or the folder of locks is not safe.
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
    """Open the folder of locks, creating it if missing; UserError if it is not safe."""
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
        if ours and (made or open_to_others):  # earlier versions created it without the sticky bit
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
    """Hold the lock `name`, released with the process at the latest; yield False if another process holds it."""
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
    """Open a lock file for reading; create a missing one, readable by every user."""
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
