"""Leases of GPUs, so that trainings of several lakes on one machine do not meet on one card.

Belongs here: who may use which card. Does not belong here: starting a training (defs/resources.py).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from iot_pipeline.errors import UserError


def cards_here() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; none without a GPU."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _open_to_all(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError):  # another user made it, and has done this
        path.chmod(mode)


@contextlib.contextmanager
def leased(
    cards: list[str], count: int, say: Callable[[str], None], folder: Path | None = None, every: float = 1.0
) -> Iterator[list[str]]:
    """Hold `count` of `cards` (none where there are none), waiting until as many are free.

    A lease is a lock of a file, so it ends with the process that holds it, however that ends. All or none are taken:
    two that wait for each other's second card would wait for ever. The locks are those of every user of the machine.
    UserError where there are fewer cards than asked for.
    """
    if cards and count > len(cards):
        raise UserError(f"IOT_PROCESSES={count}, but there are {len(cards)} GPUs here: lower it, or leave it unset")
    place = folder or Path(tempfile.gettempdir()) / "iot_pipeline-gpus"
    place.mkdir(parents=True, exist_ok=True)
    _open_to_all(place, 0o777)
    locks = {card: FileLock(place / f"gpu-{card.replace('/', '-')}.lock") for card in cards}
    needed, told = min(count, len(cards)), False
    while True:
        with contextlib.ExitStack() as held:
            got: list[str] = []
            for card, lock in locks.items():
                if len(got) < needed:
                    with contextlib.suppress(Timeout):
                        held.enter_context(lock.acquire(blocking=False))
                        _open_to_all(Path(lock.lock_file), 0o666)
                        got.append(card)
            if len(got) == needed:
                yield got
                return
        if not told:
            say(f"waiting for {needed} of {len(cards)} GPUs: other trainings on this machine hold them")
            told = True
        time.sleep(every)
