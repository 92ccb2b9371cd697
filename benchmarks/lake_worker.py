"""Workers of kill_s3_workers.py --lake-alone: make 40 artefacts in a bucket that nobody has made or is making.

Each artefact takes about a second and has four files of half a megabyte, of which one is the same in all. This process
has imported everything and forks a worker for each line `HOST MIRROR SEED` that it reads, in a process namespace and
under a host name of its own; it writes the worker's process id, and `HOST CODE` at its end.
"""

import ctypes
import os
import random
import socket
import sys
import time

import s3fs  # noqa: F401

from iot_pipeline.lake.artefact_log import BusyError
from iot_pipeline.lake.atomic import write_bytes
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import load_settings

SIZE = 500_000


def make(lake: Lake, artefact: ArtefactId, seed: str) -> None:
    """Make one artefact, if it is not there once its lease is held."""
    with lake.claimed([artefact]):
        if lake.manifest(artefact) is not None:
            return
        with lake.replacing(artefact) as folder:
            for number in range(4):
                draw = random.Random(f"{artefact} {number}" if number else seed)
                write_bytes(folder / f"{number}.bin", draw.randbytes(SIZE))
                time.sleep(0.25)
            manifest = Manifest(artefact.asset, artefact.partition, "", "1", {}, {"setting seed": seed}, {})
            finish_artefact(folder, manifest, set())


def main() -> None:
    """Fork workers as standard input says."""
    for line in sys.stdin:
        host, mirror, seed = line.split()
        if os.fork() == 0:
            attend(host, mirror, seed)
            os._exit(0)


def attend(host: str, mirror: str, seed: str) -> None:
    """Fork one worker as a host of its own, and tell its process id and how it ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000000 | 0x04000000) != 0:  # CLONE_NEWPID, CLONE_NEWUTS
        raise OSError(ctypes.get_errno(), "unshare needs root")
    socket.sethostname(host)
    if (pid := os.fork()) == 0:
        os.environ |= {"IOT_LAKE_CACHE": mirror, "IOT_SEED": seed}
        work()
        os._exit(0)
    os.write(1, f"{host} pid {pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(1, f"{host} code {os.waitstatus_to_exitcode(status)}\n".encode())


def work() -> None:
    """Make what is left, until nothing is."""
    settings = load_settings()
    lake = Lake(settings.lake_path)
    assert lake.remote is not None
    artefacts = [ArtefactId(f"part{number:02d}-{settings.data.seed}") for number in range(40)]
    while left := [one for one in artefacts if lake.manifest(one) is None]:
        for artefact in left:
            if lake.remote.holder(artefact.file_name) is None:
                try:
                    make(lake, artefact, str(settings.data.seed))
                except BusyError:
                    continue
        time.sleep(1)


if __name__ == "__main__":
    main()
