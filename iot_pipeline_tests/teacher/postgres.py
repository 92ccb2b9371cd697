"""A PostgreSQL of the tests' own: a throw-away cluster on a unix socket, without fsync, gone at the end."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s3cr/t,w0rd"  # the cluster trusts its socket; it must be shown nowhere all the same
NUMBERS = itertools.count()


def program(name: str) -> str:
    """Path of a program of PostgreSQL; skips the test where there is none."""
    places = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    found = shutil.which(name) or (places[-1] if places else None)
    if found is None:
        pytest.skip(f"no PostgreSQL server on this machine ({name} is neither on PATH nor in /usr/lib/postgresql)")
    return found


@contextlib.contextmanager
def cluster() -> Iterator[Callable[..., str]]:
    """Makes a fresh empty database at each call (with options of CREATE DATABASE) and gives its URL."""
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install 'iot-pipeline[postgres]'")
    initdb, postgres = program("initdb"), program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a short path: that of a socket is limited
    other: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data, quiet = str(folder / "data"), {"stdout": subprocess.DEVNULL, "cwd": folder, **other}
    server = None
    try:
        subprocess.run(
            [initdb, "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            **quiet,
        )
        server = subprocess.Popen(
            [postgres, "-D", data, "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off",
             "-c", "full_page_writes=off", "-c", "shared_buffers=16MB", "-c", "log_min_messages=fatal"],
            stderr=subprocess.DEVNULL, **quiet,
        )  # fmt: skip
        admin = _connected(psycopg2, folder)

        def database(options: str = "") -> str:
            name = f"store{next(NUMBERS)}"
            admin.cursor().execute(f"CREATE DATABASE {name} {options}")
            return f"postgresql+psycopg2://tester:{PASSWORD.replace('/', '%2F')}@/{name}?host={folder}"

        yield database
        admin.close()
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # do not wait for clients
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _connected(psycopg2: Any, folder: Path) -> Any:
    for _ in range(200):
        try:
            admin = psycopg2.connect(host=str(folder), user="tester", dbname="postgres")
            admin.autocommit = True
            return admin
        except psycopg2.OperationalError:
            time.sleep(0.05)
    raise RuntimeError("PostgreSQL did not start")
